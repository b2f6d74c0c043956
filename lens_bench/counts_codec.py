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
_CHARACTERS = bytes(range(ord("0"), ord("0") + 64))
_ONE_DIGIT: Lengths = (np.arange(32, dtype=np.int64) ^ 16) - 16  # what a last character is, its bit 4 the sign
# The same with the character before it, which is of this number where its bit 5 is set.
_TWO_DIGITS: Lengths = np.concatenate((_ONE_DIGIT[:, None].repeat(32, 1), 32 * _ONE_DIGIT[:, None] + np.arange(32)), 1)
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
    if not data:
        return np.zeros(0, dtype=np.int64)
    if data.translate(None, _CHARACTERS):
        raise DataError(f"{what} holds a character that compressed counts cannot have")
    codes = np.frombuffer(data, dtype=np.uint8) - np.uint8(ord("0"))
    goes_on = codes > 31
    last = (~goes_on).nonzero()[0]
    if goes_on[-1]:
        raise DataError(f"{what} ends in the middle of a run length")
    values = _ONE_DIGIT[codes] if len(last) == len(codes) else _joined(codes, goes_on, last, what)
    for runs in (values[1::2], values[2::2]):
        np.add.accumulate(runs, out=runs)
    values.flags.writeable = False
    return values


def _joined(codes: NDArray[np.uint8], goes_on: NDArray[np.bool_], last: NDArray[np.intp], what: str) -> Lengths:
    """Signed numbers from their digits, lowest first; ``last`` is where each number ends.

    Half of the numbers of an ordinary mask have a second digit and hardly one has a third, so those are read apart.
    """
    at = last - 1
    at[0] = max(int(at[0]), 0)  # of a first number of one digit: its own place, where nothing goes on
    values: Lengths = _TWO_DIGITS[codes[last], codes[at]]
    for number in set(last.searchsorted((goes_on[1:] & goes_on[:-1]).nonzero()[0]).tolist()):
        begin = int(last[number - 1]) + 1 if number else 0
        highest, *lower = codes[begin : int(last[number]) + 1][::-1].tolist()
        if len(lower) >= MAX_DIGITS:
            raise DataError(f"{what} has a run length of more than {5 * MAX_DIGITS} bits")
        value = int(_ONE_DIGIT[highest])
        for digit in lower:
            value = value * 32 + (digit & 31)
        values[number] = value
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
