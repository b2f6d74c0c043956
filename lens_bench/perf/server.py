"""Server: requests come by themselves; the highest rate at which a latency percentile keeps its bound, by search.

A request is one expression on one picture. Requests wait in one queue; the model takes as many as have arrived, at most
``concurrency``, and answers them in one call. Latency is from arrival to answer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from lens_bench.perf.arrivals import poisson
from lens_bench.perf.bench import Bench, Measured
from lens_bench.perf.clock import Clock
from lens_bench.perf.profile_file import Server, Trial
from lens_bench.perf.quantiles import Estimate, percentile, rank
from lens_bench.perf.warmup import WINDOW, warm_up
from lens_bench.records import ImageTask

LEAST, MOST = 20, 20_000
# The search ends when the rates that hold and fail lie this close together.
CLOSE = 1.05
# Rates below this share of the first one are not tried: then no rate holds.
HOPELESS = 1 / 64
# Answering may take so much longer than arriving, beside the last calls.
KEPT_UP = 1.05


@dataclass(frozen=True, slots=True)
class Bound:
    """What has to hold: a percentile (0 to 1) of latency within so many seconds."""

    percentile: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Served:
    """What a queue did.

    Attributes:
        latencies: Seconds from arrival to answer, in the order of arrival; of the answered requests.
        seconds: From the first moment to the last answer.
        busy: Seconds in which a call was under way; ``longest`` of one call.
        cut: Ended before all requests were answered.
    """

    latencies: tuple[float, ...]
    seconds: float
    busy: float
    longest: float
    cut: bool

    def kept_up(self, arriving: float) -> bool:
        """Whether the model answers as fast as requests come, here within ``arriving`` seconds.

        Where it does not, the queue grows for ever, and a trial that is short beside the bound would not notice.
        """
        return in_time(self.seconds, arriving, self.longest)


@dataclass(frozen=True, slots=True)
class Sofar:
    """A queue in the midst of a trial: latencies of the answered, seconds since it began and of its longest call."""

    latencies: Sequence[float]
    seconds: float
    longest: float


def in_time(seconds: float, arriving: float, longest: float) -> bool:
    """Whether what arrived within ``arriving`` seconds was answered as fast, in ``seconds``, but for the last calls."""
    return seconds <= KEPT_UP * arriving + 2 * longest


def serve(
    answer: Callable[[int, int], None],
    arrivals: Sequence[float],
    concurrency: int,
    clock: Clock,
    hopeless: Callable[[Sofar], bool] = lambda _: False,
) -> Served:
    """Let requests arrive and answer them.

    Args:
        answer: Answers requests ``first`` to ``last`` (exclusive) in one call; time passes meanwhile.
        arrivals: Moments in seconds, in order.
        concurrency: Most requests of one call.
        clock: What time passes on.
        hopeless: Asked after each call while requests are left; True ends the trial.
    """
    start = clock.now()
    latencies: list[float] = []
    busy = longest = 0.0
    first = 0
    while first < len(arrivals):
        now = clock.now() - start
        if arrivals[first] > now:
            clock.sleep(arrivals[first] - now)
            now = max(clock.now() - start, arrivals[first])
        last = first + 1
        while last < len(arrivals) and last - first < concurrency and arrivals[last] <= now:
            last += 1
        answer(first, last)
        done = clock.now() - start
        busy, longest = busy + done - now, max(longest, done - now)
        latencies += [done - arrivals[k] for k in range(first, last)]
        first = last
        if first < len(arrivals) and hopeless(Sofar(latencies, done, longest)):
            break
    return Served(tuple(latencies), clock.now() - start, busy, longest, cut=first < len(arrivals))


def next_rate(trials: Sequence[Trial], start: float) -> float | None:
    """The rate to try next, or None where the search is over.

    From the start up by half until a rate fails, down by half until one holds, then the geometric middle. A function of
    the trials alone, so that an interrupted search goes on where it stopped.
    """
    if not trials:
        return start
    failing = min((t.rate for t in trials if not t.holds), default=None)
    holding = holding_rate(trials)
    if failing is None:
        return max(t.rate for t in trials) * 1.5
    if holding is None:
        return failing / 2 if failing / 2 >= HOPELESS * start else None
    return None if failing / holding <= CLOSE else float((failing * holding) ** 0.5)


def holding_rate(trials: Sequence[Trial]) -> float | None:
    """The highest rate that holds and lies below every rate that fails; None where there is none."""
    failing = min((t.rate for t in trials if not t.holds), default=float("inf"))
    return max((t.rate for t in trials if t.holds and t.rate < failing), default=None)


def server(
    bench: Bench,
    items: Sequence[ImageTask],
    bound: Bound,
    concurrency: int,
    seed: int,
    done: Server | None,
    keep: Callable[[Server], None],
) -> None:
    """Search, going on from the trials of an earlier session.

    Args:
        bench: What is measured.
        items: Pictures with one expression each; requests take them in turn.
        bound: What has to hold.
        concurrency: Most requests that one call answers; at most as many as there are items. That of an earlier
            session stays, because trials under two of them would be one search.
        seed: Of the arrivals.
        done: What an earlier session found.
        keep: Called with everything so far after each trial.
    """
    concurrency = concurrency if done is None else done.concurrency
    batch = list(items[:concurrency])
    bench.observer.start("server: warm-up", 1, 0)
    try:
        times: list[float] = []

        def call() -> float:
            times.append(bench.call(batch).seconds)
            return times[-1]

        warmup = warm_up(call, bench.clock, bench.duration / 2)
        each = median(times[-WINDOW:])  # of several: a single call may be anything
    finally:
        bench.observer.stop()
    found = done or Server(
        complete=False,
        percentile=bound.percentile,
        bound_ms=1e3 * bound.seconds,
        concurrency=concurrency,
        start_rate=0.5 * len(batch) / max(each, 1e-9),
    )
    noise = bench.timing_reasons(warmup, [])
    found = replace(found, warmup=warmup)
    while (rate := next_rate(found.trials, found.start_rate)) is not None:
        trial = _trial(bench, items, bound, concurrency, seed, rate, noise)
        trials = (*found.trials, trial)
        found = replace(found, trials=trials, rate=holding_rate(trials))
        keep(found)
    keep(replace(found, complete=True))


def _trial(
    bench: Bench,
    items: Sequence[ImageTask],
    bound: Bound,
    concurrency: int,
    seed: int,
    rate: float,
    noise: Sequence[str],
) -> Trial:
    count = min(MOST, max(LEAST, round(rate * bench.duration)))
    allowed = count - rank(count, bound.percentile)
    arrivals = poisson(rate, count, seed)
    checks: list[Callable[[], object]] = []
    late = checked = 0

    def hopeless(sofar: Sofar) -> bool:
        nonlocal late, checked
        answered = len(sofar.latencies)
        late += sum(seconds > bound.seconds for seconds in sofar.latencies[checked:])
        checked = answered
        # Whoever still waits and has waited too long is late, too.
        waiting = max(0, bisect_left(arrivals, sofar.seconds - bound.seconds) - answered)
        return late + waiting > allowed or not in_time(sofar.seconds, arrivals[-1], sofar.longest)

    def answer(first: int, last: int) -> None:
        checks.append(bench.ask([items[k % len(items)] for k in range(first, last)]))
        bench.observer.advance(last - first, 0)

    bench.observer.start(f"server, {rate:.3g} requests/s", count, 0)
    measured = Measured()
    try:
        with bench.measure() as measured:
            served = serve(answer, arrivals, concurrency, bench.clock, hopeless)
    finally:
        bench.observer.stop()
    for check in checks:  # outside the clock: an answer that is none was not served
        check()
    waits = [1e3 * s for s in served.latencies]
    latency = _without_interval(waits, bound.percentile)
    kept_up = not served.cut and served.kept_up(arrivals[-1])
    return Trial(
        rate=rate,
        requests=len(waits),
        seconds=served.seconds,
        latency_ms=latency,
        p50_ms=_without_interval(waits, 0.5),
        holds=kept_up and latency.value <= 1e3 * bound.seconds,
        kept_up=kept_up,
        cut=served.cut,
        busy=served.busy / served.seconds if served.seconds > 0 else 0.0,
        circumstances=measured.circumstances(*noise),
    )


def _without_interval(waits: Sequence[float], share: float) -> Estimate:
    """A percentile of waits in one queue: who comes behind a slow call waits, too, so they are not independent."""
    return Estimate(percentile(waits, share).value)
