"""Asking a model: the one place where somebody else's code may fail without ending the run.

A call that raises is repeated on halves until the expressions that cause it are found; those get status ``error``. A
call that runs out of memory is repeated on halves too, and the smaller size is kept for the rest of the run. An answer
that breaks the contract (``contract.py``) is a failure like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from lens_bench.errors import LensBenchError, RunError
from lens_bench.out_of_memory import free_cached_memory, is_out_of_memory
from lens_bench.records import ImageTask, Prediction
from lens_bench.run.contract import checked
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

    @property
    def reason(self) -> str:
        """What to say of a size that memory has shrunk."""
        limit = f"{self.queries} expressions" if self.queries else f"{self.images} images"
        return f"out of memory: at most {limit} per call from here on"

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
        return checked(tasks, segmenter.segment(tasks))
    except (Exception, SystemExit) as error:  # the worker boundary: whatever a model raises costs only its samples
        too_large = is_out_of_memory(error)
        first, second = _halves(tasks)
        if not second:
            return [_failed(tasks[0].queries[0].sample_id, error)]
    if too_large:
        size.shrink(tasks)
        free_cached_memory()
    return answer(segmenter, first, size) + answer(segmenter, second, size)


@contextmanager
def adapter_code(model: str, doing: str) -> Iterator[None]:
    """The same boundary around a model's other methods, where a failure ends the run: in a line, not a traceback.

    Raises:
        RunError: The code inside raised something that is not ours; the message names the model and the phase.
    """
    try:
        yield
    except LensBenchError:
        raise
    except (Exception, SystemExit) as error:
        raise RunError(f"{doing} model {model} failed: {_say(error)}", "--debug shows where") from error


def failed(task: ImageTask, error: Exception) -> list[Prediction]:
    """Predictions of status ``error`` for every query of a task that could not be asked."""
    return [_failed(q.sample_id, error) for q in task.queries]


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


def _failed(sample_id: str, error: BaseException) -> Prediction:
    return Prediction(sample_id, "error", error=_say(error))


def _say(error: BaseException) -> str:
    text = error.message if isinstance(error, LensBenchError) else f"{type(error).__name__}: {error}"
    readable = text.encode("utf-8", "replace").decode()
    return " ".join(readable.split())[:_MESSAGE_LENGTH]
