"""Asking a model under a stopwatch: the device waited for at both ends, answers checked outside the time."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from lens_bench.errors import OutOfMemoryError, RunError
from lens_bench.out_of_memory import is_out_of_memory
from lens_bench.perf.clock import synchronise
from lens_bench.perf.stages import CallTime
from lens_bench.records import Cost, ImageTask, Prediction
from lens_bench.run.answer import adapter_code
from lens_bench.run.contract import checked
from lens_bench.segmenter import Segmenter, SupportsCosts


@dataclass(frozen=True, slots=True)
class TimedModel:
    """A model that is asked with the device waited for at both ends."""

    segmenter: Segmenter
    name: str
    device: str

    def ask(self, tasks: Sequence[ImageTask]) -> tuple[Sequence[Prediction], float]:
        """Answers and the seconds they took.

        Raises:
            OutOfMemoryError: Memory ran out.
            RunError: The model raised something else.
        """
        with _named_errors(self.name):
            synchronise(self.device)
            start = time.perf_counter()
            predictions = self.segmenter.segment(tasks)
            synchronise(self.device)
            return predictions, time.perf_counter() - start


def call(model: TimedModel, tasks: Sequence[ImageTask]) -> CallTime:
    """Ask, and hold the answers to their contract outside the time that is measured.

    Raises:
        OutOfMemoryError: Memory ran out.
        RunError: The model raised something else, failed on a picture, or gave answers that are none.
    """
    predictions, seconds = model.ask(tasks)
    answered = _answered(model, tasks, predictions)
    return CallTime(
        seconds=seconds,
        images=len(tasks),
        expressions=len(answered),
        stages=_stages(answered),
        costs=_costs(model.segmenter, tasks, answered),
        tokens=sum(p.tokens.completion for p in answered if p.tokens is not None),
    )


def check_later(model: TimedModel, tasks: Sequence[ImageTask]) -> Callable[[], object]:
    """Ask now; what comes back holds the answers to their contract as ``call`` does, when it is called.

    Raises:
        OutOfMemoryError: Memory ran out.
        RunError: The model raised something else.
    """
    predictions, _ = model.ask(tasks)
    return partial(_answered, model, tasks, predictions)


def compile_seconds() -> float | None:
    """Seconds that torch has spent compiling in this process so far; None where it never compiled anything."""
    counters = sys.modules.get("torch._dynamo.utils")
    if counters is None:
        return None
    spent: Mapping[str, float] = counters.calculate_time_spent()
    return float(spent.get("total_wall_time", 0.0))


def _answered(model: TimedModel, tasks: Sequence[ImageTask], predictions: Sequence[Prediction]) -> Sequence[Prediction]:
    """The answers, held to their contract. Raises ``RunError`` where one of them is none, or says that it failed."""
    answered = checked(tasks, predictions)
    wrong = next((p for p in answered if p.status == "error"), None)
    if wrong is not None:
        raise RunError(f"model {model.name} failed on {wrong.sample_id}: {wrong.error}")
    return answered


def _stages(predictions: Sequence[Prediction]) -> dict[str, float]:
    """Seconds of the whole call by stage: every expression carries its share."""
    total: dict[str, float] = defaultdict(float)
    for prediction in predictions:
        for stage, milliseconds in prediction.stages_ms.items():
            total[stage] += milliseconds / 1e3
    return dict(total)


def _costs(segmenter: Segmenter, tasks: Sequence[ImageTask], answered: Sequence[Prediction]) -> Mapping[str, Cost]:
    return segmenter.costs(tasks, answered) if isinstance(segmenter, SupportsCosts) else {}


@contextmanager
def _named_errors(model: str) -> Iterator[None]:
    """Memory that ran out as ``OutOfMemoryError``, whatever a library calls it; other failures by model."""
    try:
        with adapter_code(model, "asking"):
            yield
    except RunError as error:
        if is_out_of_memory(error):
            raise OutOfMemoryError(
                f"model {model} ran out of memory", "smaller --batch-sizes or --image-size"
            ) from error
        raise
