"""Rasterised ground truth, kept on disk from one run of a split to the next.

What an annotation becomes under a protocol depends on the annotation, a few of the protocol's choices and the libraries
that rasterise. So a file is named after split, choices and versions, and in it every entry after the annotation's own
digest. An entry that is damaged, or not there, is made anew; a folder that cannot be written costs only the time.

The folder is ``$LENS_BENCH_CACHE``, else ``lens-bench/truths`` in ``$XDG_CACHE_HOME`` or ``~/.cache``;
``LENS_BENCH_CACHE=off`` keeps nothing. An entry takes about a kilobyte. Together the files stay below ``MOST_BYTES``:
those that were not used for longest are removed, and so is what a process that was killed while writing left behind.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import zlib
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Final

import cv2
import numpy as np
import PIL

from lens_bench.data.content import truth_digest
from lens_bench.masks import BOUNDARY_RATIO
from lens_bench.records import GroundTruth, Rle
from lens_bench.scoring.boundary import Band
from lens_bench.scoring.counts import PreparedTruth, prepare_truth
from lens_bench.scoring.protocols import Protocol

FORMAT = 4  # to be raised with every change of what is stored, or of how truth is prepared
MOST_BYTES = 2**30
_MOST_NEW = 2**26  # held in memory until the end of a run
_ABANDONED_S = 3600.0  # a file is written in seconds; one that has not grown for so long has lost its writer
_MAGIC: Final = b"lens-bench truth\n"
_COUNT, _ENTRY = struct.Struct("<Q"), struct.Struct("<32sQLL")  # digest, offset, length, checksum
_HEAD = struct.Struct("<LLQ?4d?LLLLLQ")


def cache_folder() -> Path | None:
    """Where files are kept; None where the user wants none."""
    named = os.environ.get("LENS_BENCH_CACHE")
    if named:
        return None if named == "off" else Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lens-bench" / "truths"


class TruthStore:
    """Prepares annotations, or finds them prepared. Safe to call from several threads; use as a context manager.

    Args:
        suite_hash: Content hash of the split.
        protocol: Under which annotations are read.
        folder: Where the file lies; None keeps nothing.
    """

    def __init__(self, suite_hash: str, protocol: Protocol, folder: Path | None) -> None:
        self._protocol = protocol
        self._path = None if folder is None else folder / f"{suite_hash[:24]}-{truth_rules(protocol)}.bin"
        self._data: mmap.mmap | bytes = b""
        self._index: dict[bytes, tuple[int, int, int]] = {}
        self._new: dict[bytes, bytes] = {}
        self._room = _MOST_NEW

    def __enter__(self) -> TruthStore:
        if self._path is not None:
            with suppress(OSError, ValueError):  # not there, or empty
                with self._path.open("rb") as stream:
                    self._data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
                os.utime(self._path)
            self._index = _read_index(self._data)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._path is not None and self._new:
                with suppress(OSError):
                    self._write(self._path)
                    _sweep(self._path)
                    _shrink(self._path.parent, MOST_BYTES)
        finally:
            self._index = {}
            if isinstance(self._data, mmap.mmap):
                self._data.close()

    def prepare(self, truth: GroundTruth) -> PreparedTruth:
        """``prepare_truth(truth, protocol)``. Raises as that does."""
        if self._path is None:
            return prepare_truth(truth, self._protocol)
        digest = truth_digest(truth)
        found = self._index.get(digest)
        if found is not None:
            offset, length, checksum = found
            payload = self._data[offset : offset + length]
            if len(payload) == length and zlib.crc32(payload) == checksum:
                return _unpack(payload)
        prepared = prepare_truth(truth, self._protocol)
        if self._room > 0 and digest not in self._new:
            self._new[digest] = _pack(prepared)
            self._room -= len(self._new[digest])
        return prepared

    def _write(self, path: Path) -> None:
        """Replace the file by one with the new entries too."""
        old = {d: place for d, place in self._index.items() if d not in self._new}
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        offset = len(_MAGIC) + _COUNT.size + _ENTRY.size * (len(old) + len(self._new)) + 4
        table = [_COUNT.pack(len(old) + len(self._new))]
        places = [(d, length, checksum) for d, (_, length, checksum) in old.items()]
        places += [(d, len(payload), zlib.crc32(payload)) for d, payload in self._new.items()]
        for digest, length, checksum in places:
            table.append(_ENTRY.pack(digest, offset, length, checksum))
            offset += length
        head = b"".join(table)
        try:
            with temporary.open("wb") as stream:
                stream.write(_MAGIC + head + zlib.crc32(head).to_bytes(4, "little"))
                for start, length, _ in old.values():
                    stream.write(self._data[start : start + length])
                stream.writelines(self._new.values())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def truth_rules(protocol: Protocol) -> str:
    """Digest of everything but the annotation that a prepared truth depends on."""
    choices = (
        protocol.merge, protocol.ignore, protocol.resize, protocol.scale_polygons, protocol.truth_box_from_mask,
        BOUNDARY_RATIO,
    )  # fmt: skip
    versions = (version("pycocotools"), cv2.__version__, PIL.__version__)
    return hashlib.sha256(repr((FORMAT, choices, versions)).encode()).hexdigest()[:16]


def _read_index(data: mmap.mmap | bytes) -> dict[bytes, tuple[int, int, int]]:
    """Offset, length and checksum by digest; empty where the head of the file is not whole."""
    start = len(_MAGIC)
    if len(data) < start + _COUNT.size or data[:start] != _MAGIC:
        return {}
    end = start + _COUNT.size + _ENTRY.size * int(_COUNT.unpack_from(data, start)[0])
    if len(data) < end + 4 or zlib.crc32(data[start:end]) != int.from_bytes(data[end : end + 4], "little"):
        return {}
    return {digest: (o, n, c) for digest, o, n, c in _ENTRY.iter_unpack(data[start + _COUNT.size : end])}


def _pack(truth: PreparedTruth) -> bytes:
    bits = zlib.compress(truth.band.bits.tobytes(), 1)
    ignore = b"" if truth.ignore is None else truth.ignore.counts
    box = truth.box or (0.0, 0.0, 0.0, 0.0)
    head = _HEAD.pack(
        *truth.target.size, truth.area, truth.box is not None, *box, truth.ignore is not None,
        len(truth.target.counts), len(ignore),
        truth.band.x, truth.band.top, truth.band.bits.shape[1], truth.band.area,
    )  # fmt: skip
    return b"".join((head, truth.target.counts, ignore, bits))


def _unpack(payload: bytes) -> PreparedTruth:
    height, width, area, boxed, x1, y1, x2, y2, ignoring, first, second, x, top, stride, band_area = _HEAD.unpack_from(
        payload
    )
    start = _HEAD.size
    target = Rle((height, width), payload[start : start + first])
    ignore = Rle((height, width), payload[start + first : start + first + second]) if ignoring else None
    bits = np.frombuffer(zlib.decompress(payload[start + first + second :]), dtype=np.uint8)
    band = Band(x, top, bits.reshape(-1, stride) if stride else bits.reshape(0, 0), band_area)
    return PreparedTruth(target, ignore, area, (x1, y1, x2, y2) if boxed else None, band)


def _sweep(written: Path) -> None:
    """Remove what writers that were killed left beside a file written just now.

    Ages are by the clock of the file system, which others may share. A writer that was only stopped loses its entries
    and nothing else.
    """
    now = written.stat().st_mtime
    for path in written.parent.glob(".*.bin.*.tmp"):
        with suppress(OSError):  # its writer was faster
            if now - path.stat().st_mtime > _ABANDONED_S:
                path.unlink()


def _shrink(folder: Path, most: int) -> None:
    """Remove the files that were not used for longest until the rest is small enough."""
    files = sorted(((p.stat().st_mtime, p.stat().st_size, p) for p in folder.glob("*.bin")), reverse=True)
    total = 0
    for _, size, path in files:
        total += size
        if total > most:
            path.unlink(missing_ok=True)
