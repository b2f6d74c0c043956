"""The benchmark for machines with a GPU: its judgement on made-up results, and all of it on tiny models."""

from __future__ import annotations

import copy
import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def profile() -> dict[str, Any]:
    """As ``lens-bench profile`` writes it, reduced to what is looked at."""
    stage = {"name": "answer", "mean_ms": 3.0, "share": 0.75}
    roof, value = {"mfu": 0.4}, {"value": 4.0}
    point = {"batch_images": 4, "images_per_s": value, "expressions_per_s": value, "stages": [stage], "roof": roof}
    point["circumstances"] = {"memory": {"peak_allocated_mb": 2048.0}}
    single = {"complete": True, "latency_ms": {"p50": value, "p99": value}, "stages": [stage], "roof": roof}
    return {"device": "cuda:0", "single_stream": single, "offline": {"complete": True, "points": [point]}}


def speeds(texts: int = 0, flipped: float = 0.0, loop: float = 1.0, eager: float = 2.5) -> dict[str, Any]:
    mode = {"engine_per_second": 5.0, "loop_per_second": loop, "generate_per_second": 1.0, "ratio": 5.0, "target": 4.0}
    mode |= {"generate_ratio": 5.0, "texts_that_differ": texts, "largest_share_of_flipped_pixels": flipped}
    ways = [{"way": way, "per_second": s, "answer_seconds": 0.5 / s} for way, s in (("graphs", 5.0), ("eager", eager))]
    return {"mrope": mode | {"decoding": ways, "expressions": 10}}


@pytest.fixture(scope="module")
def parts() -> ModuleType:
    return _module("parts")


@pytest.fixture(scope="module")
def drive() -> ModuleType:
    return _module("drive")


