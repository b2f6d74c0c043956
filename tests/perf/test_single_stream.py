"""Latency, one after the other; and warming up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from lens_bench.perf.profile_file import SingleStream
from lens_bench.perf.single_stream import LEAST, latency_of, single_stream
from lens_bench.perf.warmup import WINDOW, warm_up
from lens_bench.records import ImageTask

from .paper import PaperClock, bench, tasks


def measured(seconds: float = 0.1, duration: float = 10.0, **more: object) -> SingleStream:
    kept: list[SingleStream] = []
    single_stream(bench(lambda _: seconds, duration=duration, **more), tasks(4), kept.append)  # type: ignore[arg-type]
    return kept[-1]


def test_latencies_of_a_steady_model() -> None:
    found = measured()
    assert found.complete and found.calls == 100 and found.seconds == pytest.approx(10)
    assert found.latency_ms.p50.value == found.latency_ms.p99.value == pytest.approx(100)
    assert found.latency_ms.p99.high is None  # a hundred calls cannot bound a 99th percentile from above
    assert found.tokens == 4 and found.warmup.settled and found.roof is None


def test_a_slow_model_is_asked_at_least_so_often() -> None:
    assert measured(seconds=60.0, duration=1.0).calls == LEAST


def test_every_picture_is_asked_about_in_turn_one_at_a_time() -> None:
    asked: list[str] = []

    def note(batch: Sequence[ImageTask]) -> float:
        assert len(batch) == 1
        asked.append(batch[0].image_id)
        return 0.5

    kept: list[SingleStream] = []
    single_stream(bench(note, duration=4.0), tasks(4), kept.append)
    assert asked[-10:] == ["i0", "i1", "i2", "i3"] * 2 + ["i0", "i1"]


def test_the_curve_is_the_distribution() -> None:
    found = latency_of([float(v) for v in range(1, 201)])
    assert found.curve[0] == 1 and found.curve[100] == 200 and found.curve[50] == found.p50.value == 100
    assert list(found.curve) == sorted(found.curve) and len(found.curve) == 101


def test_an_interruption_keeps_what_was_measured_and_says_so() -> None:
    calls = iter(range(1000))

    def impatient(batch: Sequence[ImageTask]) -> float:
        if next(calls) == 25:
            raise KeyboardInterrupt
        return 0.1

    kept: list[SingleStream] = []
    with pytest.raises(KeyboardInterrupt):
        single_stream(bench(impatient), tasks(4), kept.append)
    assert len(kept) == 1 and not kept[0].complete and 0 < kept[0].calls < 25
    assert "interrupted" in kept[0].circumstances.reasons


def test_calls_that_never_settle_are_noisy() -> None:
    times = iter([0.1, 0.3] * 5000)
    kept: list[SingleStream] = []
    single_stream(bench(lambda _: next(times)), tasks(2), kept.append)
    assert any(r.startswith("noisy: equal calls still varied by") for r in kept[0].circumstances.reasons)


def test_a_coarse_clock_is_named() -> None:
    found = measured(seconds=0.001, clock=PaperClock(reading=0.0005), duration=1.0)
    assert any("too coarse" in r for r in found.circumstances.reasons)


def times(*values: float) -> Iterator[float]:
    yield from values
    while True:
        yield values[-1]


def test_warm_up_goes_on_until_calls_are_alike() -> None:
    source = times(9.0, 1.0, 0.5, 0.3, 0.2, 0.1)
    found = warm_up(lambda: next(source), PaperClock(), limit_s=1e9)
    assert found.first_call_ms == 9000 and found.settled and found.calls == 5 + WINDOW
    assert found.variation == 0


def test_the_first_call_is_never_among_the_judged() -> None:
    found = warm_up(lambda: 1.0, PaperClock(), limit_s=1e9)
    assert found.calls == WINDOW + 1


def test_warm_up_ends_at_its_limits() -> None:
    clock = PaperClock()
    noise = iter([0.1, 0.9] * 500)

    def call() -> float:
        taken = next(noise)
        clock.sleep(taken)
        return taken

    late = warm_up(call, clock, limit_s=3.0)
    assert not late.settled and late.variation is not None and late.variation > 0.5 and late.calls <= WINDOW + 4
    assert warm_up(call, clock, limit_s=1e9, most=20).calls == 20
