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
    """Share of the learning rate at a step: linear warm-up from near 0, then the schedule down to ``floor``."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    past = (step - config.warmup) / max(1, config.steps - config.warmup)
    if config.schedule == "constant":
        return 1.0
    left = 1 - past if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * past))
    return config.floor + (1 - config.floor) * left
