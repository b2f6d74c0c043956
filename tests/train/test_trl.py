"""A whole step against TRL's trainer: same prompts, same log-probabilities, same loss, same gradients.

Needs TRL (``tox -e trl``). There it must run: a version whose private loss asks for something else is a failure.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.trl
def test_a_step_is_trls_step(tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="TRL, the oracle, is not installed")
    out = tmp_path / "found.json"
    script = ROOT / "benchmarks" / "train" / "grpo_step.py"
    command = [sys.executable, str(script), "--size", "toy", "--rounds", "1", "--target", "0", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    settings = json.loads(out.read_text(encoding="utf-8"))["settings"]
    assert {bool(s["beta"]) for s in settings} == {True, False}
    assert {s["vision"] for s in settings} == {True, False}
    for setting in settings:
        found = setting["differences"]
        assert setting["agree"] and ("reference" in found) == bool(setting["beta"])
        # The reference was moved away from the policy, so the loss is not trivially 0.
        assert not setting["beta"] or abs(found["their_loss"]) > 1e-4
