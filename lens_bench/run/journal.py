"""The journal of a run: ``predictions.jsonl``, appended and flushed as answers come.

A process that is killed at any byte loses at most the line it was writing: on opening, a torn last line is cut off and
its sample is done again. One process at a time may hold a run directory.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from lens_bench.atomic import naming_full_disk
from lens_bench.errors import DataError
from lens_bench.lock import FolderLock, Kind
from lens_bench.records import Prediction
from lens_bench.run.files import RunFiles, prediction_from_json, prediction_to_line, read_lines

_SYNC_EVERY = 64  # lines between two fsyncs: a power cut may cost these, a killed process costs none
_MEND = "delete the line and give the same command again: it asks the expression again; --fresh starts from nothing"
_TOGETHER = 64  # answers of an earlier session that are scored at once


class Lock(FolderLock):
    """Exclusive hold on a run directory."""

    def __init__(self, files: RunFiles) -> None:
        super().__init__(files.root, files.lock)


class Journal:
    """Append-only store of predictions. Use as a context manager; hold a ``Lock`` on the directory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: BinaryIO | None = None
        self._unsynced = 0

    def __enter__(self) -> Journal:
        _require_no_link(self._path)
        self._stream = self._path.open("ab", buffering=0)
        return self

    def __exit__(self, kind: Kind, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._stream is not None:
            with closing(self._stream), naming_full_disk(self._path):
                os.fsync(self._stream.fileno())
            self._stream = None

    def append(self, predictions: Iterable[Prediction]) -> None:
        """Write predictions; on return a killed process loses none of them.

        Raises:
            RunError: There is no room; what was half written is cut off when the run is continued.
        """
        if self._stream is None:
            raise ValueError("the journal is not open")
        lines = [prediction_to_line(p) for p in predictions]
        data = memoryview(b"".join(lines))
        with naming_full_disk(self._path):
            while data:
                data = data[self._stream.write(data) :]
            self._unsynced += len(lines)
            if self._unsynced >= _SYNC_EVERY:
                os.fsync(self._stream.fileno())
                self._unsynced = 0


def repair(path: Path) -> int:
    """Cut a torn last line off a journal; returns how many bytes went. A missing journal is an empty one.

    Raises:
        DataError: It is a link.
    """
    _require_no_link(path)
    if not path.exists():
        return 0
    with path.open("r+b") as stream:
        size = stream.seek(0, os.SEEK_END)
        keep = _end_of_last_line(stream, size)
        if keep < size:
            stream.truncate(keep)
        return size - keep


def read(path: Path, *, without_errors: bool = False) -> Iterator[Prediction]:
    """The predictions of a journal, one per sample: where a sample stands twice, the later line counts.

    Args:
        path: The journal; a missing one is empty. A torn last line must have been cut off (``repair``).
        without_errors: Leave out those with status ``error``, so that they are done again.

    Raises:
        DataError: A line in the middle is damaged; the message names it, the hint how to go on.
    """
    if not path.exists():
        return
    last: dict[str, int] = {}
    for number, content in read_lines(path, _MEND):
        last[str(content.get("sample_id"))] = number
    for number, content in read_lines(path):
        if last[str(content.get("sample_id"))] != number:
            continue
        try:
            prediction = prediction_from_json(content, f"{path}, line {number}")
        except DataError as error:
            raise DataError(error.message, error.hint or _MEND) from None
        if not (without_errors and prediction.status == "error"):
            yield prediction


def read_asked(path: Path, asked: Collection[str], *, without_errors: bool = False) -> Iterator[list[Prediction]]:
    """The predictions of a journal as ``read`` gives them, so many at a time as are scored fast together.

    Raises:
        DataError: As ``read``; or a prediction is of a sample that is not in ``asked``.
    """
    rest = read(path, without_errors=without_errors)
    while batch := list(islice(rest, _TOGETHER)):
        for prediction in batch:
            if prediction.sample_id not in asked:
                raise DataError(f"{path} holds {prediction.sample_id}, which this run does not ask", _MEND)
        yield batch


def _require_no_link(path: Path) -> None:
    """Whatever a link in somebody's run directory leads to is neither cut nor appended to."""
    if path.is_symlink():
        raise DataError(f"{path} is a link", "a run writes to files of its own: put a copy in its place")


def _end_of_last_line(stream: BinaryIO, size: int) -> int:
    """Position after the last newline, found from the end in steps so that a large journal is not read whole."""
    position = size
    while position > 0:
        step = min(1 << 16, position)
        stream.seek(position - step)
        found = stream.read(step).rfind(b"\n")
        if found >= 0:
            return position - step + found + 1
        position -= step
    return 0