def _module(name: str) -> ModuleType:
    """A module of ``benchmarks/gpu``, which is run as a script and no package."""
    folder = str(ROOT / "benchmarks" / "gpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        return importlib.import_module(name)


def test_a_gpu_gets_what_was_asked_for_within_ten_minutes(parts: ModuleType, tmp_path: Path) -> None:
    found = list(parts.parts("full", parts.Where("cuda", tmp_path, tmp_path)))
    models = {"lens-3b", "lisa-7b", "glamm-refseg", "qwen2.5-vl-3b+sam2"}
    assert {part.name for part in found} == {"agreement", "engine", "stage2"} | {f"profile-{m}" for m in models}
    for part in found:
        first = part.command[0]
        assert first == "-m" or Path(first).is_file()
        assert "cuda" in part.command or part.name == "stage2"
        assert ("--random-weights" in part.command) == part.name.startswith("profile")
        assert ("graphs,eager" in part.command) == (part.name in ("agreement", "engine"))
    assert len({part.folder for part in found}) == len(found)


def test_a_profile_is_judged(parts: ModuleType) -> None:
    assert parts.check_profile(profile()) == []
    rows = dict(parts.profile_rows(profile()))
    assert rows["offline"] == "4 expressions/s (4 images a call)" and rows["MFU single-stream"] == "40 %"
    assert rows["offline peak memory"] == "2 GiB" and rows["offline: answer"] == "3 ms, 75 %"
    impossible, half, nothing = profile(), profile(), profile()
    impossible["offline"]["points"][0]["roof"] = {"mfu": 1.5}
    half["single_stream"]["complete"] = False
    nothing["offline"]["points"][0]["images_per_s"] = None
    for wrong, what in ((impossible, "1.50"), (half, "single-stream"), (nothing, "offline")):
        assert [c for c in parts.check_profile(wrong) if what in c], what
    assert parts.check_profile(impossible | {"device": "cpu"}) == []
    unknown = copy.deepcopy(profile())
    unknown["single_stream"]["roof"] = None
    assert parts.check_profile(unknown) == []


def test_speeds_are_judged(parts: ModuleType) -> None:
    assert parts.check_agreement(speeds()) == parts.check_speeds(speeds(texts=3)) == []
    assert parts.check_agreement(speeds(texts=1)) and parts.check_agreement(speeds(flipped=0.01))
    assert parts.check_speeds(speeds(loop=0.0)) and parts.check_speeds({})
    assert parts.check_speeds(speeds(eager=float("inf"))) == ["mrope: decoding eager is inf"]
    rows = dict(parts.lens_rows(speeds()))
    assert rows["mrope: against the authors' loop"] == "5x (target 4x)"
    assert rows["mrope: decoding graphs"] == "5 expressions/s, answers 10 ms each"
    assert rows["mrope: decoding eager"] == "2.5 expressions/s, answers 20 ms each"


def _part(parts: ModuleType, tmp_path: Path, code: str, **more: Any) -> Any:
    def check(found: dict[str, Any]) -> list[str]:
        return found["wrong"]

    settings: dict[str, Any] = {"seconds": 30.0, "check": check, "rows": lambda found: [("a", "b")]} | more
    return parts.Part("x", ("-c", code), tmp_path, "out.json", **settings)


def test_what_becomes_of_a_part(parts: ModuleType, drive: ModuleType, tmp_path: Path) -> None:
    writes = f"import pathlib; pathlib.Path({str(tmp_path / 'out.json')!r}).write_text(%r)"
    fails = _part(parts, tmp_path, "import sys; sys.stderr.write('no memory'); sys.exit(3)")
    assert drive.run_part(fails, 30).wrong == ("exit status 3", "no memory")
    assert drive.run_part(fails, 0).wrong == ("not run: the time is over",)
    slow = _part(parts, tmp_path, "import time; time.sleep(60)", seconds=0.2)
    assert "stopped" in drive.run_part(slow, 30).wrong[0]
    good = writes % json.dumps({"wrong": []})
    fine = drive.run_part(_part(parts, tmp_path, good), 30)
    assert fine.wrong == () and fine.rows == (("a", "b"),) and fine.result == {"wrong": []}
    # An exit status that speaks of a missed target is no failure; another one is.
    missed = good + "; raise SystemExit(1)"
    assert drive.run_part(_part(parts, tmp_path, missed, judges=True), 30).wrong == ()
    assert drive.run_part(_part(parts, tmp_path, missed), 30).wrong[0] == "exit status 1"
    bad = drive.run_part(_part(parts, tmp_path, writes % json.dumps({"wrong": ["MFU of 2"]})), 30)
    assert bad.wrong == ("MFU of 2",) and bad.rows == ()
    torn = drive.run_part(_part(parts, tmp_path, writes % '{"wr'), 30)
    assert "unreadable" in torn.wrong[0] and torn.result is None


def test_results_are_written_by_device(drive: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "fingerprint", lambda device: "NVIDIA H200, 143771 MiB, 570.1")
    assert drive.slug("cuda") == "nvidia-h200"
    outcomes = [
        drive.Outcome("a", 1.0, (), {"x": 1}, (("speed", "3 /s"),)),
        drive.Outcome("b", 2.0, ("stopped",), None),
    ]
    drive.write(tmp_path, "cuda", outcomes)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "summary.json", "table.md"]
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "| a | speed | 3 /s |" in text and "| b | not measured | stopped |" in text
    found = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["parts"]
    assert [part["wrong"] for part in found] == [[], ["stopped"]]


@pytest.mark.slow
def test_all_of_it_on_tiny_models(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu" / "drive.py"), "--device", "cpu", "--size", "tiny"]
    command += ["--minutes", "20", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = tmp_path.iterdir()
    found = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert {part["name"] for part in found["parts"]} >= {"agreement", "profile-lens-3b", "profile-lisa-7b", "stage2"}
    assert all(not part["wrong"] and part["figures"] for part in found["parts"])
    assert sum(p.stat().st_size for p in folder.iterdir()) < 2**20
