"""Server: requests come by themselves; the highest rate at which a latency percentile keeps its bound, by search.

A trial lets requests arrive at one rate. As in MLPerf Inference, it has as many as the percentile needs for 99 %
confidence (``quantiles.requests_needed``); a model that is too slow for that gets fewer, and the profile says what
confidence is left. From the times of all calls so far follows the rate that the model sustains in the long run
(``queueing.sustained``). The next trial offers that rate. The search ends when a trial at the sustained rate kept up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from lens_bench.perf.arrivals import poisson
from lens_bench.perf.bench import Bench, Measured
from lens_bench.perf.profile_file import PRECISE, Server, Trial
from lens_bench.perf.quantiles import Estimate, percentile, rank, requests_needed
from lens_bench.perf.queueing import Bound, Served, Sofar, in_time, serve, sustained
from lens_bench.perf.warmup import WINDOW, Warmup, warm_up
from lens_bench.records import ImageTask

# Fewest and most requests of a trial.
LEAST, MOST = 5, 20_000
# How many times the asked duration a trial may last for the sake of the percentile: 5 minutes with the default of 10 s.
LONGEST = 30
# A trial is at the sustained rate where the two lie this close together, or as close as that rate is known.
CLOSE = 1.02
MOST_TRIALS = 8


@dataclass(slots=True)
class _Search:
    """What stays the same over the trials of a session, the call times they found, and how well the rate is known."""

    bench: Bench
    items: Sequence[ImageTask]
    bound: Bound
    concurrency: int
    seed: int
    noise: Sequence[str]
    calls: dict[int, list[float]] = field(default_factory=dict)
    error: float | None = None

    def requests(self, rate: float) -> int:
        """How many requests a trial at this rate has: as the percentile and ``PRECISE`` need, if time allows."""
        seconds = self.bench.duration
        known = sum(size * len(times) for size, times in self.calls.items())
        precise = known * ((self.error / PRECISE) ** 2 - 1) if self.error is not None else 0.0
        wanted = max(requests_needed(self.bound.percentile), precise)
        return round(min(MOST, max(LEAST, rate * seconds, min(wanted, rate * seconds * LONGEST))))


def next_rate(trials: Sequence[Trial], start: float) -> float | None:
    """The rate to try next, or None where the search is over.

    A function of the trials alone, so that an interrupted search goes on where it stopped.
    """
    if not trials:
        return start
    last, aim = trials[-1], trials[-1].sustained
    if len(trials) >= MOST_TRIALS:
        return None
    if aim is None:  # once more, with requests that come alone
        return last.rate / 4 if len(trials) == 1 else None
    if any(at_sustained(t) and not t.holds for t in trials):  # the model does not do what its call times lead to
        return None if last.holds else 0.9 * last.rate
    settled = at_sustained(last) and (_known(aim) or (len(trials) > 1 and at_sustained(trials[-2])))
    return None if settled else aim.value


def at_sustained(trial: Trial) -> bool:
    """Whether a trial's rate is the sustained one, as well as that is known."""
    aim = trial.sustained
    return aim is not None and aim.value / _close(aim) <= trial.rate <= aim.value * _close(aim)


def _close(aim: Estimate) -> float:
    return max(CLOSE, 1 + (aim.relative or 0.0))


def _known(aim: Estimate) -> bool:
    return aim.relative is not None and aim.relative <= PRECISE


