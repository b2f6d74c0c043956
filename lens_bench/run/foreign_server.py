"""The child's side of a foreign environment: serves one adapter over stdin and stdout.

This one file is run by the interpreter that a model card names (``python: ../envs/x/bin/python``). It needs Python 3.8
or later, numpy and pycocotools there, and nothing of lens_bench. The parent's side is ``foreign.py``.

Frames are the same in both directions, numbers big-endian::

    b"LBF1" | length of header, uint32 | length of payload, uint64 | header, UTF-8 JSON | payload

The parent asks; the child answers each request with one frame. Requests (``op``), their fields, and the answer's:

- ``hello``: ``version``, ``folder``, ``adapter``, ``options`` -> ``version``, ``python``, ``packages``, ``supports``
  (the optional methods that the adapter has). Imports and constructs the adapter.
- ``log``: ``path`` -> nothing. Output goes there from now on.
- ``digest`` -> ``digest``.
- ``expect``: ``tasks`` without pixels -> nothing.
- ``load`` -> ``report``.
- ``segment``: ``tasks``; the payload holds the RGB bytes [H, W, 3] of those with ``pixels: true``, one after the other
  -> ``predictions``, and ``ms``, the time the adapter took.
- ``close`` -> nothing, and the child ends.

A request that fails is answered with ``error``: ``kind`` (``usage``, ``data``, ``checkpoint`` or ``model``), ``type``,
``message``, and ``raised``, the class names and the message of the exception and of each that it was raised from, by
which the parent knows that memory ran out; the traceback goes to stderr. A task is ``{"image_id", "size": [h, w],
"queries": [...], "pixels"}``, a query ``{"sample_id", "expression", "raw", "is_sentence", "key"}``.

An adapter here is what it is in our own process: a class constructed with an options object, with ``load()``,
``segment(tasks)`` and ``close()``, and if it likes ``weight_digest()`` and ``expect(tasks)``. Options, tasks and
queries have the attributes of their namesakes in ``lens_bench.records`` (``truth`` is always None). ``segment`` returns
one prediction per query, in order: None (no mask), or an object or dict with any of ``mask`` (a bool or integer array
[H, W], non-zero is foreground, or an RLE with ``size`` and ``counts``), ``box``, ``score``, ``text``, ``tokens``,
``stages_ms``, ``status``, ``error``, ``sample_id``. What it prints goes to the log, never into the protocol.
"""
# Nothing here may need a newer Python than 3.8, and the imports must wait for the line about sys.path.
# ruff: noqa: UP006, UP035

from __future__ import annotations

import sys

# The folder of this file is no place to import from: its modules would hide packages of the environment.
if __name__ == "__main__" and not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    del sys.path[0]

import gc
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import signal
import struct
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Callable, Dict, Iterator, List, Sequence, cast

import numpy as np
from pycocotools import mask as coco

VERSION = 1
MAGIC = b"LBF1"
PREFIX = struct.Struct(">4sIQ")
REPORTED = ("torch", "transformers", "numpy", "pycocotools")
OPTIONAL = ("weight_digest", "expect")
KINDS = {"UsageError": "usage", "DataError": "data", "CheckpointError": "checkpoint"}
ORPHAN_CHECK_S = 1.0

Json = Dict[str, object]


# ---------------------------------------------------------------------------------------------- what an adapter sees


@dataclass(frozen=True)
class Options:
    """As ``lens_bench.records.ModelOptions``."""

    name: str
    folder: str
    args: Json
    device: str
    dtype: str
    engine: str | None
    seed: int


@dataclass(frozen=True)
class Query:
    """As ``lens_bench.records.Query``; the ground truth never gets here."""

    sample_id: str
    expression: str
    raw: str
    is_sentence: bool | None
    key: str | None
    truth: None = None


@dataclass(frozen=True)
class Task:
    """As ``lens_bench.records.ImageTask``."""

    image_id: str
    size: tuple[int, int]
    queries: tuple[Query, ...]
    pixels: np.ndarray | None = None

    @property
    def rgb(self) -> np.ndarray:
        """The decoded image, uint8 [H, W, 3]."""
        if self.pixels is None:
            raise ValueError("image " + self.image_id + " was not decoded: set `reads_images: true` in the card")
        return self.pixels


class Adapter:
    """The adapter's methods, whose class is known only when it is there."""

    def __init__(self, hello: Json) -> None:
        factory = import_adapter(Path(str(hello["folder"])), str(hello["adapter"]))
        self.model = factory(Options(**cast("Json", hello["options"])))  # type: ignore[arg-type]

    def supports(self) -> list[str]:
        """Which optional methods it has."""
        return [name for name in OPTIONAL if callable(getattr(self.model, name, None))]

    def call(self, method: str, *args: object) -> object:
        """Call a method by name."""
        return getattr(self.model, method)(*args)


