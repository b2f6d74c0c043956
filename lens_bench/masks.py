"""Masks: run lengths, polygons, painting, areas, boxes, boundaries.

Everything that compares masks works on compressed run lengths, whose cost grows with the length of the outline instead
of the area of the image; dense arrays are made only where pixels are really needed. pycocotools rasterises and merges,
so that masks mean what they mean in COCO; dense masks are encoded here to the same bytes in a third of its time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TypeAlias, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from lens_bench.counts_codec import Lengths, read_counts, without_empty_runs, write_counts
from lens_bench.errors import DataError
from lens_bench.records import BoolMask, Box, GroundTruth, MaskSource, Outline, Part, Polygon, Rle, Size

CocoRle: TypeAlias = dict[str, object]

# Cheng et al., "Boundary IoU", CVPR 2021: the band is 2 % of the image diagonal wide.
BOUNDARY_RATIO = 0.02

MAX_PIXELS = 2**29  # the longest run that six signed digits hold
DENSE = 24  # pixels a run, from which on runs are faster made with numpy than with pycocotools
# Its rasteriser walks along edges, so far points and long outlines cost memory and time.
MAX_COORDINATE = 1_000_000
MAX_OUTLINE = 8_000_000


# ---------------------------------------------------------------------------------------------- run lengths


def _coco(rle: Rle) -> CocoRle:
    return {"size": list(rle.size), "counts": rle.counts}


def _rle(obj: CocoRle) -> Rle:
    size = cast("list[int]", obj["size"])
    return Rle((int(size[0]), int(size[1])), cast("bytes", obj["counts"]))


def encode(mask: BoolMask | NDArray[np.uint8]) -> Rle:
    """Encode a dense mask [H, W]; non-zero is foreground."""
    if mask.ndim != 2:
        raise ValueError(f"a mask has two dimensions, got shape {mask.shape}")
    size = (int(mask.shape[0]), int(mask.shape[1]))
    cells = (mask if mask.dtype == np.bool_ else mask != 0).view(np.uint8)
    if not cells.size:
        return _rle(coco.encode(np.asfortranarray(cells)))
    columns = cells.T if cells.flags.f_contiguous else cast("NDArray[np.uint8]", cv2.transpose(cells))
    flat = columns.ravel()
    edges = (flat[1:] != flat[:-1]).nonzero()[0]
    if len(edges) * DENSE > flat.size:  # noise: numpy's cost is by the run, pycocotools' by the pixel
        return _rle(coco.encode(columns.T))
    lead = int(flat[0])  # an empty run of background
    bounds = np.zeros(len(edges) + 2 + lead, dtype=np.int64)
    bounds[1 + lead : -1], bounds[-1] = edges + 1, flat.size
    return Rle(size, write_counts(np.diff(bounds)))


def decode(rle: Rle) -> BoolMask:
    """Decode to a dense bool array [H, W] in column-major (Fortran) order, as the runs are."""
    return rasterise(run_lengths(rle)).reshape(rle.size[1], rle.size[0]).T


def run_lengths(rle: Rle) -> Lengths:
    """Run lengths int64 [runs], background first, column-major."""
    return read_counts(rle.counts, "mask")


def rasterise(lengths: Lengths) -> NDArray[np.bool_]:
    """Run lengths as one flat row of pixels [sum of lengths]."""
    values = np.zeros(len(lengths), dtype=np.bool_)
    values[1::2] = True
    return values.repeat(lengths)


def area(rle: Rle) -> int:
    """Number of foreground pixels."""
    return int(coco.area(_coco(rle)))


def empty(size: Size) -> Rle:
    """A mask without a pixel."""
    return _uniform(int(size[0]), int(size[1]), False)


def full(size: Size) -> Rle:
    """A mask of the whole image."""
    return _uniform(int(size[0]), int(size[1]), True)


@lru_cache(maxsize=256)
def _uniform(height: int, width: int, inside: bool) -> Rle:
    return from_counts((height, width), [0, height * width] if inside else [height * width])


def from_counts(size: Size, counts: Sequence[int], what: str = "mask") -> Rle:
    """From uncompressed run lengths (background first, column-major), as COCO writes ``iscrowd`` annotations.

    Raises:
        DataError: The runs do not fill the image. ``what`` names the mask in the message.
    """
    check_size(size, what)
    if any(c < 0 for c in counts):
        raise DataError(f"{what} has a negative run length")
    if max(counts, default=0) > math.prod(size):
        raise DataError(f"{what} covers more than the {math.prod(size)} pixels of an image of {size[1]}x{size[0]}")
    if sum(counts) != math.prod(size):
        raise DataError(f"{what} covers {sum(counts)} pixels, an image of {size[1]}x{size[0]} has {math.prod(size)}")
    runs = without_empty_runs(np.asarray(counts, dtype=np.int64))
    return _rle(coco.frPyObjects({"size": list(size), "counts": runs.tolist()}, size[0], size[1]))


def union(rles: Sequence[Rle], size: Size) -> Rle:
    """Pixels in any of the masks; the empty mask for an empty sequence."""
    if not rles:
        return empty(size)
    return rles[0] if len(rles) == 1 else _rle(coco.merge([_coco(r) for r in rles], intersect=False))


def intersect(a: Rle, b: Rle) -> Rle:
    """Pixels in both masks."""
    return _rle(coco.merge([_coco(a), _coco(b)], intersect=True))


def overlap(a: Rle, b: Rle) -> int:
    """Number of pixels in both masks."""
    return int(coco.area(coco.merge([_coco(a), _coco(b)], intersect=True)))


def rle_from_json(obj: object, what: str = "mask") -> Rle:
    """Read any RLE that people write to JSON: counts as compressed string or bytes, or as a list of run lengths.

    Raises:
        DataError: The object is not an RLE or its runs do not fill its size. ``what`` names it in the message.
    """
    if not isinstance(obj, dict) or "size" not in obj or "counts" not in obj:
        raise DataError(f"{what} is not an RLE object", 'expected {"size": [height, width], "counts": ...}')
    raw_size, counts = obj["size"], obj["counts"]
    if not (isinstance(raw_size, list | tuple) and len(raw_size) == 2 and all(_is_int(s) for s in raw_size)):
        raise DataError(f"{what} has the size of no image", 'expected {"size": [height, width], ...}')
    size = (int(raw_size[0]), int(raw_size[1]))
    if isinstance(counts, list):
        if not all(_is_int(c) for c in counts):
            raise DataError(f"{what} has run lengths that are not integers")
        return from_counts(size, counts, what)
    if not isinstance(counts, str | bytes):
        raise DataError(f"{what} has counts of type {type(counts).__name__}", "expected a string or a list of integers")
    if isinstance(counts, str) and not counts.isascii():  # "replace" would make it the valid character "?"
        raise DataError(f"{what} holds a character that compressed counts cannot have")
    return _checked(counts.encode("ascii") if isinstance(counts, str) else counts, size, what)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check_size(size: Size, what: str) -> None:
    """Raise ``DataError`` for a (height, width) that no image has. ``what`` names its owner in the message."""
    if min(size) < 1 or max(size) >= MAX_PIXELS or math.prod(size) >= MAX_PIXELS:
        shown = str(list(size)) if max(map(abs, size)) < 2**63 else "of no image"  # Python writes no larger number
        raise DataError(f"{what} has the size {shown}", "expected [height, width] of a real image")


def _checked(data: bytes, size: Size, what: str) -> Rle:
    """Refuse compressed counts that pycocotools would read or write out of bounds on; repair those it misreads.

    It trusts that runs fill the image, and stops early at runs of length zero, which other encoders write.
    """
    check_size(size, what)
    lengths = read_counts(data, what)
    shortest = int(lengths[1:].min(initial=1))  # the first, of background, may be empty
    if shortest < 0 or (len(lengths) and int(lengths[0]) < 0):
        raise DataError(f"{what} has a negative run length")
    # Every run is checked against the image before they are summed, so the sum cannot wrap.
    pixels = math.prod(size)
    if int(lengths.max(initial=0)) > pixels or int(lengths.sum()) != pixels:
        raise DataError(f"{what} covers {int(lengths.sum())} pixels, an image of {size[1]}x{size[0]} has {pixels}")
    return Rle(size, data) if shortest else from_counts(size, lengths.tolist(), what)


def rle_to_json(rle: Rle) -> dict[str, object]:
    """``{"size": [h, w], "counts": "..."}``, the form of ``predictions.jsonl``."""
    return {"size": list(rle.size), "counts": rle.counts.decode("ascii")}


# ---------------------------------------------------------------------------------------------- parts


def part_rle(part: Part, size: Size) -> Rle:
    """Rasterise one part at ``size`` (height, width).

    A polygon of fewer than three points covers nothing. (pycocotools would read four numbers as a box.) Points outside
    the image are clipped, as COCO does.

    Raises:
        DataError: An RLE of another size, a polygon with a coordinate no image has, or a source that cannot be read.
    """
    if isinstance(part, Rle):
        if part.size != size:
            raise DataError(f"an RLE of size {part.size} belongs to an image of size {size}")
        return part
    if isinstance(part, Polygon):
        if len(part.points) < 6:
            return empty(size)
        farthest = max(max(part.points), -min(part.points))
        if farthest > MAX_COORDINATE or not math.isfinite(sum(part.points)):  # the sum shows a NaN
            raise DataError(f"a polygon has a coordinate beyond {MAX_COORDINATE} pixels or none at all")
        if farthest * len(part.points) > MAX_OUTLINE and _length(part.points) > MAX_OUTLINE:
            raise DataError(f"a polygon has an outline of more than {MAX_OUTLINE} pixels")
        return _rle(coco.frPyObjects([list(part.points)], size[0], size[1])[0])
    if isinstance(part, MaskSource):
        return part.rle(size)
    raise TypeError(f"not a part of an annotation: {type(part).__name__}")


def _length(points: Sequence[float]) -> float:
    """Length of a closed outline in steps from pixel to pixel, diagonal ones too."""
    corners = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    return float(np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum())


def merge_parts(parts: Iterable[Part], size: Size) -> tuple[Rle, Rle]:
    """Merge parts in the two ways that papers do.

    Returns:
        ``(union, once)``: pixels covered by at least one part, and pixels covered by exactly one. They differ where
        parts overlap, which code that sums decoded parts and keeps the value 1 takes for background.
    """
    rles = [part_rle(p, size) for p in parts]
    joined = union(rles, size)
    if len(rles) < 2 or sum(area(r) for r in rles) == area(joined):
        return joined, joined
    covered = np.zeros(size, dtype=np.uint16)
    for rle in rles:
        covered += decode(rle)
    return joined, encode(covered == 1)


def paint(outlines: Sequence[Outline], size: Size) -> tuple[Rle, Rle]:
    """Paint labelme outlines over one another as LISA's ReasonSeg reader does; returns ``(target, ignore)``.

    Points are truncated to integers, every shape is filled and its outline drawn one pixel wide (which adds border
    pixels), and shapes are painted from the largest rasterised area to the smallest, so that a small one on top wins:
    an ignore region inside a target carves it, a target inside an ignore region restores it.
    """
    drawn = [outline for outline in outlines if outline.points]
    areas: list[int] = []
    for outline in drawn:
        canvas = np.zeros(size, dtype=np.uint8)
        _draw(canvas, outline, 1)
        areas.append(int(np.count_nonzero(canvas)))
    labels = np.zeros(size, dtype=np.uint8)
    for index in np.argsort(np.array(areas, dtype=np.int64))[::-1]:
        outline = drawn[int(index)]
        _draw(labels, outline, 255 if outline.ignore else 1)
    return encode(labels == 1), encode(labels == 255)


def draws(outline: Outline, size: Size) -> bool:
    """Whether an outline, painted alone, covers a pixel of an image of ``size`` (height, width)."""
    if outline.region is not None:
        return area(outline.region) > 0
    pairs = zip(outline.points[::2], outline.points[1::2], strict=True)
    if any(-1 < x < size[1] and -1 < y < size[0] for x, y in pairs):  # coordinates are truncated towards 0
        return True
    return any(map(area, paint([replace(outline, ignore=False)], size)))


def _draw(canvas: NDArray[np.uint8], outline: Outline, value: int) -> None:
    if outline.region is not None:
        canvas[decode(outline.region)] = value
        return
    points = np.asarray(outline.points, dtype=np.float64).astype(np.int32).reshape(-1, 1, 2)
    cv2.polylines(canvas, [points], isClosed=True, color=value, thickness=1)
    cv2.fillPoly(canvas, [points], color=value)


def merge_truth(truth: GroundTruth) -> tuple[Rle, Rle, Rle]:
    """Rasterise an annotation: ``(union, once, ignore)`` at the annotation's size. See ``merge_parts``."""
    if truth.outlines:
        target, ignore = paint(truth.outlines, truth.size)
        return target, target, ignore
    joined, once = merge_parts(truth.parts, truth.size)
    return joined, once, union([part_rle(p, truth.size) for p in truth.ignore], truth.size)


