"""A profile beside a run fills the leaderboard's speed columns, and nothing else's."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from lens_bench.perf.memory import Memory
from lens_bench.perf.profile_file import (
    PROFILE_NAME,
    Circumstances,
    Latency,
    Offline,
    OfflinePoint,
    Profile,
    Server,
    SingleStream,
    Trial,
    profile_to_json,
)
from lens_bench.perf.quantiles import Estimate
from lens_bench.perf.warmup import Warmup
from lens_bench.report.leaderboard import Leaderboard, Row, build, to_html, to_markdown, write_csv
from lens_bench.run.files import RunFiles
from lens_bench.run.manifest import read_manifest

from .made_runs import perf, score, write_run

WARM = Warmup(6, 500.0, 0.01, True)


def circumstances(*reasons: str, allocated: float | None = None) -> Circumstances:
    return Circumstances(Memory(300.0, 400.0, allocated, allocated), reasons=reasons)


def profile_of(files: RunFiles, *reasons: str, allocated: float | None = None) -> Profile:
    made = read_manifest(files)
    one, two, many = Estimate(10.0, 9.0, 11.0), Estimate(20.0, 19.0, None), tuple(float(v) for v in range(101))
    about = circumstances(*reasons, allocated=allocated)
    return Profile(
        suite=made.suite,
        split=made.split,
        suite_hash=made.suite_hash,
        model=made.model,
        weight_digest=made.weight_digest,
        digest=made.digest,
        args={},
        work={},
        knobs={"latency_bound": "p99=2s"},
        device="cuda",
        dtype="bfloat16",
        engine=None,
        hardware="Accelerator B",
        environment={},
        sees_ground_truth=False,
        seed=0,
        sessions=("now",),
        single_stream=SingleStream(
            True, 100, 1.0, WARM, Latency(one, one, two, two, many), (), 0.0, None, None, None, about
        ),
        offline=Offline(
            True,
            tuple(
                OfflinePoint(n, 3, n, n, 1.0, WARM, Estimate(rate), Estimate(3 * rate), (), 0.0, None, None, about)
                for n, rate in ((1, 4.0), (8, 30.0), (16, 29.0))
            ),
            "throughput stopped growing",
        ),
        server=Server(
            True,
            0.99,
            2000.0,
            8,
            662,
            1.0,
            Estimate(7.5, 7.3, 7.7),
            WARM,
            (Trial(7.5, 700, 90.0, one, one, 5, Estimate(7.5, 7.3, 7.7), True, True, False, 0.5, about),),
        ),
    ).judged()


def put(files: RunFiles, profile: Profile) -> None:
    (files.root / PROFILE_NAME).write_text(json.dumps(profile_to_json(profile)))


def run(root: Path) -> RunFiles:
    return write_run(root, [score(i, 0.5) for i in range(8)], speed=perf())


def board(root: Path) -> Leaderboard:
    return build(root, root / "none.csv", include=frozenset({"measured"}))


def whole(root: Path) -> Row:
    return next(row for row in board(root).rows if not row.subset)


def test_the_profile_s_figures_stand_in_the_run_s_row(tmp_path: Path) -> None:
    files = run(tmp_path)
    assert whole(tmp_path).speed == replace(whole(tmp_path).speed, profiled=False)  # type: ignore[type-var]
    put(files, profile_of(files, allocated=900.0))
    speed = whole(tmp_path).speed
    assert speed is not None and speed.profiled and speed.comparable
    assert (speed.images_per_s, speed.expressions_per_s, speed.p50_ms, speed.p99_ms) == (30.0, 90.0, 10.0, 20.0)
    assert (speed.requests_per_s, speed.bound, speed.hardware) == (7.5, "p99=2s", "Accelerator B")
    assert (speed.peak_memory_mb, speed.memory_of) == (900.0, "device")
    text = to_markdown(board(tmp_path))
    assert "Requests/s" in text and "7.50" in text
    assert "speed: profile (throughput offline, latency single-stream, requests at p99=2s)" in text
    assert "Requests/s" in to_html(board(tmp_path))


def test_doubt_about_a_profile_is_shown_as_that_about_a_run(tmp_path: Path) -> None:
    files = run(tmp_path)
    put(files, profile_of(files, "noisy: equal calls still varied by 30 %"))
    text = to_markdown(board(tmp_path))
    assert "(30.0)" in text and "(7.50)" in text
    assert "speed not comparable: offline: noisy" in text
    write_csv(board(tmp_path), tmp_path / "out.csv")
    row = next(r for r in csv.DictReader((tmp_path / "out.csv").open(encoding="utf-8")) if not r["subset"])
    assert (row["speed_from"], row["speed_comparable"], row["requests_per_s"]) == ("profile", "no", "7.5")


def test_a_search_that_is_not_finished_is_no_figure(tmp_path: Path) -> None:
    files = run(tmp_path)
    found = profile_of(files)
    assert found.server is not None
    put(files, replace(found, server=replace(found.server, complete=False)))
    speed = whole(tmp_path).speed
    assert speed is not None and speed.requests_per_s is None and speed.bound == ""


def test_without_a_throughput_no_other_is_mixed_in(tmp_path: Path) -> None:
    files = run(tmp_path)
    put(files, replace(profile_of(files), offline=None))
    speed = whole(tmp_path).speed
    assert speed is not None and speed.images_per_s is None and speed.p50_ms == 10.0
    put(files, replace(profile_of(files), offline=None, single_stream=None))
    speed = whole(tmp_path).speed
    assert speed is not None and not speed.profiled and speed.images_per_s == 5.0


@pytest.mark.parametrize("change", [{"weight_digest": "x"}, {"suite_hash": "x"}, {"digest": "x"}])
def test_a_profile_of_something_else_is_left_out_by_name(tmp_path: Path, change: dict[str, str]) -> None:
    files = run(tmp_path)
    put(files, replace(profile_of(files), **change))  # type: ignore[arg-type]
    found = board(tmp_path)
    assert whole(tmp_path).speed == replace(whole(tmp_path).speed, profiled=False)  # type: ignore[type-var]
    assert any("profile.json" in note and next(iter(change)) in note for note in found.notes)


def test_a_damaged_profile_costs_no_row(tmp_path: Path) -> None:
    files = run(tmp_path)
    (files.root / PROFILE_NAME).write_text("[]")
    assert whole(tmp_path).value == pytest.approx(0.5)
    assert any("profile.json" in note for note in board(tmp_path).notes)