def import_adapter(folder: Path, adapter: str) -> Callable[[Options], object]:
    """Import ``file.py:Class`` from the folder, as part of a package made of it, or ``package.module:Class``."""
    where, _, attribute = adapter.partition(":")
    if where.endswith(".py"):
        path = folder / where
        package = "lens_bench_plugin"
        spec = importlib.util.spec_from_loader(package, loader=None, is_package=True)
        if spec is None or not path.is_file():
            raise UsageError("no file " + str(path))
        module = importlib.util.module_from_spec(spec)
        module.__path__ = [str(path.parent)]
        sys.modules[package] = module
        where = package + "." + path.stem
    try:
        found = getattr(importlib.import_module(where), attribute, None)
    except ImportError as error:
        raise UsageError("the adapter " + adapter + " cannot be imported: " + str(error)) from error
    if not callable(found):
        raise UsageError(where + " has no class " + repr(attribute))
    return cast("Callable[[Options], object]", found)


class UsageError(Exception):
    """The adapter is not there or not what the card says."""


# ---------------------------------------------------------------------------------------------- answers


def to_json(answer: object, query: Query, size: tuple[int, int]) -> Json:
    """One prediction as JSON. Raises ``ValueError`` or ``TypeError`` where it is not a prediction for this query."""

    def get(name: str) -> object:
        return answer.get(name) if isinstance(answer, dict) else getattr(answer, name, None)

    named = get("sample_id")
    if named is not None and named != query.sample_id:
        raise ValueError("answered " + repr(named) + " where " + repr(query.sample_id) + " was asked: not in order")
    mask, box, score, text, error = get("mask"), get("box"), get("score"), get("text"), get("error")
    tokens, stages = get("tokens"), get("stages_ms")
    return {
        "status": str(get("status") or ("no_mask" if mask is None and box is None else "ok")),
        "mask": None if mask is None else rle_of(mask, size),
        "box": None if box is None else [float(v) for v in cast("Sequence[float]", box)],
        "score": None if score is None else float(cast("float", score)),
        "text": None if text is None else str(text),
        "tokens": None if tokens is None else [int(cast("int", field(tokens, k))) for k in ("prompt", "completion")],
        "stages_ms": {str(k): float(v) for k, v in cast("dict[str, float]", stages or {}).items()},
        "error": None if error is None else str(error),
    }


def field(thing: object, name: str) -> object:
    """An entry of a dict, or an attribute of anything else."""
    return thing[name] if isinstance(thing, dict) else getattr(thing, name)


def rle_of(mask: object, size: tuple[int, int]) -> Json:
    """A mask as compressed RLE: from an RLE (dict or object), or from a bool or integer array [H, W]."""
    if isinstance(mask, dict) or hasattr(mask, "counts"):
        counts, given = field(mask, "counts"), [int(v) for v in cast("Sequence[int]", field(mask, "size"))]
        if isinstance(counts, (str, bytes)):
            return {"size": given, "counts": counts if isinstance(counts, str) else counts.decode("ascii")}
        rle = coco.frPyObjects({"size": given, "counts": [int(c) for c in cast("Sequence[int]", counts)]}, *given)
    else:
        if hasattr(mask, "detach"):  # a tensor, perhaps on another device
            mask = mask.detach().cpu().numpy()
        array = np.asarray(mask)
        if array.dtype.kind not in "bui":
            raise TypeError("a mask must be bool or integer, not " + str(array.dtype) + ": apply the threshold first")
        if array.shape != size:
            raise ValueError("a mask has shape " + str(array.shape) + ", its image " + str(size))
        rle = coco.encode(np.asfortranarray(array != 0, dtype=np.uint8))
    return {"size": [int(v) for v in rle["size"]], "counts": rle["counts"].decode("ascii")}


def describe_error(error: BaseException) -> Json:
    """What kind of failure it is, and all that the parent needs to know whether memory ran out."""
    names = [kind.__name__ for kind in type(error).__mro__]
    kind = next((KINDS[name] for name in names if name in KINDS), "model")
    raised: List[Json] = []
    cause: BaseException | None = error
    while cause is not None and len(raised) < 10:
        raised.append({"classes": [kind.__name__ for kind in type(cause).__mro__], "message": str(cause)})
        cause = cause.__cause__
    return {"kind": kind, "type": type(error).__name__, "message": str(error), "raised": raised}


# ---------------------------------------------------------------------------------------------- requests


