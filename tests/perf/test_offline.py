"""The sweep over batch sizes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import pytest

from lens_bench.errors import OutOfMemoryError
from lens_bench.out_of_memory import count_halving
from lens_bench.perf.offline import batches, offline, sizes, stopped_growing
from lens_bench.perf.profile_file import Offline
from lens_bench.records import ImageTask

from .paper import bench, tasks


def saturating(asked: Sequence[ImageTask]) -> float:
    """A second of overhead a call, then 0.1 s a picture, but never faster than 0.37 s each beyond four."""
    return 1.0 + 0.1 * len(asked) if len(asked) <= 4 else 0.37 * len(asked)


def swept(given: Sequence[int] = (), count: int = 64, done: Offline | None = None, **more: object) -> list[Offline]:
    kept: list[Offline] = []
    offline(bench(saturating, **more), tasks(count, queries=3), given, done, kept.append)  # type: ignore[arg-type]
    return kept


def test_it_ends_when_throughput_stops_growing() -> None:
    found = swept()[-1]
    assert [p.batch_images for p in found.points] == [1, 2, 4, 8, 16]
    assert found.complete and found.ended == "throughput stopped growing"
    assert found.best is not None and found.best.batch_images == 4
    best = found.best
    assert best.images_per_s is not None and best.images_per_s.value == pytest.approx(4 / 1.4)
    assert best.expressions_per_s is not None and best.expressions_per_s.value == pytest.approx(12 / 1.4)
    assert best.images == 4 * best.calls and best.expressions == 3 * best.images


def test_all_given_sizes_are_measured() -> None:
    found = swept(given=(16, 1, 8))[-1]
    assert [p.batch_images for p in found.points] == [16, 1, 8]
    assert found.ended == "all batch sizes measured"


def test_pictures_limit_the_sweep() -> None:
    found = swept(count=3)[-1]
    assert [p.batch_images for p in found.points] == [1, 2] and "no more pictures: 3" in found.ended


def test_what_does_not_fit_ends_the_sweep_and_is_kept() -> None:
    def small(asked: Sequence[ImageTask]) -> float:
        if len(asked) > 2:
            raise OutOfMemoryError("no room")
        return 0.1

    kept: list[Offline] = []
    offline(bench(small), tasks(8), (), None, kept.append)
    found = kept[-1]
    assert [p.fits for p in found.points] == [True, True, False]
    assert found.complete and "4 pictures a call do not fit" in found.ended
    assert found.best is not None and found.best.batch_images == 2


def test_batches_halved_inside_the_model_speak_against_all_that_follows() -> None:
    def tight(asked: Sequence[ImageTask]) -> float:
        if len(asked) == 2:
            count_halving("masks")
        return 0.1

    kept: list[Offline] = []
    offline(bench(tight), tasks(8), (1, 2, 4), None, kept.append)
    halved = ["out of memory: fewer masks at once inside the model" in p.circumstances.reasons for p in kept[-1].points]
    assert halved == [False, True, True]


def test_an_interrupted_sweep_measures_only_what_is_missing() -> None:
    half = swept()[2]
    assert not half.complete and len(half.points) == 3
    asked: list[int] = []

    def counting(batch: Sequence[ImageTask]) -> float:
        asked.append(len(batch))
        return saturating(batch)

    kept: list[Offline] = []
    offline(bench(counting, session=2), tasks(64, 3), (), half, kept.append)
    assert kept[-1].points[:3] == half.points and set(asked) == {8, 16}
    assert [p.circumstances.session for p in kept[-1].points] == [1, 1, 1, 2, 2]


def test_growth_is_judged_over_two_sizes() -> None:
    assert not stopped_growing([1.0, 1.0])
    assert stopped_growing([1.0, 1.0, 1.01])
    assert not stopped_growing([1.0, 0.9, 1.03])


def test_batches_go_round_without_leaving_a_picture_out() -> None:
    found = [[t.image_id for t in batch] for batch in islice(batches(tasks(3), 2), 3)]
    assert found == [["i0", "i1"], ["i2", "i0"], ["i1", "i2"]]
    assert list(sizes((), 9)) == [1, 2, 4, 8] and list(sizes((3, 5), 9)) == [3, 5]
