"""Where a model lives while a command runs: in this process, or in workers (``workers/``)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Protocol, TypeAlias

from lens_bench.errors import LensBenchError, RunError
from lens_bench.out_of_memory import Halvings
from lens_bench.perf.speed import Speed
from lens_bench.records import ImageTask, LoadReport, Prediction
from lens_bench.run.answer import BatchSize, adapter_code, answer, failed
from lens_bench.run.decode import Work, decode_ahead
from lens_bench.run.plan import Plan
from lens_bench.run.watch import Progress
from lens_bench.segmenter import RunsElsewhere, Segmenter, SupportsExpect

See: TypeAlias = Callable[[str, str, str], None]  # id, name and fingerprint of an image: ``SeenImages.see``


class Session(Protocol):
    """One model for all splits of a command: told what to expect, loaded when first needed, closed at the end.

    Attributes:
        load_s: Seconds that loading took.
    """

    load_s: float

    def load(self, plan: Plan, images: int, progress: Progress) -> LoadReport:
        """Load the model for so many images of the plan's split, if an earlier split did not.

        Raises:
            CheckpointError: Raised by the model.
            RunError: The model's code failed.
        """
        ...

    def answers(
        self, plan: Plan, work: Sequence[Work], speed: Speed, progress: Progress, see: See
    ) -> Iterator[list[Prediction]]:
        """Predictions as they come, one for every query of the work, in any order, none twice.

        ``see`` is told of every image that was read, before the predictions about it are given. Calls are recorded in
        ``speed``, as is every reason why its figures are not comparable.
        """
        ...

    def close(self, progress: Progress) -> None:
        """Free the model. What goes wrong there changes no result, so it is a note."""
        ...


class InProcess:
    """The model in this process: one call at a time, images decoded ahead of it."""

    def __init__(self, segmenter: Segmenter, plans: Sequence[Plan]) -> None:
        self._segmenter = segmenter
        self._plans = plans
        self._report: LoadReport | None = None
        self._inside = Halvings()
        self.load_s = 0.0

    def load(self, plan: Plan, images: int, progress: Progress) -> LoadReport:
        """Load the model, once."""
        if isinstance(self._segmenter, RunsElsewhere):
            self._segmenter.log_to(plan.files.log)
        if self._report is None:
            model = plan.card.name
            if isinstance(self._segmenter, SupportsExpect):
                with adapter_code(model, "preparing"):
                    self._segmenter.expect(everything(self._plans))
            start = time.perf_counter()
            self._report = load_model(self._segmenter, model)
            self.load_s = time.perf_counter() - start
        return self._report

    def answers(
        self, plan: Plan, work: Sequence[Work], speed: Speed, progress: Progress, see: See
    ) -> Iterator[list[Prediction]]:
        """Predictions batch by batch; images that cannot be read become errors without the model being asked."""
        size, inside = BatchSize(min(plan.batch_size, len(work))), self._inside.count
        decoded = decode_ahead(work, ahead=2 * size.images, read=plan.card.reads_images)
        names = {task.image_id: samples[0].image.name for task, samples in work}
        while batch := list(islice(decoded, size.images)):
            for item in batch:
                see(item.task.image_id, names[item.task.image_id], item.fingerprint)
            broken = [p for item in batch if item.error for p in failed(item.task, item.error)]
            if broken:
                yield broken
            tasks = [item.task for item in batch if item.error is None]
            if not tasks:
                continue
            with speed.call(len(tasks), sum(len(t.queries) for t in tasks)):
                predictions = answer(self._segmenter, tasks, size)
            for reason in halved(size, self._inside):
                if reason not in speed.reasons:
                    speed.reasons.append(reason)
                    progress.note(reason)
            speed.halvings = size.halvings + self._inside.count - inside
            yield predictions
        if isinstance(self._segmenter, RunsElsewhere) and self._segmenter.restarts:
            speed.reasons.append(f"the model's process was started again {self._segmenter.restarts} times")

    def close(self, progress: Progress) -> None:
        """Free the model."""
        try:
            with adapter_code(self._plans[0].card.name, "closing"):
                self._segmenter.close()
        except LensBenchError as error:
            progress.note(error.message)


def halved(size: BatchSize, inside: Halvings) -> Iterator[str]:
    """What to say of calls that memory has shrunk, and of batches inside the model."""
    if size.halvings:
        yield size.reason
    if inside.reason is not None:
        yield inside.reason


def everything(plans: Sequence[Plan]) -> list[ImageTask]:
    """All tasks of all splits, for a model that wants to know beforehand what it will be asked."""
    return [task for plan in plans for task in plan.whole_split()]


def load_model(segmenter: Segmenter, model: str) -> LoadReport:
    """Load a model.

    Returns:
        What the model reported; an empty report where its ``load`` returned None.

    Raises:
        CheckpointError: Raised by the model.
        RunError: Its code failed, or returned something other than a report or None.
    """
    with adapter_code(model, "loading"):
        report: object = segmenter.load()
    if report is None:
        return LoadReport()
    if not isinstance(report, LoadReport):
        raise RunError(
            f"load() of model {model} returned {type(report).__name__}, not a LoadReport",
            "return lens_bench.records.LoadReport(...), or nothing",
        )
    return report
