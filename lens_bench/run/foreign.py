"""Models that run in an environment of their own: another Python, another torch, another transformers.

A model card names the interpreter (``python: ../envs/lisa/bin/python``, relative to the card's folder). The adapter
then runs in a child process there, served by ``foreign_server.py``, which needs numpy and pycocotools in that
environment and nothing of ours; the protocol is described in that file. One adapter file works in both worlds as long
as it imports lens_bench only where it is there.

What happens when something goes wrong while segmenting:

- The adapter raises: the error is raised here, and the run loop halves the batch until it has found the expressions
  that cause it. The child goes on living.
- Out of memory is passed on as ``OutOfMemoryError``, by which the run loop halves its batches.
- The child dies: it is started again with the next call, and an error is raised, so that the run loop finds the guilty
  expressions. That costs one start for every halving, and innocent neighbours get their answers. Where it does not
  come up again twice in a row, it is given up, and every further call raises at once.
- The child hangs: it is killed and started again with the next call, and all expressions of the call get the status
  ``error`` at once. Looking for the guilty one would cost the time limit once more for every halving. The limit is per
  call; ``--batch-size 1`` spares the neighbours.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np

from lens_bench.cards import ModelCard
from lens_bench.errors import CheckpointError, DataError, LensBenchError, OutOfMemoryError, RunError, UsageError
from lens_bench.masks import rle_from_json
from lens_bench.out_of_memory import reads_as_out_of_memory
from lens_bench.records import ImageTask, LoadReport, ModelOptions, Prediction, Query, Tokens
from lens_bench.run import foreign_server
from lens_bench.run.foreign_process import Child, ChildDied, ChildHung

TIMEOUT_S = 600.0
LOAD_TIMEOUT_S = 3600.0
_REVIVALS = 2


class ForeignSegmenter:
    """A segmenter whose adapter runs under the card's interpreter.

    It has ``weight_digest`` and ``expect`` where the adapter has them, which is why the child is started on
    construction.

    Args:
        card: With ``python``.
        options: Handed to the adapter as they are.
        timeout: Seconds for one call of ``segment``; None for the default.
        load_timeout: Seconds for starting, for loading and for digesting weights, each.
        log: File for what the child prints; by default a temporary one. See ``log_to``.

    Raises:
        UsageError: The interpreter or the adapter is missing, or the card cannot be foreign.
        RunError: The child died on the way.
    """

    _KINDS: ClassVar[Mapping[str, type[LensBenchError]]] = {
        "usage": UsageError,
        "data": DataError,
        "checkpoint": CheckpointError,
    }

    def __init__(
        self,
        card: ModelCard,
        options: ModelOptions,
        *,
        timeout: float | None = None,
        load_timeout: float = LOAD_TIMEOUT_S,
        log: Path | None = None,
    ) -> None:
        if card.sees_ground_truth:
            raise UsageError(f"model {card.name}: the ground truth is never sent to a foreign environment")
        self._card = card
        self._options = options
        self._interpreter = interpreter_of(card)
        self._timeout = TIMEOUT_S if timeout is None else timeout
        self._load_timeout = load_timeout
        self._scratch = None if log else tempfile.TemporaryDirectory(prefix="lens-bench-")
        self._log = log or Path(self._scratch.name if self._scratch else "") / f"{card.name}.log"
        self._child: Child | None = None
        self._loaded = False
        self._expected: Sequence[ImageTask] | None = None
        self._failed_revivals = 0
        hello = self._start()
        self.packages = _packages(hello)
        self.restarts = 0
        supported = cast("list[str]", hello["supports"])
        if "weight_digest" in supported:
            self.weight_digest = self._weight_digest
        if "expect" in supported:
            self.expect = self._expect

    @property
    def log(self) -> Path:
        """Where the child's output goes."""
        return self._log

    def log_to(self, path: Path) -> None:
        """Keep the child's output in another file from now on, what it said so far included."""
        if path == self._log:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as stream:
            stream.write(self._log.read_bytes())
        self._log = path
        if self._child is not None:
            self._ask_soon(self._child, {"op": "log", "path": str(path.absolute())}, "opening its log")
            self._child.log = path

    def load(self) -> LoadReport:
        """Load the model there. The report's notes say in which environment.

        Raises:
            RunError: The child died, hung or raised, with its last words.
            CheckpointError: The adapter raised an error of that name.
        """
        return self._load(self._child or self._restart())

    def segment(self, tasks: Sequence[ImageTask]) -> list[Prediction]:
        """Ask the child; see the module's text for what happens when it fails.

        The time that images and answers spent on the way is the stage ``transport``, shared out evenly.

        Raises:
            RunError: The adapter raised, or the child died.
            OutOfMemoryError: It ran out of memory.
        """
        child = self._child if self._child and self._loaded else self._revive()
        queries = [q for t in tasks for q in t.queries]
        request = {"op": "segment", "tasks": [_task(t, with_pixels=True) for t in tasks]}
        pixels = [np.ascontiguousarray(t.pixels).data for t in tasks if t.pixels is not None]
        start = time.perf_counter()
        try:
            answer = self._ask(child, request, self._timeout, "segmenting", pixels)
        except ChildHung as error:
            tail = child.tail()
            self._drop()
            message = f"the process of {self._card.name} was ended: {error}" + (f": {tail}" if tail else "")
            return [Prediction(q.sample_id, "error", error=message) for q in queries]
        raw = cast("list[dict[str, object]]", answer["predictions"])
        if len(raw) != len(queries):
            raise RunError(f"{self._card.name} gave {len(raw)} predictions for {len(queries)} expressions")
        elapsed = 1000 * (time.perf_counter() - start) - cast("float", answer["ms"])
        return [_prediction(r, q, elapsed / len(queries)) for r, q in zip(raw, queries, strict=True)]

    def close(self) -> None:
        """End the child and everything it started."""
        child, self._child, self._loaded = self._child, None, False
        if child is not None:
            child.close()
        if self._scratch is not None:
            self._scratch.cleanup()

    # ------------------------------------------------------------------------------------------ requests

    def _weight_digest(self) -> str:
        child = self._child or self._restart()
        return str(self._ask_soon(child, {"op": "digest"}, "digesting its weights")["digest"])

    def _expect(self, tasks: Sequence[ImageTask]) -> None:
        self._expected = tasks
        self._tell(self._child or self._restart())

    def _tell(self, child: Child) -> None:
        if self._expected is not None:
            request = {"op": "expect", "tasks": [_task(t, with_pixels=False) for t in self._expected]}
            self._ask_soon(child, request, "reading what it will be asked")

    def _start(self) -> dict[str, object]:
        """Start the child and let it construct the adapter; returns its greeting."""
        self._child = Child(self._interpreter, Path(foreign_server.__file__).absolute(), self._log)
        request = {
            "op": "hello",
            "version": foreign_server.VERSION,
            "folder": str(self._card.folder.absolute()),
            "adapter": self._card.adapter,
            "options": {f.name: getattr(self._options, f.name) for f in fields(self._options)}
            | {"args": dict(self._options.args)},
        }
        hello = self._ask_soon(self._child, request, "starting")
        if hello.get("version") != foreign_server.VERSION:
            self._drop()
            raise RunError(f"the server of {self._card.name} speaks version {hello.get('version')} of the protocol")
        return hello

    def _restart(self) -> Child:
        self._drop()
        self._start()
        child = cast("Child", self._child)
        self._tell(child)
        return child

    def _revive(self) -> Child:
        """Start and load again after the child was lost."""
        if self._failed_revivals >= _REVIVALS:
            raise RunError(f"the process of {self._card.name} did not come up again", self._hint())
        self.restarts += 1
        try:
            child = self._restart()
            self._load(child)
        except LensBenchError:
            self._failed_revivals += 1
            raise
        self._failed_revivals = 0
        return child

    def _load(self, child: Child) -> LoadReport:
        report = cast("dict[str, object]", self._ask_soon(child, {"op": "load"}, "loading")["report"])
        self._loaded = True
        return LoadReport(
            parameters=cast("int", report["parameters"]),
            ignored=tuple(cast("list[str]", report["ignored"])),
            notes=(
                *cast("list[str]", report["notes"]),
                "foreign environment: " + ", ".join(f"{k} {v}" for k, v in self.packages.items()),
            ),
            warnings=tuple(cast("list[str]", report.get("warnings") or [])),
        )

    def _ask_soon(self, child: Child, request: Mapping[str, object], doing: str) -> dict[str, object]:
        """Ask for something without which there is no going on: no answer in time is an error too."""
        try:
            return self._ask(child, request, self._load_timeout, doing)
        except ChildHung as error:
            tail = child.tail()
            self._drop()
            raise RunError(
                f"the process of {self._card.name} was ended while {doing}: {error}" + (f": {tail}" if tail else ""),
                self._hint(),
            ) from error

    def _ask(
        self,
        child: Child,
        request: Mapping[str, object],
        timeout: float,
        doing: str,
        payload: Sequence[memoryview] = (),
    ) -> dict[str, object]:
        try:
            answer = child.ask(request, payload, timeout=timeout)
        except ChildDied as error:
            self._drop()
            raise RunError(f"the process of {self._card.name} died while {doing}: {error}", self._hint()) from error
        failure = cast("dict[str, Any] | None", answer.get("error"))
        if failure is not None:
            kind = self._KINDS.get(failure["kind"], RunError)
            if any(reads_as_out_of_memory(raised["classes"], raised["message"]) for raised in failure["raised"]):
                kind = OutOfMemoryError
            text = f"{self._card.name} failed while {doing}: {failure['type']}: {failure['message']}"
            raise kind(" ".join(text.split()), self._hint())
        return answer

    def _hint(self) -> str:
        temporary = self._scratch is not None and self._log.is_relative_to(self._scratch.name)
        return "" if temporary else f"what it printed is in {self._log}"

    def _drop(self) -> None:
        child, self._child, self._loaded = self._child, None, False
        if child is not None:
            child.kill()


