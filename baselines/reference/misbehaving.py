"""Models that are slow, crash or run out of memory, for testing what the run loop does about it.

Where they answer, they answer with a box drawn from (seed, sample id): without looking at truth or pixels, yet another
one for every expression, so that a lost, repeated or swapped answer changes the scores.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from lens_bench.errors import OutOfMemoryError
from lens_bench.masks import box_mask
from lens_bench.records import ImageTask, ModelOptions, Prediction, Query, Size

from .draws import number, uniform
from .weightless import Weightless

_NO_LIMIT = 1e9


class SeededBox(Weightless):
    """Answers with a box between a quarter and the whole of the image's sides."""

    def answer(self, query: Query, size: Size) -> Prediction:
        """The drawn box, filled."""
        height, width = size
        x1, y1, w, h = (uniform(self.options.seed, k, query.sample_id) for k in ("x", "y", "width", "height"))
        w, h = (0.25 + 0.75 * w) * width, (0.25 + 0.75 * h) * height
        x1, y1 = x1 * (width - w), y1 * (height - h)
        box = (x1, y1, x1 + w, y1 + h)
        return Prediction(query.sample_id, "ok", mask=box_mask(box, size), box=box)


class Slow(SeededBox):
    """Sleeps before each answer."""

    def __init__(self, options: ModelOptions) -> None:
        super().__init__(options)
        self._seconds = number(options, "ms", 0.0, _NO_LIMIT) / 1000

    def answer(self, query: Query, size: Size) -> Prediction:
        """The drawn box, late."""
        time.sleep(self._seconds)
        return super().answer(query, size)


class Crashing(SeededBox):
    """Fails on calls that hold one of its chosen expressions: raises, or ends the process."""

    def __init__(self, options: ModelOptions) -> None:
        super().__init__(options)
        self._share = number(options, "share", 0.0, 1.0)
        self._sample_id = str(options.args["sample_id"] or "")
        self._exit = bool(options.args["exit"])
        marker = str(options.args["marker"] or "")
        self._marker = Path(marker) if marker else None

    def segment(self, tasks: Sequence[ImageTask]) -> list[Prediction]:
        """Answer, unless a query is one of those it fails on."""
        for query in (q for task in tasks for q in task.queries if self._fails_on(q)):
            if self._marker is not None:
                if self._marker.exists():
                    break
                self._marker.touch()
            if self._exit:
                os._exit(137)
            raise RuntimeError(f"crashing on purpose at {query.sample_id}")
        return super().segment(tasks)

    def _fails_on(self, query: Query) -> bool:
        drawn = uniform(self.options.seed, "crash", query.sample_id) < self._share
        return drawn or query.sample_id == self._sample_id


class Oom(SeededBox):
    """Runs out of memory on calls of more than ``limit`` expressions."""

    def __init__(self, options: ModelOptions) -> None:
        super().__init__(options)
        self._limit = number(options, "limit", 0, _NO_LIMIT)
        self._python = options.args["kind"] == "python"

    def segment(self, tasks: Sequence[ImageTask]) -> list[Prediction]:
        """Answer calls that are small enough."""
        asked = sum(len(task.queries) for task in tasks)
        if asked > self._limit:
            message = f"{asked} expressions in one call do not fit, {self._limit:g} do"
            raise MemoryError(message) if self._python else OutOfMemoryError(message)
        return super().segment(tasks)
