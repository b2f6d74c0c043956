"""The arrival process."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_bench.perf.arrivals import poisson


@given(st.floats(0.01, 1e6), st.integers(0, 2**31), st.integers(1, 50))
def test_moments_rise_and_are_a_function_of_the_seed(rate: float, seed: int, count: int) -> None:
    found = poisson(rate, count, seed)
    assert len(found) == count and found[0] > 0
    assert all(a < b for a, b in pairwise(found))
    assert found == poisson(rate, count, seed)


@given(st.floats(0.1, 100), st.integers(0, 1000))
def test_every_rate_sees_the_same_pattern(rate: float, seed: int) -> None:
    assert np.allclose(np.array(poisson(rate, 20, seed)) * rate, poisson(1.0, 20, seed))


def test_gaps_are_exponential_and_independent() -> None:
    gaps = np.diff([0.0, *poisson(4.0, 20_000, 3)])
    assert gaps.mean() == pytest.approx(0.25, rel=0.03)
    assert gaps.std() == pytest.approx(0.25, rel=0.03)
    assert np.quantile(gaps, 0.9) == pytest.approx(np.log(10) / 4, rel=0.03)
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 0.03
    assert poisson(1.0, 3, 1) != poisson(1.0, 3, 2)


def test_no_rate_is_refused() -> None:
    for rate in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="requests at"):
            poisson(rate, 3, 0)