def interpreter_of(card: ModelCard) -> Path:
    """The interpreter that the card names, relative to its folder; links are kept, a virtual environment's is one.

    Raises:
        UsageError: There is none at that place.
    """
    path = (card.folder / Path(card.python or "").expanduser()).absolute()
    if not card.python or not path.is_file():
        raise UsageError(
            f"model {card.name} needs the Python interpreter {path}, which is not there",
            f"make that environment as described in {card.folder / 'README.md'}",
        )
    return path


def _packages(hello: Mapping[str, object]) -> dict[str, str]:
    return {"Python": str(hello["python"]), **cast("dict[str, str]", hello["packages"])}


def _task(task: ImageTask, *, with_pixels: bool) -> dict[str, object]:
    names = ("sample_id", "expression", "raw", "is_sentence", "key")
    return {
        "image_id": task.image_id,
        "size": list(task.size),
        "queries": [{name: getattr(q, name) for name in names} for q in task.queries],
        "pixels": with_pixels and task.pixels is not None,
    }


def _prediction(raw: Mapping[str, object], query: Query, transport_ms: float) -> Prediction:
    try:
        mask = None if raw["mask"] is None else rle_from_json(raw["mask"], f"the mask of {query.sample_id}")
    except DataError as error:
        raise RunError(error.message, error.hint) from None
    if raw["status"] not in ("ok", "no_mask", "error"):
        raise RunError(f"the prediction of {query.sample_id} has the unknown status {raw['status']!r}")
    box, tokens = cast("list[float] | None", raw["box"]), cast("list[int] | None", raw["tokens"])
    if box is not None and len(box) != 4:
        raise RunError(f"the box of {query.sample_id} has {len(box)} numbers")
    return Prediction(
        sample_id=query.sample_id,
        status=raw["status"],
        mask=mask,
        box=None if box is None else (box[0], box[1], box[2], box[3]),
        score=cast("float | None", raw["score"]),
        text=cast("str | None", raw["text"]),
        tokens=None if tokens is None else Tokens(tokens[0], tokens[1]),
        stages_ms={**cast("dict[str, float]", raw["stages_ms"]), "transport": transport_ms},
        error=cast("str | None", raw["error"]),
    )
