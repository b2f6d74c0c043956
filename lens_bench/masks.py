"""Masks: run lengths, polygons, painting, areas, boxes, boundaries.

Everything that compares masks works on compressed run lengths, whose cost grows with the length of the outline instead
of the area of the image; dense arrays are made only where pixels are really needed. pycocotools is the codec, so that
masks mean what they mean in COCO.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeAlias, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from lens_bench.errors import DataError
from lens_bench.records import BoolMask, Box, GroundTruth, MaskSource, Outline, Part, Polygon, Rle, Size

CocoRle: TypeAlias = dict[str, object]

# Cheng et al., "Boundary IoU", CVPR 2021: the band is 2 % of the image diagonal wide.
BOUNDARY_RATIO = 0.02


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
    return _rle(coco.encode(np.asfortranarray(mask != 0, dtype=np.uint8)))


def decode(rle: Rle) -> BoolMask:
    """Decode to a dense bool array [H, W]."""
    return cast("NDArray[np.uint8]", coco.decode(_coco(rle))).view(np.bool_)


def area(rle: Rle) -> int:
    """Number of foreground pixels."""
    return int(coco.area(_coco(rle)))


def empty(size: Size) -> Rle:
    """A mask without a pixel."""
    return from_counts(size, [size[0] * size[1]])


def full(size: Size) -> Rle:
    """A mask of the whole image."""
    return from_counts(size, [0, size[0] * size[1]])


def from_counts(size: Size, counts: Sequence[int]) -> Rle:
    """From uncompressed run lengths (background first, column-major), as COCO writes ``iscrowd`` annotations."""
    if sum(counts) != size[0] * size[1] or any(c < 0 for c in counts):
        raise DataError(
            f"run lengths cover {sum(counts)} pixels, an image of {size[1]}x{size[0]} has {math.prod(size)}"
        )
    return _rle(coco.frPyObjects({"size": list(size), "counts": list(counts)}, size[0], size[1]))


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
    if not (isinstance(raw_size, list | tuple) and len(raw_size) == 2 and all(isinstance(s, int) for s in raw_size)):
        raise DataError(f"{what} has the size {raw_size!r}", "expected [height, width]")
    size = (int(raw_size[0]), int(raw_size[1]))
    if isinstance(counts, list):
        return from_counts(size, [int(c) for c in counts])
    if not isinstance(counts, str | bytes):
        raise DataError(f"{what} has counts of type {type(counts).__name__}", "expected a string or a list of integers")
    data = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
    _check_compressed(data, size, what)
    return Rle(size, data)


def _check_compressed(data: bytes, size: Size, what: str) -> None:
    """Refuse compressed counts whose runs do not fill the image: pycocotools would read or write out of bounds.

    The format is COCO's: six bits a character from ``0`` on, bit 5 says "more follows", bit 4 of the last is the sign,
    and from the fourth run on a value is a difference to the run two before.
    """
    values: list[int] = []
    total, value, shift = 0, 0, 0
    for char in data:
        bits = char - 48
        if not 0 <= bits < 64:
            raise DataError(f"{what} holds a character that compressed counts cannot have")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        if len(values) > 2:
            value += values[-2]
        if value < 0:
            raise DataError(f"{what} has a negative run length")
        values.append(value)
        total, value, shift = total + value, 0, 0
    if shift or total != math.prod(size):
        raise DataError(f"{what} covers {total} pixels, an image of {size[1]}x{size[0]} has {math.prod(size)}")


def rle_to_json(rle: Rle) -> dict[str, object]:
    """``{"size": [h, w], "counts": "..."}``, the form of ``predictions.jsonl``."""
    return {"size": list(rle.size), "counts": rle.counts.decode("ascii")}


# ---------------------------------------------------------------------------------------------- parts


def part_rle(part: Part, size: Size) -> Rle:
    """Rasterise one part at ``size`` (height, width).

    A polygon of fewer than three points covers nothing. (pycocotools would read four numbers as a box.) Points outside
    the image are clipped, as COCO does.
    """
    if isinstance(part, Rle):
        if part.size != size:
            raise DataError(f"an RLE of size {part.size} belongs to an image of size {size}")
        return part
    if isinstance(part, Polygon):
        if len(part.points) < 6:
            return empty(size)
        return _rle(coco.frPyObjects([list(part.points)], size[0], size[1])[0])
    if isinstance(part, MaskSource):
        return part.rle(size)
    raise TypeError(f"not a part of an annotation: {type(part).__name__}")


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
    drawn: list[tuple[int, Outline, NDArray[np.int32]]] = []
    for outline in outlines:
        points = np.asarray(outline.points, dtype=np.float64).astype(np.int32).reshape(-1, 1, 2)
        if not len(points):
            continue
        canvas = np.zeros(size, dtype=np.uint8)
        _draw(canvas, points, 1)
        drawn.append((int(np.count_nonzero(canvas)), outline, points))
    labels = np.zeros(size, dtype=np.uint8)
    order = np.argsort([a for a, _, _ in drawn])[::-1] if drawn else []
    for index in order:
        _, outline, points = drawn[int(index)]
        _draw(labels, points, 255 if outline.ignore else 1)
    return encode(labels == 1), encode(labels == 255)


def _draw(canvas: NDArray[np.uint8], points: NDArray[np.int32], value: int) -> None:
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


def boundary(mask: BoolMask, ratio: float = BOUNDARY_RATIO) -> BoolMask:
    """The band of a mask [H, W] within ``ratio`` of the image diagonal of its outline (Cheng et al., CVPR 2021).

    The image border counts as outline.
    """
    height, width = mask.shape
    reach = max(1, round(ratio * math.hypot(height, width)))
    inside = _erode(mask.view(np.uint8), reach)
    return mask & ~inside.view(np.bool_)


def _erode(mask: NDArray[np.uint8], reach: int) -> NDArray[np.uint8]:
    """Erode by a square of side ``2 * reach + 1`` with zeros beyond the border: equal to ``reach`` 3x3 erosions."""
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), dtype=np.uint8)
    return cast("NDArray[np.uint8]", cv2.erode(mask, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0))
