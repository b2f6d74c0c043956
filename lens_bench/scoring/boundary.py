"""Boundary IoU (Cheng et al., CVPR 2021) on what a mask fills of its image, at a fraction of the cost of whole images.

Masks of ordinary size cost numpy more by the call than by the pixel. So several are measured together: their run
lengths are joined, drawn as one row of pixels, and taken apart again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from lens_bench import masks
from lens_bench.counts_codec import Lengths
from lens_bench.records import Box, Rle, Size

TOGETHER = 64  # masks measured at once: more gain nothing and leave the processor's cache
MOST_DRAWN = 2**22  # pixels drawn at once, of several masks
Bits: TypeAlias = NDArray[np.uint8]  # [columns, bytes]: eight pixels of a column a byte
Ints: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Band:
    """The boundary band of one mask, cut to the columns and, in steps of eight, the rows that the mask fills.

    Attributes:
        x: First column of the cut in the image.
        top: First row of the cut, in bytes of eight rows.
        bits: Transposed, because run lengths are column-major and need no copy this way. The lowest bit is the top row.
        area: Number of pixels of the band.
    """

    x: int
    top: int
    bits: Bits
    area: int


EMPTY_BAND = Band(0, 0, np.zeros((0, 0), dtype=np.uint8), 0)


@dataclass(frozen=True, slots=True)
class Figure:
    """What is measured of a mask: ``masks.area``, ``masks.box_of``, and its boundary band."""

    area: int
    box: Box | None
    band: Band


NO_FIGURE = Figure(0, None, EMPTY_BAND)


@dataclass(frozen=True, slots=True)
class _Runs:
    """Foreground runs of several masks of one size, none of them empty, none going on in the next column.

    Attributes:
        column: Of every run in its own image.
        row: First row of every run.
        length: Of every run, in pixels.
        at: The first run of every mask.
        count: Number of runs of every mask.
    """

    column: Ints
    row: Ints
    length: Ints
    at: Ints
    count: Ints


def figures_of(rles: Sequence[Rle]) -> list[Figure]:
    """Area, box and boundary band of every mask. Equal masks, as of one referent, are measured once and share a result.

    The bands of one call may share memory: keep none of them for long.
    """
    found = dict.fromkeys(rles, NO_FIGURE)
    filled: dict[Size, list[tuple[Rle, Lengths]]] = {}
    for rle in found:
        lengths = masks.run_lengths(rle)
        if len(lengths) > 1:
            filled.setdefault(rle.size, []).append((rle, lengths))
    for size, group in filled.items():
        for first in range(0, len(group), TOGETHER):
            some, lengths_of_some = zip(*group[first : first + TOGETHER], strict=True)
            found.update(zip(some, _figures(lengths_of_some, size), strict=True))
    return [found[rle] for rle in rles]


def band_of(rle: Rle, ignore: Rle | None = None) -> Band:
    """The boundary band of a mask, without the pixels of ``ignore``. Equal to ``masks.boundary`` of the whole mask."""
    return without(figures_of([rle])[0].band, ignore)


def without(band: Band, ignore: Rle | None) -> Band:
    """The band without the pixels of another mask of the same image."""
    if ignore is None or not band.area:
        return band
    columns, width = band.bits.shape
    cut = masks.decode(ignore).T[band.x : band.x + columns, 8 * band.top : 8 * (band.top + width)]
    bits = band.bits & ~np.packbits(cut, axis=1, bitorder="little")
    return Band(band.x, band.top, bits, _count(bits))


def _figures(lengths: Sequence[Lengths], size: Size) -> list[Figure]:
    """Measure masks of one size from their run lengths, each with foreground.

    A square erodes like a column after a row. Along a column erosion only shortens runs, so that is done before there
    are pixels. Beyond the part that a mask fills all is background, exactly like all beyond the image.
    """
    runs, reach = _runs(lengths, size[0]), masks.boundary_reach(size)
    stop = runs.row + runs.length
    left, right = runs.column[runs.at], runs.column[runs.at + runs.count - 1] + 1
    upper, lower = np.minimum.reduceat(runs.row, runs.at), np.maximum.reduceat(stop, runs.at)
    top, rows = upper // 8, -(-lower // 8) * 8 - upper // 8 * 8
    pixels = (right - left) * rows
    ends = pixels.cumsum()
    if len(lengths) > 1 and ends[-1] > MOST_DRAWN:
        middle = len(lengths) // 2
        return _figures(lengths[:middle], size) + _figures(lengths[middle:], size)
    origin = ends - pixels - left * rows - 8 * top
    start = runs.column * rows.repeat(runs.count) + runs.row + origin.repeat(runs.count)
    bits = _drawn(start, runs.length, int(ends[-1]))
    long = runs.length > 2 * reach
    cores = _drawn(start[long] + reach, runs.length[long] - 2 * reach, int(ends[-1]))
    areas = np.add.reduceat(runs.length, runs.at)
    figures, taken = [], 0
    for x, x2, y, y2, first, height, area in zip(
        *(values.tolist() for values in (left, right, upper, lower, top, rows, areas)), strict=True
    ):
        shape, begin = (x2 - x, height // 8), taken
        taken += shape[0] * shape[1]
        band = bits[begin:taken].reshape(shape)
        if shape[0] > 2 * reach and height > 2 * reach:
            band[reach : shape[0] - reach] ^= _eroded(cores[begin:taken].reshape(shape), reach)
        figures.append(Figure(area, (float(x), float(y), float(x2), float(y2)), Band(x, first, band, _count(band))))
    return figures


def _runs(lengths: Sequence[Lengths], height: int) -> _Runs:
    """Foreground runs of masks that have some, from their run lengths; those of several columns are divided."""
    count = np.array([len(one) // 2 for one in lengths], dtype=np.int64)
    pairs = np.concatenate([one[: len(one) // 2 * 2] for one in lengths])
    ends, length = pairs.cumsum(), pairs[1::2]
    at = count.cumsum() - count
    before = np.zeros_like(at)
    before[1:] = ends[2 * at[1:] - 1]
    start = ends[::2] - before.repeat(count)
    column = start // height
    row = start - column * height
    columns = (row + length - 1) // height + 1  # that a run reaches into
    if int(columns.max()) == 1:
        return _Runs(column, row, length, at, count)
    piece = np.arange(int(columns.sum())) - (columns.cumsum() - columns).repeat(columns)
    stop = np.minimum((row + length).repeat(columns) - piece * height, height)
    row = np.where(piece == 0, row.repeat(columns), 0)
    count = np.add.reduceat(columns, at)
    return _Runs(column.repeat(columns) + piece, row, stop - row, count.cumsum() - count, count)


def _drawn(start: Ints, length: Ints, pixels: int) -> Bits:
    """Runs of foreground in a row of so many pixels, eight a byte, the first one lowest.

    A pixel is inside where the number of ends up to it is odd: counted within words of 64 by doubling, then over words.
    """
    ends = np.zeros(pixels // 64 * 64 + 64, dtype=np.uint8)
    ends[start] = 1
    ends[start + length] ^= 1  # runs may touch
    words = np.packbits(ends, bitorder="little").view("<u8")
    moved = np.empty_like(words)
    for distance in (1, 2, 4, 8, 16, 32):
        words ^= np.left_shift(words, np.uint64(distance), out=moved)
    odd = np.bitwise_xor.accumulate(words >> np.uint64(63))
    words[1:] ^= np.uint64(0) - odd[:-1]
    return words.view(np.uint8)[: pixels // 8]


def _eroded(bits: Bits, reach: int) -> Bits:
    """What all of ``2 * reach + 1`` neighbouring columns have: [columns - 2 * reach, ...].

    A window of twice the width is two windows side by side, so a few passes do for any width.
    """
    window, width = 2 * reach + 1, 1
    while 2 * width <= window:
        bits = bits[:-width] & bits[width:]
        width *= 2
    rest = window - width
    return bits[:-rest] & bits[rest:] if rest else bits


def band_iou(a: Band, b: Band) -> float | None:
    """IoU of two bands of one image; None where both are empty."""
    shared = _overlap(a, b)
    total = a.area + b.area - shared
    return shared / total if total else None


def _overlap(a: Band, b: Band) -> int:
    left, right = max(a.x, b.x), min(a.x + a.bits.shape[0], b.x + b.bits.shape[0])
    top, bottom = max(a.top, b.top), min(a.top + a.bits.shape[1], b.top + b.bits.shape[1])
    if right <= left or bottom <= top:
        return 0
    first, second = (c.bits[left - c.x : right - c.x, top - c.top : bottom - c.top] for c in (a, b))
    return _count(first & second)


def _count(bits: Bits) -> int:
    """Number of set bits."""
    flat = bits.ravel()
    whole = flat.size // 8 * 8
    total = int(np.bitwise_count(flat[:whole].view(np.uint64)).sum())
    return total if whole == flat.size else total + int(np.bitwise_count(flat[whole:]).sum())
