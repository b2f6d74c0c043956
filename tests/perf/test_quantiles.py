"""Percentiles, rates and their intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_bench.perf.quantiles import Estimate, interval_ranks, mean, percentile, rank, rate, variation

SAMPLES = st.lists(st.floats(0.001, 1000), min_size=1, max_size=60)


def test_nearest_rank_by_hand() -> None:
    samples = [float(v) for v in range(1, 101)]
    assert percentile(samples, 0.5) == Estimate(50, 40, 61)  # the textbook's ranks for the median of 100
    assert percentile(samples, 0.99).value == 99
    assert percentile([3.0], 0.99) == Estimate(3.0, 3.0, None)  # 99 of 100 samples are below the true one
    assert (rank(10, 0.9), rank(10, 0.91), rank(1, 0.01)) == (9, 10, 1)


@given(SAMPLES, st.sampled_from([0.5, 0.9, 0.99]))
def test_a_percentile_is_a_sample_inside_its_interval(samples: list[float], share: float) -> None:
    found = percentile(samples, share)
    assert found.value in samples
    assert sum(s <= found.value for s in samples) >= share * len(samples) - 1e-9
    assert found.low is None or found.low <= found.value
    assert found.high is None or found.high >= found.value


@given(st.integers(1, 400), st.sampled_from([0.5, 0.9, 0.99]))
def test_each_tail_of_an_interval_has_at_most_two_and_a_half_percent(count: int, share: float) -> None:
    def below(k: int) -> float:
        return sum(math.comb(count, j) * share**j * (1 - share) ** (count - j) for j in range(k + 1))

    low, high = interval_ranks(count, share)
    if low is not None:
        assert below(low - 1) <= 0.025 + 1e-12 and below(low) > 0.025
    if high is not None:
        assert below(high - 1) >= 0.975 - 1e-9 and (high == 1 or below(high - 2) < 0.975)


def test_intervals_cover_the_true_quantile() -> None:
    """Of a skewed distribution, where a normal interval would not."""
    rng = np.random.default_rng(5)
    true = -math.log(0.1)
    hits = 0
    for _ in range(600):
        found = percentile([float(v) for v in rng.exponential(1.0, 150)], 0.9)
        assert found.low is not None and found.high is not None
        hits += found.low <= true <= found.high
    assert 0.94 <= hits / 600 <= 0.99


def test_a_rate_is_items_over_time_and_its_interval_is_the_ratio_s() -> None:
    assert rate([4, 4, 4], [2.0, 2.0, 2.0]) == Estimate(2.0, 2.0, 2.0)
    assert rate([8], [2.0]) == Estimate(4.0)
    # Items in proportion to the time: no doubt about the rate, however much calls differ.
    steady = rate([1, 2, 4], [0.5, 1.0, 2.0])
    assert steady.low == pytest.approx(2.0) and steady.high == pytest.approx(2.0)
    loose = rate([1, 1, 1], [0.5, 1.0, 2.0])
    assert loose.low is not None and loose.high is not None and loose.low < loose.value < loose.high


def test_means_and_variation() -> None:
    assert mean([5.0]) == Estimate(5.0)
    found = mean([1.0, 2.0, 3.0])
    assert found.value == 2 and found.low == pytest.approx(2 - 1.96 / math.sqrt(3), abs=1e-3)
    assert variation([2.0, 2.0]) == 0 and variation([1.0]) == math.inf


def test_nothing_has_no_figure() -> None:
    for bad in (lambda: percentile([], 0.5), lambda: percentile([1.0], 1.0), lambda: mean([]), lambda: rate([], [])):
        with pytest.raises(ValueError):
            bad()
