"""What figures are measured on."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from lens_bench.perf.hardware import environment, fingerprint, git_state, peak_rss_mb

ROOT = Path(__file__).resolve().parents[2]


def test_environment_names_what_a_result_depends_on() -> None:
    found = environment()
    assert found["packages"]["numpy"]
    assert found["python"]
    assert found["cores"] >= 1
    assert peak_rss_mb() > 10
    assert f"{found['cores']} cores" in fingerprint("cpu")


@pytest.mark.skipif(not (ROOT / ".git").exists() or not shutil.which("git"), reason="not in a git checkout")
def test_environment_has_the_commit_of_the_checkout() -> None:
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert environment()["git"]["commit"] == head.strip()


def test_state_of_a_checkout(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("1")
    for command in (["init", "-q"], ["add", "file"], [*identity, "commit", "-qm", "one"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    clean = git_state(tmp_path)
    assert clean is not None
    assert clean["dirty"] is False
    (tmp_path / "file").write_text("2")
    assert git_state(tmp_path) == {"commit": clean["commit"], "dirty": True}
