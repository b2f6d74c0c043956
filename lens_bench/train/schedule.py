"""Learning rates as functions of the step: nothing of a schedule has to be saved."""

from __future__ import annotations

import math

from torch.optim import Optimizer

from lens_bench.train.config import Optimiser


def set_rates(optimiser: Optimizer, config: Optimiser, step: int) -> float:
    """Set every group's learning rate for a step; returns the largest."""
    share = rate_share(config, step)
    for group in optimiser.param_groups:
        group["lr"] = group["base_rate"] * share
    return max(float(group["lr"]) for group in optimiser.param_groups)


def rate_share(config: Optimiser, step: int) -> float:
    """Share of the learning rate at a step: linear warm-up from near 0, then the schedule down to ``floor``.

    It gets there at step ``decay``, or else at the end, and stays there.
    """
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "constant":
        return 1.0
    end = config.steps if config.decay is None else config.decay
    past = min(1.0, (step - config.warmup) / max(1, end - config.warmup))
    left = 1 - past if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * past))
    return config.floor + (1 - config.floor) * left
