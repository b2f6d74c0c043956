"""The queue against queueing theory, and the search for the highest rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from lens_bench.perf.arrivals import poisson
from lens_bench.perf.memory import Memory
from lens_bench.perf.profile_file import Circumstances, Server, Trial
from lens_bench.perf.quantiles import Estimate
from lens_bench.perf.server import CLOSE, KEPT_UP, LEAST, MOST, Bound, holding_rate, next_rate, serve, server
from lens_bench.perf.warmup import WINDOW
from lens_bench.records import ImageTask

from .paper import PaperClock, bench, tasks


def trial(rate: float, holds: bool) -> Trial:
    return Trial(rate, 20, 1.0, Estimate(1.0), Estimate(1.0), holds, True, False, 0.5, Circumstances(Memory(None, 1.0)))


def queue(rate: float, service: float, count: int, concurrency: int = 1) -> tuple[list[float], float]:
    clock = PaperClock()
    found = serve(lambda a, b: clock.sleep(service), poisson(rate, count, 7), concurrency, clock)
    return list(found.latencies), found.busy / found.seconds


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_at_a_time_is_what_queueing_theory_says(load: float) -> None:
    """M/D/1: the mean wait in the queue is load / (2 (1 - load)) services (Pollaczek and Khinchine)."""
    waits, busy = queue(rate=load / 0.1, service=0.1, count=40_000)
    assert sum(waits) / len(waits) == pytest.approx(0.1 * (1 + load / (2 * (1 - load))), rel=0.06)
    assert busy == pytest.approx(load, rel=0.03)


def test_requests_that_wait_are_answered_together() -> None:
    clock = PaperClock()
    calls: list[tuple[int, int]] = []

    def answer(first: int, last: int) -> None:
        calls.append((first, last))
        clock.sleep(1.0)

    found = serve(answer, [0.0, 0.1, 0.2, 0.3, 5.0], 2, clock)
    assert calls == [(0, 1), (1, 3), (3, 4), (4, 5)]
    assert found.latencies == pytest.approx((1.0, 1.9, 1.8, 2.7, 1.0), abs=1e-6)
    assert found.longest == pytest.approx(1.0) and not found.cut and found.busy == pytest.approx(4.0, abs=1e-6)


def test_a_hopeless_trial_is_cut() -> None:
    clock = PaperClock()
    found = serve(lambda a, b: clock.sleep(1.0), [0.1] * 50, 1, clock, lambda sofar: len(sofar.latencies) >= 3)
    assert found.cut and len(found.latencies) == 3


def searched(capacity: float, start: float) -> tuple[float | None, list[Trial]]:
    """The search against a model that holds exactly below ``capacity``."""
    trials: list[Trial] = []
    while (rate := next_rate(trials, start)) is not None:
        trials.append(trial(rate, rate < capacity))
        assert len(trials) < 60
    return holding_rate(trials), trials


@pytest.mark.parametrize("start", [0.1, 1.0, 7.0, 100.0])
def test_the_search_ends_close_below_the_capacity(start: float) -> None:
    rate, trials = searched(5.0, start)
    assert rate is not None and 5.0 / CLOSE**1.01 <= rate < 5.0
    assert len({t.rate for t in trials}) == len(trials)


def test_the_search_goes_on_from_any_of_its_steps() -> None:
    _, trials = searched(5.0, 1.0)
    for done in range(len(trials)):
        assert next_rate(trials[:done], 1.0) == trials[done].rate
    assert next_rate(trials, 1.0) is None


def test_where_no_rate_holds_the_search_says_so() -> None:
    rate, trials = searched(0.0, 4.0)
    assert rate is None and min(t.rate for t in trials) >= 4.0 / 64


def test_noise_does_not_let_a_rate_above_a_failing_one_win() -> None:
    assert holding_rate([trial(1.0, True), trial(2.0, False), trial(3.0, True)]) == 1.0


def measured(service: float, bound: Bound, concurrency: int = 1, duration: float = 60.0) -> tuple[Server, list[Server]]:
    kept: list[Server] = []
    where = bench(lambda asked: service, duration=duration)
    server(where, tasks(8), bound, concurrency, 0, None, kept.append)
    return kept[-1], kept


def test_a_model_of_known_speed_holds_what_theory_allows() -> None:
    """Of a queue M/D/1, 1 % of waits exceed four services at a load of about a half (0.0066 at exactly a half)."""
    found, kept = measured(0.1, Bound(0.99, 0.5), duration=2000.0)
    assert found.complete and found.rate is not None and found.warmup is not None and found.warmup.settled
    assert 4.5 < found.rate < 6.0
    holding = next(t for t in found.trials if t.rate == found.rate)
    assert holding.holds and holding.kept_up and holding.latency_ms.value <= 500
    assert [len(k.trials) for k in kept[:-1]] == list(range(1, len(found.trials) + 1))


def test_a_generous_bound_does_not_hide_that_the_model_cannot_keep_up() -> None:
    """A queue that grows for the length of a trial stays within a bound that is longer than the trial."""
    found, _ = measured(0.1, Bound(0.99, 1e6), duration=30.0)
    assert found.rate is not None and found.rate < 10.6
    assert any(not t.kept_up and not t.holds for t in found.trials)


def arrived(t: Trial, duration: float) -> float:
    """When the last request of a trial came."""
    return poisson(t.rate, min(MOST, max(LEAST, round(t.rate * duration))), 0)[-1]


def test_a_trial_ends_when_the_model_is_too_far_behind() -> None:
    """The bound holds whatever happens, so nobody is late; the first rates are far beyond what the model can do."""
    kept = [measured(0.1, Bound(0.99, 1e6), duration=30.0)[0]]
    half = replace(kept[0], start_rate=1000.0, trials=(), rate=None)
    again: list[Server] = []
    server(bench(lambda asked: 0.1, duration=30.0), tasks(8), Bound(0.99, 1e6), 1, 0, half, again.append)
    first = again[-1].trials[0]
    assert first.rate == 1000.0 and first.cut and not first.holds
    for t in again[-1].trials:
        assert t.seconds <= KEPT_UP * arrived(t, 30.0) + 4 * 0.1


def test_a_trial_ends_when_those_who_wait_are_late_already() -> None:
    """A call of 10 s, and a bound of 1 s that half may miss: 19 wait too long when the first answer is there."""
    found, _ = measured(10.0, Bound(0.5, 1.0), duration=1.0)
    half = replace(found, complete=False, start_rate=100.0, trials=(), rate=None)
    again: list[Server] = []
    server(bench(lambda asked: 10.0, duration=0.2), tasks(8), Bound(0.5, 1.0), 1, 0, half, again.append)
    assert again[0].trials[0].cut and again[0].trials[0].requests == 1


def test_the_search_starts_from_several_calls() -> None:
    """One call that is quick by chance, the last before the trials, is not what the start is made of."""
    clock = PaperClock()
    calls = 0

    def service(asked: Sequence[ImageTask]) -> float:
        nonlocal calls
        calls += 1
        return 0.1 if calls != WINDOW + 2 else 0.001

    kept: list[Server] = []
    server(bench(service, clock=clock), tasks(8), Bound(0.99, 0.5), 1, 0, None, kept.append)
    assert kept[-1].start_rate == pytest.approx(5.0)


def test_waits_in_a_queue_have_no_interval() -> None:
    """They depend on each other, and an interval for independent samples would be far too narrow."""
    found, _ = measured(0.1, Bound(0.9, 1.0))
    assert found.trials
    assert all(e.low is None and e.high is None for t in found.trials for e in (t.latency_ms, t.p50_ms))


def test_answering_together_raises_the_rate() -> None:
    alone, together = (measured(0.1, Bound(0.9, 1.0), concurrency=c)[0].rate for c in (1, 4))
    assert alone is not None and together is not None and together > 2 * alone


def test_a_bound_below_the_service_time_holds_at_no_rate() -> None:
    found, _ = measured(1.0, Bound(0.5, 0.2))
    assert found.complete and found.rate is None and all(t.cut or not t.holds for t in found.trials)


def test_an_interrupted_search_continues_with_the_trials_it_has() -> None:
    whole, kept = measured(0.1, Bound(0.99, 0.5))
    asked: list[float] = []

    def service(batch: Sequence[ImageTask]) -> float:
        asked.append(1.0)
        return 0.1

    again: list[Server] = []
    half = kept[2]
    server(bench(service, duration=60.0, session=2), tasks(8), Bound(0.99, 0.5), 1, 0, half, again.append)
    assert again[-1].trials[:3] == half.trials
    assert [t.rate for t in again[-1].trials] == [t.rate for t in whole.trials]
    assert again[-1].trials[3].circumstances.session == 2


def test_a_continued_search_keeps_the_concurrency_of_its_trials() -> None:
    _, kept = measured(0.1, Bound(0.99, 0.5), concurrency=1)
    sizes: set[int] = set()

    def service(batch: Sequence[ImageTask]) -> float:
        sizes.add(len(batch))
        return 0.1

    again: list[Server] = []
    server(bench(service, duration=60.0, session=2), tasks(8), Bound(0.99, 0.5), 4, 0, kept[2], again.append)
    assert again[-1].complete and again[-1].concurrency == 1 and sizes == {1}


def test_a_slow_model_is_asked_often_enough() -> None:
    found, _ = measured(5.0, Bound(0.9, 60.0), duration=1.0)
    assert all(t.requests == LEAST or t.cut for t in found.trials)
    assert replace(found, trials=()).rate == found.rate