def holding_rate(trials: Sequence[Trial]) -> Estimate | None:
    """The sustained rate of the last trial that holds, which knows the most call times; None where none holds.

    A trial below the sustained rate shows its own rate only.
    """
    last = next((t for t in reversed(trials) if t.holds), None)
    if last is None:
        return None
    return last.sustained if at_sustained(last) else Estimate(last.rate)


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
        items: Images with one expression each; requests take them in turn.
        bound: What has to hold.
        concurrency: Most requests that one call answers; at most as many as there are items. That of an earlier
            session stays, because trials under two of them would be one search.
        seed: Of the arrivals.
        done: What an earlier session found.
        keep: Called with everything so far after each trial.
    """
    concurrency = concurrency if done is None else done.concurrency
    batch = list(items[:concurrency])
    warmup, times = _warm_up(bench, batch)
    each = median(times)  # of several: a single call may be anything
    found = done or Server(
        complete=False,
        percentile=bound.percentile,
        bound_ms=1e3 * bound.seconds,
        concurrency=concurrency,
        requests_needed=requests_needed(bound.percentile),
        start_rate=0.5 * len(batch) / max(each, 1e-9),
    )
    found = replace(found, warmup=warmup)
    search = _Search(bench, items, bound, concurrency, seed, bench.timing_reasons(warmup, []), {len(batch): times})
    while (rate := next_rate(found.trials, found.start_rate)) is not None:
        trials = (*found.trials, _trial(search, rate))
        found = replace(found, trials=trials, rate=holding_rate(trials))
        keep(found)
    keep(replace(found, complete=True))


def _warm_up(bench: Bench, batch: Sequence[ImageTask]) -> tuple[Warmup, list[float]]:
    """Warm up on a full call; also gives the times of the last calls."""
    bench.observer.start("server: warm-up", 1, 0)
    times: list[float] = []

    def call() -> float:
        times.append(bench.call(batch).seconds)
        return times[-1]

    try:
        warmup = warm_up(call, bench.clock, bench.duration / 2)
    finally:
        bench.observer.stop()
    return warmup, times[-WINDOW:]


def _trial(search: _Search, rate: float) -> Trial:
    bench, bound = search.bench, search.bound
    count = search.requests(rate)
    arrivals = poisson(rate, count, search.seed)
    measured = Measured()
    bench.observer.start(f"server, {rate:.3g} requests/s", count, 0)
    try:
        with bench.measure() as measured:
            served, checks = _serve(search, arrivals)
    finally:
        bench.observer.stop()
    for check in checks:  # outside the clock: an answer that is none was not served
        check()
    for size, seconds in served.calls:
        search.calls.setdefault(size, []).append(seconds)
    aim = sustained(search.calls, bound, search.concurrency, search.seed, rate)
    search.error = aim.relative if aim is not None else None
    kept_up = not served.cut and served.kept_up(arrivals)
    waits = [1e3 * s for s in served.latencies]
    return Trial(
        rate=rate,
        requests=len(waits),
        seconds=served.seconds,
        latency_ms=_without_interval(waits, bound.percentile),
        p50_ms=_without_interval(waits, 0.5),
        late=sum(s > bound.seconds for s in served.latencies),
        sustained=aim,
        holds=kept_up and aim is not None and rate <= aim.value * _close(aim),
        kept_up=kept_up,
        cut=served.cut,
        busy=served.busy / served.seconds if served.seconds > 0 else 0.0,
        circumstances=measured.circumstances(*search.noise),
    )


def _serve(search: _Search, arrivals: Sequence[float]) -> tuple[Served, list[Callable[[], object]]]:
    """The trial itself: what the queue did, and what checks its answers afterwards."""
    bench, items, bound = search.bench, search.items, search.bound
    allowed = len(arrivals) - rank(len(arrivals), bound.percentile)
    # Requests are late in groups: a trial at the sustained rate may have far more of them than the percentile allows.
    most = allowed + 10 * allowed**0.5 + 3
    checks: list[Callable[[], object]] = []
    late = checked = 0

    def hopeless(sofar: Sofar) -> bool:
        nonlocal late, checked
        answered = len(sofar.latencies)
        late += sum(seconds > bound.seconds for seconds in sofar.latencies[checked:])
        checked = answered
        # Whoever still waits and has waited too long is late, too.
        waiting = max(0, bisect_left(arrivals, sofar.seconds - bound.seconds) - answered)
        return late + waiting > most or not in_time(sofar.seconds, arrivals, sofar.longest)

    def answer(first: int, last: int) -> None:
        checks.append(bench.ask([items[k % len(items)] for k in range(first, last)]))
        bench.observer.advance(last - first, 0)

    return serve(answer, arrivals, search.concurrency, bench.clock, hopeless), checks


def _without_interval(waits: Sequence[float], share: float) -> Estimate:
    """A percentile of waits in one queue: who comes behind a slow call waits, too, so they are not independent."""
    return Estimate(percentile(waits, share).value)
