"""Requests that arrive by themselves: the arrival process of the server scenario."""

from __future__ import annotations

import numpy as np


def poisson(rate: float, count: int, seed: int) -> list[float]:
    """Moments in seconds at which ``count`` requests arrive at ``rate`` per second, independently of each other.

    Gaps are exponential and drawn from the seed alone, then divided by the rate: every rate sees the same pattern,
    faster or slower, so that two rates differ by nothing but their rate.

    Raises:
        ValueError: The rate is not positive.
    """
    if not rate > 0:
        raise ValueError(f"requests at {rate} per second")
    gaps = np.random.default_rng([seed, 0xA221]).exponential(1.0, count)
    return [float(t) for t in np.cumsum(gaps) / rate]
