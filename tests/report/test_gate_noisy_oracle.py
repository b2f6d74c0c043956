"""The gate as a user meets it: noisy oracles on a generated suite, through the command line."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.slow
def test_a_fifth_of_a_point_passes_and_two_points_fail(tmp_path: Path, cli: Cli) -> None:
    """The masks of the second oracle are moved by up to 1.5 % further, those of the third by up to 15 %."""
    (tmp_path / "data").mkdir()
    where = ("--suite", "shapes", "--split", "testA", "--data-root", tmp_path / "data")
    runs = []
    for shift in (4.0, 4.06, 4.6):
        oracle = ("--model", "noisy-oracle", "--model-arg", f"shift={shift}", "--out", tmp_path / str(shift))
        done = cli("run", *where, *oracle)
        assert done.returncode == 0, done.stderr
        (manifest,) = (tmp_path / str(shift)).rglob("manifest.json")
        runs.append(manifest.parent)
    reference = tmp_path / "gate.json"
    assert cli("gate", runs[0], "--against", reference, "--update").returncode == 0

    small = cli("gate", runs[1], "--against", reference, "--strict", "--json")
    assert small.returncode == 0, small.stderr
    verdict = json.loads(small.stdout)
    assert verdict["answer"] == "pass"
    assert -0.004 < verdict["quality"]["delta"] < 0
    assert verdict["quality"]["ci95"][1] < 0, "the loss is no chance, but smaller than the margin"

    large = cli("gate", runs[2], "--against", reference, "--json")
    assert large.returncode == 3
    verdict = json.loads(large.stdout)
    assert verdict["answer"] == "regression"
    assert -0.03 < verdict["quality"]["delta"] < -0.01

    same = cli("gate", runs[0], "--against", reference, "--strict", "--json")
    assert same.returncode == 0, same.stderr
    assert json.loads(same.stdout)["quality"]["delta"] == 0
