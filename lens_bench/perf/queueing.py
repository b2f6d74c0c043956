"""One queue in front of a model: served in a trial, and simulated with the call times that trials measured.

A request is one expression on one image. Requests wait in one queue; the model takes as many as have arrived, at most
``concurrency``, and answers them in one call. Latency is from arrival to answer.

A percentile of a few hundred waits is a poor guide to the rate that a model sustains: waits depend on each other, and
few of them are long. What a queue does follows from its arrivals and from how long calls take, and call times are known
well after a few hundred calls. ``sustained`` therefore simulates ``LONG`` requests. Simulated calls take the measured
times in the order in which they were measured, so that slow calls that come together stay together.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import stdev
from typing import TypeAlias

from lens_bench.perf.arrivals import poisson
from lens_bench.perf.clock import Clock
from lens_bench.perf.quantiles import Estimate, percentile, rank

# Simulated requests: at p99 six hundred of them are late, which determines the rate to about 2 %. Fewer where rates are
# only compared with each other, on the same arrivals.
LONG, _SHORT = 60_000, 12_000
# Groups of the jackknife, and the 97.5 % quantile of Student's t for one less.
_GROUPS, _STUDENT = 10, 2.262
# Answering may take so many standard deviations of the arrivals' time longer than arriving, beside the last calls.
_DEVIATIONS = 4.0
# The same for a simulated queue, which is long: a factor.
_KEPT_UP = 1.005
# The simulation tells rates apart to this factor.
_FINE = 1.002

# Seconds of calls by the number of requests they answered, in the order in which they were made.
Calls: TypeAlias = Mapping[int, Sequence[float]]


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
        calls: Of each call, how many requests it answered and how many seconds it took.
        cut: Ended before all requests were answered.
    """

    latencies: tuple[float, ...]
    seconds: float
    calls: tuple[tuple[int, float], ...]
    cut: bool

    @property
    def busy(self) -> float:
        """Seconds in which a call was under way."""
        return sum(seconds for _, seconds in self.calls)

    @property
    def longest(self) -> float:
        """Seconds of the longest call."""
        return max((seconds for _, seconds in self.calls), default=0.0)

    def kept_up(self, arrivals: Sequence[float]) -> bool:
        """Whether the model answers as fast as requests come.

        Where it does not, the queue grows for ever, and a trial that is short beside the bound would not notice.
        """
        return in_time(self.seconds, arrivals, self.longest)


@dataclass(frozen=True, slots=True)
class Sofar:
    """A queue in the midst of a trial: latencies of the answered, seconds since it began and of its longest call."""

    latencies: Sequence[float]
    seconds: float
    longest: float


def in_time(seconds: float, arrivals: Sequence[float], longest: float) -> bool:
    """Whether requests were answered as fast as they came, in ``seconds``, but for the last calls and chance.

    A model that is just fast enough answers ``n`` requests in a time that deviates from the expected one by a share of
    about ``1 / sqrt(n)``, and so does the time in which they arrive.
    """
    return seconds <= (1 + _DEVIATIONS / math.sqrt(len(arrivals))) * arrivals[-1] + 2 * longest


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
    calls: list[tuple[int, float]] = []
    longest, first = 0.0, 0
    while first < len(arrivals):
        now = clock.now() - start
        if arrivals[first] > now:
            clock.sleep(arrivals[first] - now)
            now = max(clock.now() - start, arrivals[first])
        last = bisect_right(arrivals, now, first + 1, min(len(arrivals), first + concurrency))
        answer(first, last)
        done = clock.now() - start
        calls.append((last - first, done - now))
        longest = max(longest, done - now)
        latencies += [done - arrivals[k] for k in range(first, last)]
        first = last
        if first < len(arrivals) and hopeless(Sofar(latencies, done, longest)):
            break
    return Served(tuple(latencies), clock.now() - start, tuple(calls), cut=first < len(arrivals))


def sustained(calls: Calls, bound: Bound, concurrency: int, seed: int, near: float) -> Estimate | None:
    """The highest rate, in requests per second, at which a queue with these call times keeps the bound in the long run.

    The interval tells how well the calls determine the rate: a jackknife that leaves out one of ``_GROUPS`` stretches
    of calls at a time (Efron and Tibshirani, An Introduction to the Bootstrap, chapter 11), on the same arrivals.

    Args:
        calls: Measured times. A call of a size that never occurred takes as long as one of the nearest size.
        bound: What has to hold.
        concurrency: Most requests of one call.
        seed: Of the arrivals.
        near: Where to begin looking.

    Returns:
        The rate, or None where not even requests that come alone keep the bound.
    """
    rate = _highest(calls, bound, concurrency, _gaps(seed, LONG), near)
    if rate is None:
        return None
    if sum(map(len, calls.values())) < 2 * _GROUPS:
        return Estimate(rate)
    gaps = _gaps(seed, _SHORT)
    found = [_highest(_without(calls, group), bound, concurrency, gaps, rate) for group in range(_GROUPS)]
    logs = [math.log(value) for value in found if value is not None]
    if len(logs) < _GROUPS:
        return Estimate(rate)
    half = _STUDENT * (_GROUPS - 1) / math.sqrt(_GROUPS) * stdev(logs)
    return Estimate(rate, rate * math.exp(-half), rate * math.exp(half))


def _without(calls: Calls, group: int) -> Calls:
    """All calls but a stretch of each size."""
    kept = {}
    for size, times in calls.items():
        ends = [round(k * len(times) / _GROUPS) for k in (group, group + 1)]
        kept[size] = [*times[: ends[0]], *times[ends[1] :]]
    return {size: times for size, times in kept.items() if times}


def _highest(calls: Calls, bound: Bound, concurrency: int, gaps: Sequence[float], near: float) -> float | None:
    alone = calls[min(calls)]
    if percentile(alone, bound.percentile).value > bound.seconds:
        return None
    holding = failing = near
    while not _holds(calls, bound, concurrency, gaps, holding):
        failing, holding = holding, holding / 1.2
    while failing <= holding or _holds(calls, bound, concurrency, gaps, failing):
        holding, failing = failing, failing * 1.2
    while failing / holding > _FINE:
        middle = math.sqrt(failing * holding)
        if _holds(calls, bound, concurrency, gaps, middle):
            holding = middle
        else:
            failing = middle
    return holding


def _holds(calls: Calls, bound: Bound, concurrency: int, arrivals: Sequence[float], rate: float) -> bool:
    """Whether a long queue at this rate keeps the bound. Time is counted in mean gaps between arrivals."""
    limit, count = bound.seconds * rate, len(arrivals)
    sizes = sorted(calls)
    nearest = [min(sizes, key=lambda known: abs(known - size)) for size in range(1, concurrency + 1)]
    times = {size: [seconds * rate for seconds in calls[size]] for size in sizes}
    turns = dict.fromkeys(sizes, 0)
    allowed = count - rank(count, bound.percentile)
    now = longest = 0.0
    first = late = 0
    while first < count:
        now = max(now, arrivals[first])
        last = bisect_right(arrivals, now, first + 1, min(count, first + concurrency))
        size = nearest[last - first - 1]
        taken = times[size][turns[size] % len(times[size])]
        turns[size] += 1
        now, longest = now + taken, max(longest, taken)
        late += bisect_right(arrivals, now - limit, first, last) - first
        if late > allowed:
            return False
        first = last
    return now <= _KEPT_UP * arrivals[-1] + 2 * longest


@lru_cache(maxsize=4)
def _gaps(seed: int, count: int) -> list[float]:
    return poisson(1.0, count, seed)
