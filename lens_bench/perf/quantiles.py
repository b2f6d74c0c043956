"""Percentiles and rates with 95 % intervals that assume nothing about the distribution of latencies.

They do assume that samples are independent: calls made one after the other on an otherwise quiet machine are nearly so,
waits in a queue are not. A figure of dependent samples is given without an interval.

A percentile is the nearest-rank one, as MLPerf Inference reports it. Its interval lies between two order statistics:
the number of samples below the true quantile is binomial, whatever the distribution (David and Nagaraja, Order
Statistics, section 7.1). Where there are too few samples for an end, that end is None.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

_CONFIDENCE = 0.95
# With which MLPerf Inference has a percentile shown.
CONFIDENCE = 0.99


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and the ends of its 95 % interval; None for an end that the samples cannot give.

    Both are None where there is no interval.
    """

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def relative(self) -> float | None:
        """How far the ends are from the value, as a share of it, the farther one; None where one is missing."""
        if self.low is None or self.high is None:
            return None
        return max(self.high - self.value, self.value - self.low) / self.value if self.value else math.inf


def percentile(samples: Sequence[float], share: float) -> Estimate:
    """The ``share`` quantile (0 to 1) of samples, with its interval.

    Raises:
        ValueError: There is no sample, or the share is not between 0 and 1.
    """
    if not samples or not 0 < share < 1:
        raise ValueError(f"quantile {share} of {len(samples)} samples")
    ordered = sorted(samples)
    low, high = interval_ranks(len(ordered), share)
    return Estimate(
        ordered[rank(len(ordered), share) - 1],
        None if low is None else ordered[low - 1],
        None if high is None else ordered[high - 1],
    )


def rank(count: int, share: float) -> int:
    """Nearest rank, from 1: the smallest sample that at least ``share`` of all do not exceed."""
    return max(1, math.ceil(round(share * count, 9)))


def interval_ranks(count: int, share: float) -> tuple[int | None, int | None]:
    """Ranks, from 1, of the order statistics around the quantile with 95 % confidence, each tail at most 2.5 %."""
    tail = (1 - _CONFIDENCE) / 2
    low = high = None
    below = 0.0  # P(fewer than k samples lie below the quantile), k = rank
    for k in range(1, count + 1):
        below += _binomial(count, k - 1, share)
        if below <= tail:
            low = k
        if below >= 1 - tail:
            high = k
            break
    return low, high


def confidence(count: int, late: int, share: float) -> float:
    """Confidence with which ``late`` of ``count`` samples beyond a bound show that the ``share`` quantile is within it.

    Were the quantile just beyond the bound, so few samples would be late with at most one minus this probability. This
    is the criterion of MLPerf Inference for stopping early (its rules, "Early Stopping Criterion"), and like it assumes
    independent samples.
    """
    return max(0.0, 1 - sum(_binomial(count, k, 1 - share) for k in range(min(late, count) + 1)))


def requests_needed(share: float, wanted: float = CONFIDENCE) -> int:
    """Fewest samples of which one may be late and that still show the ``share`` quantile with this confidence.

    At 99 % confidence these are MLPerf's 64 for p90 and 662 for p99.
    """
    low, high = 1, 2
    while confidence(high, 1, share) < wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if confidence(middle, 1, share) >= wanted else (middle, high)
    return high


def mean(samples: Sequence[float]) -> Estimate:
    """The mean with its normal interval; no interval for fewer than two samples.

    Raises:
        ValueError: There is no sample.
    """
    if not samples:
        raise ValueError("mean of no samples")
    value = fmean(samples)
    if len(samples) < 2:
        return Estimate(value)
    half = NormalDist().inv_cdf((1 + _CONFIDENCE) / 2) * stdev(samples) / math.sqrt(len(samples))
    return Estimate(value, value - half, value + half)


def rate(items: Sequence[int], seconds: Sequence[float]) -> Estimate:
    """Items per second of calls that took ``seconds`` each, with the interval of the ratio of means (delta method).

    Raises:
        ValueError: There is no call, or they took no time.
    """
    if not seconds or len(items) != len(seconds) or sum(seconds) <= 0:
        raise ValueError(f"a rate of {len(items)} calls in {sum(seconds)} s")
    value = sum(items) / sum(seconds)
    if len(seconds) < 2:
        return Estimate(value)
    residual = [n - value * s for n, s in zip(items, seconds, strict=True)]
    error = stdev(residual) / math.sqrt(len(seconds)) / fmean(seconds)
    half = NormalDist().inv_cdf((1 + _CONFIDENCE) / 2) * error
    return Estimate(value, max(0.0, value - half), value + half)


def variation(samples: Sequence[float]) -> float:
    """Coefficient of variation: deviation over mean. Infinite for fewer than two samples or a mean of zero."""
    if len(samples) < 2 or fmean(samples) <= 0:
        return math.inf
    return stdev(samples) / fmean(samples)


def _binomial(count: int, successes: int, share: float) -> float:
    """Probability of exactly so many successes."""
    log = math.lgamma(count + 1) - math.lgamma(successes + 1) - math.lgamma(count - successes + 1)
    return math.exp(log + successes * math.log(share) + (count - successes) * math.log1p(-share))
