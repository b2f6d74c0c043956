"""Rewards as empirical quantiles of what the last steps gave.

A quantile lies between 0 and 1 whatever the reward's scale, and tells answers apart where the reward itself saturates.
The idea is Dr. Seg's distribution-ranked reward (arXiv 2603.00152). The paper leaves open how long the history is and
what equal values get; here it is whole steps, and the middle of their ranks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray


class History:
    """Values of rewards in the last finished steps, over all ranks.

    The step that is running is never part of it, so that quantiles do not depend on micro batches or ranks.

    Args:
        lengths: By name of the reward, how many steps are kept. Other rewards stay what they are.
    """

    def __init__(self, lengths: Mapping[str, int]) -> None:
        self._lengths = dict(lengths)
        self._steps: dict[str, list[list[float]]] = {name: [] for name in lengths}
        self._running: dict[str, list[float]] = {name: [] for name in lengths}

    def ranked(self, values: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
        """The rewards of some completions, by name, with quantiles in place of those that have a history.

        NaN, which stands for no opinion, stays NaN. Before the first step is finished every quantile is 0.5.
        """
        known = {name: np.sort([v for step in steps for v in step]) for name, steps in self._steps.items()}
        return {
            n: [_quantile(v, known[n]) for v in column] if n in known else list(column) for n, column in values.items()
        }

    def add(self, values: Mapping[str, Sequence[float]]) -> None:
        """Note rewards of the running step."""
        for name, running in self._running.items():
            running += [v for v in values[name] if not math.isnan(v)]

    def finish(self, accelerator: Accelerator) -> None:
        """Make the running step the newest of the history, on every rank alike."""
        for name, length in self._lengths.items():
            found: list[float] = (
                gather_object(self._running[name]) if accelerator.num_processes > 1 else self._running[name]
            )
            self._steps[name] = [*self._steps[name], sorted(found)][-length:]
            self._running[name] = []

    def state(self) -> dict[str, list[list[float]]]:
        """What a checkpoint keeps."""
        return self._steps

    def restore(self, state: Mapping[str, list[list[float]]]) -> None:
        """Go on with what a checkpoint kept."""
        self._steps = {name: state[name] for name in self._lengths}


def _quantile(value: float, known: NDArray[np.float64]) -> float:
    """Share of the known values below ``value``, and half of those that equal it."""
    if math.isnan(value):
        return value
    if not known.size:
        return 0.5
    below, upto = np.searchsorted(known, value, "left"), np.searchsorted(known, value, "right")
    return float(below + upto) / (2 * known.size)
