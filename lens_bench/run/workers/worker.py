"""What runs at the other end: one model, in a process of its own, that answers what it is sent.

A worker reads the images itself, from the place where the driving process knows them, and decodes those of its next
call while the model works on this one. It writes nothing but a foreign model's log.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from lens_bench.cards import ModelCard
from lens_bench.errors import LensBenchError
from lens_bench.out_of_memory import Halvings
from lens_bench.perf.hardware import environment, fingerprint, peak_rss_mb
from lens_bench.perf.speed import Call, peak_device_mb
from lens_bench.records import ImageSource, ImageTask, LoadReport, Prediction
from lens_bench.registry import find_model
from lens_bench.run.answer import BatchSize, adapter_code, answer
from lens_bench.run.decode import Decoded, decode
from lens_bench.run.plan import Request, make_model, weights_of
from lens_bench.run.session import halved, load_model
from lens_bench.run.workers.pool import Identity
from lens_bench.segmenter import RunsElsewhere, Segmenter, SupportsExpect

# What the driving process was told that the libraries of a model read from the environment.
_PASSED_ON = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HOME", "LENS_BENCH_DATA")
_THREADS = 2


@dataclass(frozen=True, slots=True)
class Job:
    """What all workers of a command are made of.

    Attributes:
        request: With device, dtype and engine as the driving process resolved them.
        folder: Where the command was given: relative paths start there, if it is there.
        log: Of a foreign model; the worker's number is added to the name.
    """

    card: ModelCard
    request: Request
    folder: Path
    log: Path
    environment: Mapping[str, str] = field(
        default_factory=lambda: {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    )


@dataclass(frozen=True, slots=True)
class ImageParcel:
    """One image, where to read it, and what is asked about it; ``source`` is None for a model that reads none."""

    task: ImageTask
    source: ImageSource | None


@dataclass(frozen=True, slots=True)
class ImageAnswer:
    """The answers to one call of the driving process.

    Attributes:
        predictions: Of each image, in the order of the parcels; empty for one that could not be read.
        fingerprints: Of each image, see ``decode.Decoded``.
        unread: Which could not be read, by their place among the parcels, and why.
        calls: Of the model; more than one where memory ran out.
        reasons: Why the worker's speed is not comparable, all of them so far.
        halvings: How often memory ran out in these calls.
        peak_rss_mb: Of the worker so far; ``peak_device_mb`` likewise, None on a CPU.
    """

    predictions: tuple[tuple[Prediction, ...], ...]
    fingerprints: tuple[str, ...]
    unread: Mapping[int, LensBenchError]
    calls: tuple[Call, ...]
    reasons: tuple[str, ...]
    halvings: int
    peak_rss_mb: float
    peak_device_mb: float | None


class Worker:
    """The model at work. Methods are called one after another; errors are returned, to be raised at the other end.

    Args:
        job: What to construct.
        number: The worker's number, for the name of a log.
    """

    def __init__(self, job: Job, number: int) -> None:
        self._job = job
        self._number = number
        self._segmenter: Segmenter | None = None
        self._size = BatchSize(job.request.batch_size or job.card.batch_size)
        self._inside = Halvings()
        self._decoding: deque[tuple[str, Future[Decoded]]] = deque()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="decode")

    def introduce(self) -> Identity | LensBenchError:
        """Construct the model, and say what and where it is."""
        os.environ.update(self._job.environment)
        if self._job.folder.is_dir():
            os.chdir(self._job.folder)
        try:
            card = _card_here(self._job.card)
            options, self._segmenter = make_model(card, self._job.request)
            elsewhere = {}
            if isinstance(self._segmenter, RunsElsewhere):
                log = self._job.log
                self._segmenter.log_to(log.with_name(f"{log.stem}-{self._number}{log.suffix}"))
                elsewhere = {"model_packages": dict(self._segmenter.packages)}
            with adapter_code(card.name, "digesting"):
                digest = weights_of(self._segmenter, card)
        except LensBenchError as error:
            return error
        seen = {**environment(), **elsewhere}
        return Identity(socket.gethostname(), os.getpid(), fingerprint(options.device), digest, seen)

    def load(self, expected: Sequence[ImageTask] | None) -> tuple[LoadReport, float] | LensBenchError:
        """Load the model; returns its report and the seconds that took."""
        model, name = self._model, self._job.card.name
        try:
            if expected is not None and isinstance(model, SupportsExpect):
                with adapter_code(name, "preparing"):
                    model.expect(expected)
            start = time.perf_counter()
            return load_model(model, name), time.perf_counter() - start
        except LensBenchError as error:
            return error

    def answer(self, parcels: Sequence[ImageParcel], ahead: Sequence[ImageParcel]) -> ImageAnswer:
        """Answer everything that is asked about these images; ``ahead`` are read in the meantime."""
        decoded = self._read(parcels)
        self._decoding = deque((p.task.image_id, self._threads.submit(_decode, p)) for p in ahead)
        tasks = [item.task for item in decoded if item.error is None]
        calls: list[Call] = []
        before = self._halvings
        predictions = iter([p for part in self._calls(tasks, calls) for p in part])
        return ImageAnswer(
            tuple(
                tuple(next(predictions) for _ in item.task.queries) if item.error is None else () for item in decoded
            ),
            tuple(item.fingerprint for item in decoded),
            {place: item.error for place, item in enumerate(decoded) if item.error is not None},
            tuple(calls),
            tuple(self._reasons()),
            self._halvings - before,
            peak_rss_mb(),
            peak_device_mb(self._job.request.device or "cpu"),
        )

    def close(self) -> None:
        """Free the model."""
        self._threads.shutdown(cancel_futures=True)
        if self._segmenter is not None:
            self._segmenter.close()

    @property
    def _model(self) -> Segmenter:
        if self._segmenter is None:
            raise RuntimeError("the worker was not introduced")
        return self._segmenter

    def _read(self, parcels: Sequence[ImageParcel]) -> list[Decoded]:
        """The images with their pixels, or the reasons why there are none; those expected are there already."""
        expected = dict(self._decoding)
        futures = [expected.get(p.task.image_id) or self._threads.submit(_decode, p) for p in parcels]
        found = [future.result() for future in futures]
        return [
            replace(item, task=replace(p.task, pixels=item.task.pixels)) for p, item in zip(parcels, found, strict=True)
        ]

    def _calls(self, tasks: Sequence[ImageTask], calls: list[Call]) -> Iterator[list[Prediction]]:
        """Predictions call by call, as many images to a call as memory allows."""
        start = 0
        while start < len(tasks):
            part = tasks[start : start + self._size.images]
            began = time.perf_counter()
            yield answer(self._model, part, self._size)
            calls.append(Call(time.perf_counter() - began, len(part), sum(len(t.queries) for t in part), self._number))
            start += len(part)

    @property
    def _halvings(self) -> int:
        return self._size.halvings + self._inside.count

    def _reasons(self) -> Iterator[str]:
        yield from halved(self._size, self._inside)
        if isinstance(self._segmenter, RunsElsewhere) and self._segmenter.restarts:
            yield f"the model's process was started again {self._segmenter.restarts} times"


def _decode(parcel: ImageParcel) -> Decoded:
    return decode(parcel.task, parcel.source) if parcel.source else Decoded(parcel.task)


def _card_here(card: ModelCard) -> ModelCard:
    """The card, where its folder is here too; else that of the same name, if there is one."""
    return card if card.folder.is_dir() else find_model(card.name)
