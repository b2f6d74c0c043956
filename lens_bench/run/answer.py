"""Asking a model: the one place where somebody else's code may fail without ending the run.

A call that raises is repeated on halves until the expressions that cause it are found; those get status ``error``. A
call that runs out of memory is repeated on halves too, and the smaller size is kept for the rest of the run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lens_bench.errors import OutOfMemoryError, RunError
from lens_bench.masks import area
from lens_bench.records import ImageTask, Prediction
from lens_bench.segmenter import Segmenter

_MESSAGE_LENGTH = 500


@dataclass(slots=True)
class BatchSize:
    """How much goes into one call. Only ever shrinks.

    Attributes:
        images: Most images per call.
        queries: Most expressions per call, once a single image was too much; None before.
        halvings: How often memory ran out.
    """

    images: int
    queries: int | None = None
    halvings: int = 0

    def shrink(self, tasks: Sequence[ImageTask]) -> None:
        """Remember that a call of this size was too large."""
        self.halvings += 1
        if len(tasks) > 1:
            self.images = max(1, min(self.images, len(tasks)) // 2)
        else:
            self.images, self.queries = 1, max(1, len(tasks[0].queries) // 2)


def answer(segmenter: Segmenter, tasks: Sequence[ImageTask], size: BatchSize) -> list[Prediction]:
    """Ask about every query of the tasks; always returns one prediction per query, in order.

    Args:
        segmenter: The model, loaded.
        tasks: With pixels where the model reads them.
        size: Shrunk where memory runs out.
    """
    if size.queries is not None and any(len(t.queries) > size.queries for t in tasks):
        return [p for part in _by_queries(tasks, size.queries) for p in answer(segmenter, part, size)]
    try:
        return _checked(tasks, segmenter.segment(tasks))
    except Exception as error:  # the worker boundary: whatever a model raises costs only its samples
        if _is_out_of_memory(error) and sum(len(t.queries) for t in tasks) > 1:
            size.shrink(tasks)
        first, second = _halves(tasks)
        if not second:
            return [_failed(tasks[0].queries[0].sample_id, error)]
    return answer(segmenter, first, size) + answer(segmenter, second, size)


def failed(task: ImageTask, error: Exception) -> list[Prediction]:
    """Predictions of status ``error`` for every query of a task that could not be asked."""
    return [_failed(q.sample_id, error) for q in task.queries]


def _checked(tasks: Sequence[ImageTask], predictions: Sequence[Prediction]) -> list[Prediction]:
    """Hold a model to its contract: one prediction per query, in order, masks of the image's size, finite numbers."""
    wanted = [(q.sample_id, t.size) for t in tasks for q in t.queries]
    if [p.sample_id for p in predictions] != [sample_id for sample_id, _ in wanted]:
        raise RunError(f"the model gave {len(predictions)} predictions for {len(wanted)} expressions, or not in order")
    for prediction, (sample_id, size) in zip(predictions, wanted, strict=True):
        if prediction.mask is not None and prediction.mask.size != size:
            raise RunError(f"the mask of {sample_id} has size {prediction.mask.size}, its image {size}")
        numbers = (*(prediction.box or ()), *prediction.stages_ms.values(), prediction.score or 0.0)
        if not all(math.isfinite(n) for n in numbers):
            raise RunError(f"the prediction of {sample_id} holds a number that is not finite")
        if prediction.status == "no_mask" and prediction.mask is not None and area(prediction.mask):
            raise RunError(f"the prediction of {sample_id} has a mask and the status no_mask")
    return list(predictions)


def _halves(tasks: Sequence[ImageTask]) -> tuple[Sequence[ImageTask], Sequence[ImageTask]]:
    if len(tasks) > 1:
        middle = (len(tasks) + 1) // 2
        return tasks[:middle], tasks[middle:]
    task, middle = tasks[0], (len(tasks[0].queries) + 1) // 2
    rest = task.queries[middle:]
    return [replace(task, queries=task.queries[:middle])], [replace(task, queries=rest)] if rest else []


def _by_queries(tasks: Sequence[ImageTask], most: int) -> list[list[ImageTask]]:
    return [
        [replace(task, queries=task.queries[i : i + most])] for task in tasks for i in range(0, len(task.queries), most)
    ]


def _failed(sample_id: str, error: Exception) -> Prediction:
    text = error.message if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
    return Prediction(sample_id, "error", error=" ".join(text.split())[:_MESSAGE_LENGTH])


def _is_out_of_memory(error: Exception) -> bool:
    """Ours, Python's, and torch's by name, so that torch need not be imported to ask."""
    if isinstance(error, OutOfMemoryError | MemoryError):
        return True
    return any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
