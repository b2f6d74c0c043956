"""``images.jsonl``: which bytes the images had that a run's answers are about.

One line for every image that was read, written before the answers about it: its id, and size and digest of its bytes
(``data.images.fingerprint``). A run is continued on the same images only; without this record a set whose files were
replaced between two sessions would end as one run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from lens_bench.atomic import naming_full_disk
from lens_bench.errors import DataError
from lens_bench.lock import Kind
from lens_bench.records import EncodedImage, ImageSource
from lens_bench.run.files import read_lines
from lens_bench.run.journal import repair

_MEND = "delete the line and give the same command again; --fresh starts the run from nothing"
_THREADS = 8  # reading the ends of files is waiting, mostly
_ENCODE = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class SeenImages:
    """The record of one run. Use as a context manager; hold a ``Lock`` on the directory.

    Args:
        path: The file; a missing one is empty.
        answered: The images that the run has answers about, by id. Lines of others do not count: they were read, and
            then the run was stopped.

    Raises:
        DataError: The file is damaged.
    """

    def __init__(self, path: Path, answered: Mapping[str, ImageSource]) -> None:
        self._path = path
        self._answered = answered
        self._known: dict[str, str] = {}
        self._stream: BinaryIO | None = None
        repair(path)
        if path.exists():
            lines = ((str(c.get("image_id")), str(c.get("fingerprint"))) for _, c in read_lines(path, _MEND))
            self._known = {image: mark for image, mark in lines if image in answered}

    def __enter__(self) -> SeenImages:
        """The record itself; the file is made with the first image."""
        return self

    def __exit__(self, kind: Kind, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the file."""
        if self._stream is not None:
            with closing(self._stream), naming_full_disk(self._path):
                os.fsync(self._stream.fileno())

    def check(self) -> None:
        """Compare the images that the run has answers about with what is there now. Nothing is decoded.

        Raises:
            DataError: One has other bytes; the message names the first, and says how many there are.
        """
        sources = [(i, s) for i, s in self._answered.items() if i in self._known and isinstance(s, EncodedImage)]
        with ThreadPoolExecutor(_THREADS) as pool:
            marks = list(pool.map(lambda pair: pair[1].mark(), sources))
        changed = [s.name for (i, s), mark in zip(sources, marks, strict=True) if mark != self._known[i]]
        if changed:
            raise _changed(changed[0], len(changed) - 1)

    def see(self, image_id: str, name: str, fingerprint: str) -> None:
        """Record an image that was read, before anything that is answered about it; ``name`` is used in the message.

        Raises:
            DataError: It was read before with other bytes.
        """
        if not fingerprint:
            return
        known = self._known.setdefault(image_id, fingerprint)
        if known != fingerprint:
            raise _changed(name, 0)
        if image_id in self._answered:
            return
        line = memoryview(_ENCODE({"image_id": image_id, "fingerprint": fingerprint}).encode() + b"\n")
        with naming_full_disk(self._path):
            if self._stream is None:
                self._stream = self._path.open("ab", buffering=0)
            while line:
                line = line[self._stream.write(line) :]


def _changed(name: str, more: int) -> DataError:
    others = f" (and {more} more images)" if more else ""
    return DataError(
        f"image {name} was replaced since this run has answers about it{others}",
        "put the old file back to continue; --fresh starts the run again on the new one",
    )
