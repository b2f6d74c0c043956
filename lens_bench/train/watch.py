"""When to give up: numbers that are none, a reward that collapses, groups without any difference."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

from lens_bench.errors import RunError
from lens_bench.train.config import Stop

REWARD, FLAT, SKIPPED = "reward/total", "rate/flat_groups", "data/skipped"


class Watch:
    """Looks at the numbers of every step; after a resume it is fed the log, so that it knows what it knew.

    Args:
        stop: The limits.
        epoch: Steps of an epoch.
    """

    def __init__(self, stop: Stop, epoch: float = 1.0) -> None:
        self._stop = stop
        self._epoch = epoch
        self._steps = 0
        self._skipped = 0.0
        self._window: deque[float] = deque(maxlen=stop.window)
        self._best = -math.inf
        self._flat = 0

    def replay(self, lines: list[dict[str, object]]) -> None:
        """Take in the steps of a log."""
        for line in lines:
            self._take({k: float(v) for k, v in line.items() if isinstance(v, int | float)})

    def look(self, step: int, values: Mapping[str, float], last: str) -> None:
        """Take in a step.

        Args:
            step: Number of steps done.
            values: Its numbers.
            last: The last good checkpoint, for the message.

        Raises:
            RunError: Training should not go on.
        """
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        if wrong:
            raise RunError(f"{wrong[0]} is {values[wrong[0]]} at step {step}", f"last good checkpoint: {last}")
        mean = self._take(values)
        if self._skipped > self._stop.unreadable * max(self._steps, self._epoch):
            raise RunError(
                f"too many images cannot be read: {self._skipped / self._steps:.1%} of those drawn up to step {step}",
                f"train_log.jsonl counts them as {SKIPPED}; stop.unreadable allows more; last good checkpoint: {last}",
            )
        # Of a reward that was never above 0 a share says nothing.
        if mean is not None and self._best > 0 and mean < self._stop.floor * self._best:
            raise RunError(
                f"the reward has collapsed: {mean:.3f} over {self._stop.window} steps at step {step}, after a best of "
                f"{self._best:.3f}",
                "train from a good checkpoint (model.checkpoint=FOLDER) under another --out, with a lower learning "
                f"rate or a larger grpo.beta; last checkpoint: {last}",
            )
        if self._flat >= self._stop.flat:
            raise RunError(
                f"no group had two different rewards for {self._flat} steps up to step {step}: nothing to learn from",
                f"look at the samples and the format reward; last good checkpoint: {last}",
            )

    def _take(self, values: Mapping[str, float]) -> float | None:
        """Mean reward of the window where it is full; a step in which nothing was scored has no reward."""
        self._steps += 1
        self._skipped += values.get(SKIPPED, 0.0)
        self._flat = self._flat + 1 if values.get(FLAT, 0.0) >= 1.0 else 0
        if REWARD not in values:
            return None
        self._window.append(values[REWARD])
        if len(self._window) < self._stop.window:
            return None
        mean = sum(self._window) / len(self._window)
        self._best = max(self._best, mean)
        return mean
