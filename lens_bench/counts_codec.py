"""COCO's compressed run lengths, read and written with numpy.

pycocotools defines the format. This reads and writes the same bytes (tested against it) and reports what is wrong with
bytes from outside, which pycocotools would read out of bounds on.

The format: six bits a character from ``0`` on, bit 5 says "more follows", bit 4 of the last is the sign, and from the
fourth run on a value is a difference to the run two before.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lens_bench.errors import DataError

Lengths = NDArray[np.int64]

MAX_DIGITS = 6  # of a compressed run length: pycocotools shifts 32-bit integers by five bits a digit
_LARGEST = 63
_SHORT = 4096  # bytes, that what is remembered stays below 16 MB


def read_counts(data: bytes, what: str) -> Lengths:
    """Run lengths int64 [runs], background first, not yet checked against an image. Not to be written to.

    Raises:
        DataError: The bytes are no compressed counts. ``what`` names the mask in the message.
    """
    # A mask is read when an answer is checked and soon again when it is scored.
    if len(data) <= _SHORT:
        with suppress(DataError):  # raised again with the right name
            return _remembered(data)
    return _read(data, what)


@lru_cache(maxsize=512)
def _remembered(data: bytes) -> Lengths:
    return _read(data, "mask")


def _read(data: bytes, what: str) -> Lengths:
    codes = np.frombuffer(data, dtype=np.uint8) - np.uint8(ord("0"))  # wraps, so that one bound checks both ends
    if not len(codes):
        return np.zeros(0, dtype=np.int64)
    if int(codes.max()) > _LARGEST:
        raise DataError(f"{what} holds a character that compressed counts cannot have")
    last = (codes < 32).nonzero()[0]
    if not len(last) or int(last[-1]) != len(codes) - 1:
        raise DataError(f"{what} ends in the middle of a run length")
    values: Lengths = (codes & 31).astype(np.int64)
    if len(last) < len(codes):
        values = _joined(values, last, what)
    else:
        values -= (values & 16) << 1
    values[1::2].cumsum(out=values[1::2])
    values[2::2].cumsum(out=values[2::2])
    values.flags.writeable = False
    return values


def _joined(digits: Lengths, last: NDArray[np.intp], what: str) -> Lengths:
    """Signed numbers from their digits of five bits, lowest first; ``last`` is where each number ends."""
    first = np.empty_like(last)
    first[0], first[1:] = 0, last[:-1] + 1
    width = last - first + 1
    if int(width.max()) > MAX_DIGITS:
        raise DataError(f"{what} has a run length of more than {5 * MAX_DIGITS} bits")
    digits <<= 5 * (np.arange(len(digits)) - first.repeat(width))
    values: Lengths = np.add.reduceat(digits, first)
    top: Lengths = np.left_shift(1, 5 * width)
    values -= np.where(values & (top >> 1), top, 0)
    return values


def write_counts(lengths: Lengths) -> bytes:
    """Compress run lengths [runs], background first, each but the first at least 1."""
    values = lengths.astype(np.int64)
    values[3:] -= lengths[1:-2]
    size = values ^ (values >> 63)  # -1 needs as many bits as 0
    most = 1
    while int(size.max(initial=0)) >> (5 * most - 1):
        most += 1
    places = 5 * np.arange(most)
    digits = (values[:, None] >> places) & 31
    more = (size[:, None] >> (places + 4)) > 0
    kept = np.ones_like(more)
    kept[:, 1:] = more[:, :-1]
    codes = (digits | (more << 5)) + ord("0")
    return codes[kept].astype(np.uint8).tobytes()


def without_empty_runs(lengths: Lengths) -> Lengths:
    """The same mask in runs of at least one pixel; only the first, of background, may be empty."""
    if lengths[1:].all():
        return lengths
    values = np.arange(len(lengths)) % 2
    values, lengths = values[lengths > 0], lengths[lengths > 0]
    starts = np.flatnonzero(np.diff(values, prepend=-1))
    merged: Lengths = np.add.reduceat(lengths, starts)
    return np.concatenate(([0], merged)) if values[0] else merged