# ---------------------------------------------------------------------------------------------- boxes


def box_of(rle: Rle) -> Box | None:
    """The tight box (x1, y1, x2, y2) with exclusive right and lower edges; None for an empty mask."""
    x, y, w, h = (float(v) for v in coco.toBbox(_coco(rle)))
    return (x, y, x + w, y + h) if w > 0 and h > 0 else None


def truth_box(truth: GroundTruth, union: Rle) -> Box | None:
    """The box of an annotation: its own, or the tight box of its mask where its own covers no part of the image.

    Exports often fill in ``[0, 0, 0, 0]`` where they have a mask alone. Nobody can answer such a box.

    Args:
        truth: The annotation.
        union: Its merged mask.

    Returns:
        (x1, y1, x2, y2) in pixels; None where the mask is empty as well.
    """
    if truth.box is not None:
        x1, y1, x2, y2 = truth.box
        height, width = truth.size
        # Comparisons with NaN are false, so a box that holds one is replaced too.
        if min(x2, width) > max(x1, 0) and min(y2, height) > max(y1, 0):
            return truth.box
    return box_of(union)


def box_mask(box: Box, size: Size) -> Rle:
    """The pixels whose centre lies in the box, clipped to the image."""
    h, w = size
    x1, y1 = max(0, math.ceil(box[0] - 0.5)), max(0, math.ceil(box[1] - 0.5))
    x2, y2 = min(w, math.ceil(box[2] - 0.5)), min(h, math.ceil(box[3] - 0.5))
    mask = np.zeros(size, dtype=np.uint8)
    if x2 > x1 and y2 > y1:
        mask[y1:y2, x1:x2] = 1
    return encode(mask)


