"""`lens-bench profile` as a user meets it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lens_bench.lock import FolderLock


def command(tiny: Any, out: Path, model: str = "full", *more: object) -> list[object]:
    where = ["--suite", tiny.card_path, "--data-root", tiny.data_root, "--out", out]
    return ["profile", *where, "--model", model, "--images", 4, *more]


QUICK = ("--duration", "0.1", "--batch-sizes", "1,4")


def test_a_profile_is_measured_shown_written_and_drawn(cli: Any, tiny: Any, tmp_path: Path) -> None:
    result = cli(*command(tiny, tmp_path, "full", *QUICK))
    assert result.returncode == 0, result.stderr
    for word in ("single-stream", "p99", "images/s", "requests/s", "offline: images a call", "busy"):
        assert word in result.stdout, word
    path = next(tmp_path.rglob("profile.json"))
    assert str(path) in result.stdout.replace("\n", "")
    assert {p.name for p in (path.parent / "profile").glob("*.png")} == {"latency.png", "throughput.png", "rate.png"}
    again = cli(*command(tiny, tmp_path, "full", *QUICK, "--json", "--no-plots"))
    assert again.returncode == 0 and "everything was measured before" in again.stderr
    content = json.loads(again.stdout)
    assert content["schema_version"] == 2 and content["path"] == str(path)
    assert content == {**json.loads(path.read_text()), "path": str(path)}


def test_scenarios_are_measured_one_by_one(cli: Any, tiny: Any, tmp_path: Path) -> None:
    first = cli(*command(tiny, tmp_path, "empty", *QUICK, "--scenario", "offline", "--json", "--no-plots"))
    assert json.loads(first.stdout)["server"] is None
    plan = cli(*command(tiny, tmp_path, "empty", *QUICK, "--dry-run"))
    assert "single-stream, server" in plan.stdout
    other = cli(*command(tiny, tmp_path, "empty", "--duration", "0.2", "--scenario", "offline"))
    assert other.returncode == 2 and "knobs" in other.stderr and "--fresh" in other.stderr


def test_a_profile_of_somebody_else_is_not_shown_as_ours(cli: Any, tiny: Any, tmp_path: Path) -> None:
    measured = cli(*command(tiny, tmp_path, "empty", *QUICK, "--scenario", "offline", "--no-plots"))
    assert measured.returncode == 0, measured.stderr
    root = next(tmp_path.rglob("profile.json")).parent
    before = {path.name for path in root.iterdir()}
    with FolderLock(root, root / ".lock"):
        for more in ((), ("--json",)):
            result = cli(*command(tiny, tmp_path, "empty", *QUICK, *more))
            assert result.returncode == 2 and "is in use by process" in result.stderr and result.stdout == ""
    assert {path.name for path in root.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--random-weights",), "cannot be built without its weights"),
        (("--latency-bound", "2s"), "pNN=TIME"),
    ],
)
def test_what_cannot_be_done_is_usage(cli: Any, tiny: Any, tmp_path: Path, options: tuple[str, ...], word: str) -> None:
    result = cli(*command(tiny, tmp_path, "full", *options))
    assert result.returncode == 2 and word in result.stderr and "hint: " in result.stderr
    assert not list(tmp_path.rglob("profile.json"))


def test_help_teaches(cli: Any) -> None:
    text = " ".join(cli("profile", "--help").stdout.split())
    for word in ("Start with: lens-bench profile", "--latency-bound", "--random-weights", "continues"):
        assert word in text, word


def test_ctrl_c_keeps_what_was_measured(cli: Any, tiny: Any, tmp_path: Path) -> None:
    arguments = command(tiny, tmp_path, "full", "--duration", "1.5", "--batch-sizes", "1,2", "--no-plots")
    child = subprocess.Popen(
        [sys.executable, "-m", "lens_bench.cli", *(str(a) for a in arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        end = time.monotonic() + 180
        while not list(tmp_path.rglob("profile.json")):
            assert child.poll() is None, f"the profile ended before it was interrupted: {child.communicate()}"
            assert time.monotonic() < end, "three minutes went by, and nothing was measured"
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        stdout, stderr = child.communicate(timeout=180)
    finally:
        child.kill()
        child.communicate()
    assert child.returncode == 130, stderr
    assert "what was measured is kept; the same command continues" in stderr
    path = next(tmp_path.rglob("profile.json"))
    kept = json.loads(path.read_text())
    assert kept["single_stream"]["complete"] and kept["server"] is None
    assert "single-stream" in stdout
    continued = cli(*arguments)
    assert continued.returncode == 0, continued.stderr
    whole = json.loads(path.read_text())
    assert whole["single_stream"] == kept["single_stream"] and whole["server"] and whole["offline"]
    assert len(whole["sessions"]) == 2
    assert "resumed: parts were measured in 2 sessions" in whole["reasons"]
