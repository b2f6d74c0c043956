"""Figures of a profile: drawn from what it holds, the same bytes from the same data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from lens_bench.perf.profile_file import Profile
from lens_bench.perf.quantiles import Estimate
from lens_bench.perf.stages import OTHER, Stage
from lens_bench.report.plots.profile import draw_profile

from ..made_runs import score, write_run
from ..test_profile_columns import profile_of


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    found = profile_of(write_run(tmp_path / "run", [score(0, 0.5)]))
    assert found.single_stream is not None
    flat = Estimate(1.0)
    names = [*(f"stage {n}" for n in range(9)), OTHER]
    stages = tuple(Stage(name, 1.0, flat, flat, flat, 0.1) for name in names)
    return replace(found, single_stream=replace(found.single_stream, stages=stages))


def test_a_figure_for_everything_that_was_measured(profile: Profile, tmp_path: Path) -> None:
    paths = draw_profile(profile, tmp_path / "out")
    assert {p.stem for p in paths} == {"latency", "throughput", "rate", "stages"}
    for path in paths:
        assert path.stat().st_size > 1000
        if path.suffix == ".png":
            assert Image.open(path).width > 300


def test_the_same_data_gives_the_same_bytes(profile: Profile, tmp_path: Path) -> None:
    first, second = (draw_profile(profile, tmp_path / name) for name in ("a", "b"))
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_nothing_measured_is_nothing_drawn(profile: Profile, tmp_path: Path) -> None:
    nothing = replace(profile, single_stream=None, offline=None, server=None)
    assert draw_profile(nothing, tmp_path / "out") == []
    assert {p.stem for p in draw_profile(replace(profile, offline=None), tmp_path / "less")} == {
        "latency",
        "rate",
        "stages",
    }


def test_doubt_is_written_under_the_figure(profile: Profile, tmp_path: Path) -> None:
    sure = draw_profile(replace(profile, comparable=True), tmp_path / "sure")
    doubt = draw_profile(replace(profile, comparable=False), tmp_path / "doubt")
    assert all(a.read_bytes() != b.read_bytes() for a, b in zip(sure, doubt, strict=True))


def test_long_words_under_a_figure_are_broken(profile: Profile, tmp_path: Path) -> None:
    """A line that is wider than the figure would lose both ends."""
    work = {"image_size": "320x240", "new_tokens": "4", "weights": "random"}
    draw_profile(replace(profile, model="a-model-with-a-long-name", work=work), tmp_path)
    drawn = (tmp_path / "latency.svg").read_text()
    assert "a-model-with-a-long-name, image_size 320x240," in drawn
    assert "new_tokens 4, weights random" in drawn
    assert "320x240, new_tokens" not in drawn