def box_iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes; 0 where the union is empty or a box is inverted."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    total = max(0.0, a[2] - a[0]) * max(0.0, a[3] - a[1]) + max(0.0, b[2] - b[0]) * max(0.0, b[3] - b[1]) - shared
    return shared / total if total > 0 else 0.0


# ---------------------------------------------------------------------------------------------- boundaries


def boundary_reach(size: Size, ratio: float = BOUNDARY_RATIO) -> int:
    """Width in pixels of the boundary band of an image of ``size`` (height, width)."""
    return max(1, round(ratio * math.hypot(*size)))


def boundary(mask: BoolMask, ratio: float = BOUNDARY_RATIO) -> BoolMask:
    """The band of a mask [H, W] within ``ratio`` of the image diagonal of its outline (Cheng et al., CVPR 2021).

    The image border counts as outline.
    """
    return boundary_band(mask, boundary_reach((mask.shape[0], mask.shape[1]), ratio))


def boundary_band(mask: BoolMask, reach: int) -> BoolMask:
    """The pixels of ``mask`` that are within ``reach`` pixels of a pixel outside it; the border counts as outside.

    Equal to the mask without what ``reach`` erosions by a 3x3 square leave of it.
    """
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), dtype=np.uint8)
    inside = cv2.erode(mask.view(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return mask & ~cast("NDArray[np.uint8]", inside).view(np.bool_)
