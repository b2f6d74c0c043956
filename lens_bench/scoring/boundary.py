"""Boundary IoU (Cheng et al., CVPR 2021) on the columns a mask fills, at a fraction of the cost of whole images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from lens_bench import masks
from lens_bench.records import Rle

REMEMBERED = 32  # bands of at most an eighth of a byte a pixel
Bits: TypeAlias = NDArray[np.uint8]  # [columns, ceil(H / 8)]: eight pixels of a column a byte


@dataclass(frozen=True, slots=True)
class Band:
    """The boundary band of one mask, cut to the columns that the mask fills.

    Attributes:
        x: First column of the cut in the image.
        bits: Transposed, because run lengths are column-major and need no copy this way.
        area: Number of pixels of the band.
    """

    x: int
    bits: Bits
    area: int


EMPTY_BAND = Band(0, np.zeros((0, 0), dtype=np.uint8), 0)


@lru_cache(maxsize=REMEMBERED)
def band_of(rle: Rle, ignore: Rle | None = None) -> Band:
    """The boundary band of a mask, without the pixels of ``ignore``. Equal to ``masks.boundary`` of the whole mask.

    A square erodes like a column after a row. Along a column erosion only shortens runs, so that is done before there
    are pixels. Beyond the mask's columns all is background, exactly like all beyond the image. Not to be written to:
    the same object is returned for the same mask, since expressions of one referent are often answered alike.
    """
    edges = masks.run_lengths(rle).cumsum()
    starts, ends = edges[: len(edges) // 2 * 2 : 2], edges[1::2]
    if not len(starts):
        return EMPTY_BAND
    height, reach = rle.size[0], masks.boundary_reach(rle.size)
    first, last = int(starts[0]) // height, -(-int(ends[-1]) // height)
    bits = np.packbits(_pixels(starts, ends, first, last, height), axis=1)
    if last - first > 2 * reach and height > 2 * reach:
        long = ends - starts > 2 * reach
        shortened = _pixels(starts[long] + reach, ends[long] - reach, first, last, height)
        shortened[:, :reach] = shortened[:, height - reach :] = False  # a run may have gone on in the next column
        bits[reach : last - first - reach] ^= _eroded(np.packbits(shortened, axis=1), reach)
    if ignore is not None:
        bits &= ~np.packbits(masks.decode(ignore).T[first:last], axis=1)
    return Band(first, bits, _count(bits))


def _pixels(
    starts: NDArray[np.int64], ends: NDArray[np.int64], first: int, last: int, height: int
) -> NDArray[np.bool_]:
    """Runs of foreground as pixels [last - first, height] of the columns from ``first`` to before ``last``."""
    bounds = np.empty(2 * len(starts) + 2, dtype=np.int64)
    bounds[0], bounds[-1] = first * height, last * height
    bounds[1:-1:2], bounds[2:-1:2] = starts, ends
    return masks.rasterise(bounds[1:] - bounds[:-1]).reshape(last - first, height)


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
    first, last = max(a.x, b.x), min(a.x + len(a.bits), b.x + len(b.bits))
    if last <= first:
        return 0
    return _count(a.bits[first - a.x : last - a.x] & b.bits[first - b.x : last - b.x])


def _count(bits: Bits) -> int:
    """Number of set bits."""
    flat = bits.ravel()
    whole = flat.size // 8 * 8
    total = int(np.bitwise_count(flat[:whole].view(np.uint64)).sum())
    return total if whole == flat.size else total + int(np.bitwise_count(flat[whole:]).sum())
