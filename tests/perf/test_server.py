"""The queue against queueing theory, and the search for the highest rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from lens_bench.perf.arrivals import poisson
from lens_bench.perf.memory import Memory
from lens_bench.perf.profile_file import Circumstances, Server, Trial
from lens_bench.perf.quantiles import Estimate
from lens_bench.perf.queueing import Bound, in_time, serve, sustained
from lens_bench.perf.server import CLOSE, LEAST, LONGEST, MOST_TRIALS, holding_rate, next_rate, server
from lens_bench.perf.warmup import WINDOW
from lens_bench.records import ImageTask

from .paper import PaperClock, bench, tasks


def trial(rate: float, capacity: float, *, kept_up: bool = True, requests: int = 700) -> Trial:
    """What a model gives whose sustained rate is known to be ``capacity``."""
    aim = Estimate(capacity, 0.99 * capacity, 1.01 * capacity) if capacity else None
    holds = kept_up and rate <= CLOSE * capacity
    about = Circumstances(Memory(None, 1.0))
    return Trial(rate, requests, 1.0, Estimate(1.0), Estimate(1.0), 0, aim, holds, kept_up, False, 0.5, about)


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


def searched(capacity: float, start: float, real: float = math.inf) -> tuple[Estimate | None, list[Trial]]:
    """The search against call times that lead to ``capacity``, and a model that keeps up below ``real``."""
    trials: list[Trial] = []
    while (rate := next_rate(trials, start)) is not None:
        trials.append(trial(rate, capacity, kept_up=rate < real))
        assert len(trials) <= MOST_TRIALS
    return holding_rate(trials), trials


@pytest.mark.parametrize("start", [0.1, 1.0, 5.0, 100.0])
def test_the_search_ends_at_the_sustained_rate(start: float) -> None:
    rate, trials = searched(5.0, start)
    assert rate == Estimate(5.0, 4.95, 5.05) and trials[-1].rate == 5.0 and len(trials) <= 2


def test_the_search_goes_on_from_any_of_its_steps() -> None:
    _, trials = searched(5.0, 1.0, real=4.0)
    assert len(trials) > 3
    for done in range(len(trials)):
        assert next_rate(trials[:done], 1.0) == trials[done].rate
    assert next_rate(trials, 1.0) is None


def test_a_model_that_does_not_do_what_its_call_times_lead_to_gets_the_rate_it_kept_up_with() -> None:
    rate, trials = searched(5.0, 1.0, real=4.2)
    assert rate is not None and rate == Estimate(trials[-1].rate) and 0.9 * 4.2 <= rate.value < 4.2


def test_where_no_rate_holds_the_search_says_so() -> None:
    rate, trials = searched(0.0, 4.0)
    assert rate is None and len(trials) == 2 and trials[1].rate < trials[0].rate


def measured(service: float, bound: Bound, concurrency: int = 1, duration: float = 60.0) -> tuple[Server, list[Server]]:
    kept: list[Server] = []
    where = bench(lambda asked: service, duration=duration)
    server(where, tasks(8), bound, concurrency, 0, None, kept.append)
    return kept[-1], kept


Service = Callable[[np.random.Generator, int], float]


def fixed(rng: np.random.Generator, size: int) -> float:
    return 0.3


def varying(rng: np.random.Generator, size: int) -> float:
    return 0.3 * float(rng.lognormal(0.0, 0.25))


def two_kinds(rng: np.random.Generator, size: int) -> float:
    return 0.2 if rng.random() < 0.8 else 0.5


def together(rng: np.random.Generator, size: int) -> float:
    return (0.1 + 0.05 * size) * float(rng.lognormal(0.0, 0.1))


def long_queue_holds(service: Service, rate: float, bound: Bound, concurrency: int) -> bool:
    """A queue of 150,000 requests, served on a clock of its own."""
    clock, rng = PaperClock(), np.random.default_rng(99)
    arrivals = poisson(rate, 150_000, 1234)
    found = serve(lambda a, b: clock.sleep(service(rng, b - a)), arrivals, concurrency, clock)
    late = sum(seconds > bound.seconds for seconds in found.latencies)
    return late <= len(arrivals) * (1 - bound.percentile) and found.seconds < 1.005 * arrivals[-1] + 2


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("service", "bound", "concurrency", "duration"),
    [
        pytest.param(fixed, Bound(0.99, 2.0), 1, 10.0, id="fixed"),
        pytest.param(varying, Bound(0.99, 2.0), 1, 150.0, id="varying"),
        pytest.param(two_kinds, Bound(0.9, 1.0), 1, 150.0, id="two kinds"),
        pytest.param(together, Bound(0.99, 1.0), 8, 100.0, id="several in a call"),
        pytest.param(fixed, Bound(0.99, 60.0), 4, 10.0, id="generous"),
    ],
)
def test_the_rate_is_within_5_percent_of_what_a_long_queue_sustains(
    service: Service, bound: Bound, concurrency: int, duration: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    kept: list[Server] = []
    where = bench(lambda asked: service(rng, len(asked)), duration=duration)
    server(where, tasks(8), bound, concurrency, seed, None, kept.append)
    found = kept[-1].rate
    assert kept[-1].complete and found is not None
    assert long_queue_holds(service, found.value / 1.05, bound, concurrency)
    assert not long_queue_holds(service, found.value * 1.05, bound, concurrency)


def test_the_sustained_rate_of_equal_calls_is_what_theory_says() -> None:
    """M/D/1: the wait in the queue exceeds 4 services at 1 % of requests (Erlang 1909)."""

    def term(load: float, services: int, k: int) -> float:
        return (load * (k - services)) ** k / math.factorial(k) * math.exp(-load * (k - services))

    def beyond(load: float, services: int) -> float:
        return 1 - (1 - load) * sum(term(load, services, k) for k in range(services + 1))

    low, high = 0.1, 0.99
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if beyond(middle, 4) < 0.01 else (low, middle)
    found = sustained({1: [0.1] * 100}, Bound(0.99, 0.5), 1, 0, 1.0)
    assert found is not None and found.value == pytest.approx(low / 0.1, rel=0.02)


def test_a_trial_has_the_requests_that_its_percentile_needs() -> None:
    found, _ = measured(0.1, Bound(0.99, 0.5), duration=10.0)
    assert found.requests_needed == 662 and found.trials[-1].requests >= 662 and found.reasons == ()


def test_fewer_requests_are_said_with_the_confidence_that_is_left() -> None:
    """Of 100 requests, one late: were 1 % late, that would happen with 0.99^100 + 100 x 0.01 x 0.99^99 = 74 %."""
    found, _ = measured(0.1, Bound(0.99, 0.5), duration=10.0)
    few = replace(found, trials=(trial(5.0, 5.0, requests=100),))
    assert few.reasons == ("100 requests in a trial give p99 a confidence of 26 %; 99 % takes 662",)


def test_a_slow_model_is_not_asked_for_longer_than_it_may_be() -> None:
    found, _ = measured(5.0, Bound(0.9, 60.0), duration=1.0)
    assert found.trials and found.reasons
    for t in found.trials:
        assert LEAST <= t.requests <= max(LEAST, math.ceil(t.rate * LONGEST))


def test_a_rate_that_the_call_times_leave_open_is_no_figure_to_compare() -> None:
    found, _ = measured(0.1, Bound(0.99, 0.5))
    wide = replace(found, rate=Estimate(5.0, 4.0, 6.25))
    assert wide.reasons == ("call times vary, so the rate is known to 25 % only",)


def test_a_generous_bound_does_not_hide_that_the_model_cannot_keep_up() -> None:
    """A queue that grows for the length of a trial stays within a bound that is longer than the trial."""
    found, _ = measured(0.1, Bound(0.99, 1e6), duration=30.0)
    assert found.rate is not None and found.rate.value < 10.1


def test_a_trial_ends_when_the_model_is_too_far_behind() -> None:
    """The bound holds whatever happens, so nobody is late; the first rate is far beyond what the model can do."""
    found, _ = measured(0.1, Bound(0.99, 1e6), duration=30.0)
    half = replace(found, complete=False, start_rate=1000.0, trials=(), rate=None)
    again: list[Server] = []
    server(bench(lambda asked: 0.1, duration=30.0), tasks(8), Bound(0.99, 1e6), 1, 0, half, again.append)
    first = again[-1].trials[0]
    assert first.rate == 1000.0 and first.cut and not first.holds
    assert first.seconds < 40.0  # of 2,000 that all 20,000 answers would have taken
    assert again[-1].rate is not None and again[-1].rate.value == pytest.approx(10.0, rel=0.05)


def test_chance_does_not_make_a_trial_too_slow() -> None:
    arrivals = [float(k) for k in range(1, 401)]
    assert in_time(450.0, arrivals, 1.0) and not in_time(500.0, arrivals, 1.0)


def test_a_trial_ends_when_those_who_wait_are_late_already() -> None:
    """A call of 10 s, and a bound of 1 s: hundreds wait too long when the first answer is there."""
    found, _ = measured(10.0, Bound(0.99, 1.0), duration=1.0)
    half = replace(found, complete=False, start_rate=100.0, trials=(), rate=None)
    again: list[Server] = []
    server(bench(lambda asked: 10.0, duration=0.2), tasks(8), Bound(0.99, 1.0), 1, 0, half, again.append)
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
    alone, several = (measured(0.1, Bound(0.9, 1.0), concurrency=c)[0].rate for c in (1, 4))
    assert alone is not None and several is not None and several.value > 2 * alone.value


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
    half = kept[0]
    server(bench(service, duration=60.0, session=2), tasks(8), Bound(0.99, 0.5), 1, 0, half, again.append)
    assert again[-1].trials[:1] == half.trials
    assert [t.rate for t in again[-1].trials] == [t.rate for t in whole.trials]
    assert again[-1].trials[1].circumstances.session == 2


def test_a_continued_search_keeps_the_concurrency_of_its_trials() -> None:
    _, kept = measured(0.1, Bound(0.99, 0.5), concurrency=1)
    sizes: set[int] = set()

    def service(batch: Sequence[ImageTask]) -> float:
        sizes.add(len(batch))
        return 0.1

    again: list[Server] = []
    server(bench(service, duration=60.0, session=2), tasks(8), Bound(0.99, 0.5), 4, 0, kept[0], again.append)
    assert again[-1].complete and again[-1].concurrency == 1 and sizes == {1}