class Server:
    """Answers requests until it is told to close or the parent is gone."""

    def __init__(self, requests: BinaryIO, answers: BinaryIO) -> None:
        self._requests = requests
        self._answers = answers
        self._adapter: Adapter | None = None

    def serve(self) -> None:
        """The loop. Whatever an adapter raises is an answer: this is the boundary to somebody else's code."""
        while True:
            header = self._read_header()
            if header is None:
                return
            request, payload = header
            failed = False
            try:
                answer = self._answer(request, payload)
                text = json.dumps(answer, allow_nan=False)
            except (Exception, SystemExit) as error:
                failed = True
                traceback.print_exc()
                text = json.dumps({"error": describe_error(error)})
            if failed:  # the exception is gone here, and with it the tensors of its traceback
                self._free_memory()
            self._send(text.encode("ascii"))
            if request["op"] == "close":
                return

    def _answer(self, request: Json, payload: bytearray) -> Json:
        op = request["op"]
        if op == "hello":
            return self._hello(request)
        if op == "log":
            redirect_output(str(request["path"]))
            return {}
        if self._adapter is None:
            raise UsageError("the first request must be hello")
        if op == "digest":
            return {"digest": str(self._adapter.call("weight_digest"))}
        if op == "expect":
            self._adapter.call("expect", list(read_tasks(request, payload)))
            return {}
        if op == "load":
            return {"report": report_json(self._adapter.call("load"))}
        if op == "segment":
            return self._segment(self._adapter, request, payload)
        if op == "close":
            self._adapter.call("close")
            return {}
        raise UsageError("unknown request " + repr(op))

    def _hello(self, request: Json) -> Json:
        if request["version"] != VERSION:
            raise UsageError("protocol version " + str(request["version"]) + " asked, this is " + str(VERSION))
        self._adapter = Adapter(request)
        return {
            "version": VERSION,
            "python": platform.python_version(),
            "packages": versions(),
            "supports": self._adapter.supports(),
        }

    @staticmethod
    def _segment(adapter: Adapter, request: Json, payload: bytearray) -> Json:
        tasks = list(read_tasks(request, payload))
        asked = [(query, task.size) for task in tasks for query in task.queries]
        start = time.perf_counter()
        answers = list(cast("Sequence[object]", adapter.call("segment", tasks)))
        elapsed = time.perf_counter() - start
        if len(answers) != len(asked):
            raise ValueError(str(len(answers)) + " predictions for " + str(len(asked)) + " expressions")
        # Not zip(strict=True): that is Python 3.10.
        predictions = [to_json(answers[i], query, size) for i, (query, size) in enumerate(asked)]
        return {"predictions": predictions, "ms": 1000 * elapsed}

    @staticmethod
    def _free_memory() -> None:
        """Give cached device memory back, so that a smaller call has room."""
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()

    def _read_header(self) -> tuple[Json, bytearray] | None:
        prefix = self._read(PREFIX.size)
        if prefix is None:
            return None
        magic, header_length, payload_length = PREFIX.unpack(prefix)
        if magic != MAGIC:
            raise SystemExit("not a request: " + repr(bytes(magic)))
        header, payload = self._read(header_length), self._read(payload_length)
        if header is None or payload is None:
            return None
        return cast("Json", json.loads(header.decode("utf-8"))), payload

    def _read(self, length: int) -> bytearray | None:
        data = bytearray(length)
        view, have = memoryview(data), 0
        while have < length:
            count = self._requests.readinto(view[have:])  # type: ignore[attr-defined]
            if not count:
                return None  # the parent is gone
            have += count
        return data

    def _send(self, header: bytes) -> None:
        frame = memoryview(PREFIX.pack(MAGIC, len(header), 0) + header)
        while frame:
            frame = frame[self._answers.write(frame) :]


def read_tasks(request: Json, payload: bytearray) -> Iterator[Task]:
    """The tasks of a request. Pixels are views of the payload, writable, and nobody else's."""
    offset = 0
    for raw in cast("list[Json]", request["tasks"]):
        height, width = cast("list[int]", raw["size"])
        queries = tuple(Query(**q) for q in cast("list[Json]", raw["queries"]))  # type: ignore[arg-type]
        pixels = None
        if raw["pixels"]:
            count = height * width * 3
            pixels = np.frombuffer(payload, dtype=np.uint8, count=count, offset=offset).reshape(height, width, 3)
            offset += count
        yield Task(str(raw["image_id"]), (height, width), queries, pixels)


def report_json(report: object) -> Json:
    """What ``load`` returned: None, or an object or dict with the fields of ``records.LoadReport``."""

    def get(name: str) -> object:
        return report.get(name) if isinstance(report, dict) else getattr(report, name, None)

    return {
        "parameters": int(cast("int", get("parameters") or 0)),
        "ignored": [str(n) for n in cast("Sequence[str]", get("ignored") or ())],
        "notes": [str(n) for n in cast("Sequence[str]", get("notes") or ())],
        "warnings": [str(n) for n in cast("Sequence[str]", get("warnings") or ())],
    }


def versions() -> Json:
    """Versions of what matters to a result, without importing it."""
    found: Json = {}
    for name in REPORTED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


# ---------------------------------------------------------------------------------------------- process


def redirect_output(path: str) -> None:
    """Append what is printed, here and by libraries and children, to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    target = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)


def end_with_parent(parent: int) -> None:
    """End, children included, when the parent is gone. In the middle of a call nobody reads stdin, which would tell."""
    while os.getppid() == parent:
        time.sleep(ORPHAN_CHECK_S)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def main() -> None:
    """Keep the protocol's pipes for ourselves, give the rest of the process harmless ones, and serve."""
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    threading.Thread(target=end_with_parent, args=(os.getppid(),), daemon=True).start()
    Server(cast("BinaryIO", requests), cast("BinaryIO", answers)).serve()


if __name__ == "__main__":
    main()
