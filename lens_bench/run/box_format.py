"""The forms in which other people's files give boxes, and signs that one was taken for another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

from lens_bench import masks
from lens_bench.errors import DataError
from lens_bench.records import Box, Prediction, Size

# Corners in pixels, corner and size in pixels, or corners as fractions of the image.
BoxFormat: TypeAlias = Literal["xyxy", "xywh", "xyxy-norm"]

FORMATS: dict[str, BoxFormat] = {"xyxy": "xyxy", "xywh": "xywh", "xyxy-norm": "xyxy-norm"}
_WORDS: dict[BoxFormat, str] = {
    "xyxy": "[x1, y1, x2, y2] in pixels",
    "xywh": "[x, y, width, height] in pixels",
    "xyxy-norm": "[x1, y1, x2, y2] in fractions of the image",
}
_FARTHEST = 2.0  # fractions of an image that a box may leave it by are small


def words(form: BoxFormat) -> str:
    """What four numbers of this form are."""
    return _WORDS[form]


def corners(numbers: Box, form: BoxFormat, where: str) -> Box:
    """Four numbers as (x1, y1, x2, y2), still in their own unit. An empty box is allowed.

    Raises:
        DataError: They cannot be a box of this form. ``where`` names the row.
    """
    x1, y1, x2, y2 = numbers
    if form == "xywh":
        x2, y2 = x1 + x2, y1 + y2
    if x2 < x1 or y2 < y1:
        other = "xywh" if form != "xywh" else "xyxy"
        what = "its corners are inverted" if form != "xywh" else "its size is negative"
        raise DataError(
            f"{where}: the box {list(numbers)} is not {_WORDS[form]}: {what}",
            f"x1 <= x2 and y1 <= y2; --box-format {other} reads {_WORDS[FORMATS[other]]}",
        )
    if not all(map(math.isfinite, (x2, y2))):
        raise DataError(f"{where}: the box {list(numbers)} is not {_WORDS[form]}: no number holds its corner")
    if form == "xyxy-norm" and max(map(abs, numbers)) > _FARTHEST:
        raise DataError(f"{where}: the box {list(numbers)} is not {_WORDS[form]}", "leave --box-format out for pixels")
    return (x1, y1, x2, y2)


def in_pixels(box: Box, form: BoxFormat, size: Size) -> Box:
    """Corners of a box in pixels of an image of ``size`` (height, width)."""
    if form != "xyxy-norm":
        return box
    height, width = size
    return (box[0] * width, box[1] * height, box[2] * width, box[3] * height)


def doubts(predictions: Iterable[Prediction], sizes: Mapping[str, Size]) -> tuple[str, ...]:
    """Signs, in words, that boxes are not in pixels of the image or not corners; empty where there are none.

    Args:
        predictions: With boxes in pixels.
        sizes: (height, width) of the images, by sample id.
    """
    answers = [p for p in predictions if p.box is not None]
    boxes = [(p.box, p.mask) for p in answers if p.box is not None]
    beyond = sum(_leaves(p.box, sizes[p.sample_id]) for p in answers if p.box is not None)
    tight = [(box, masks.box_of(mask)) for box, mask in boxes if mask is not None]
    covering = [(box, own) for box, own in tight if own is not None]
    missing = sum(masks.box_iou(box, own) == 0 for box, own in covering)
    found = []
    if missing:
        found.append(
            f"{missing:,} of {len(covering):,} boxes do not touch their own mask: are they corners in pixels of the "
            "image? --box-format reads other forms"
        )
    if beyond:
        found.append(
            f"{beyond:,} of {len(boxes):,} boxes reach beyond their image: are they in pixels of it at its own size?"
        )
    if boxes and all(0 <= number <= 1 for box, _ in boxes for number in box) and any(any(box) for box, _ in boxes):
        found.append(
            "every box lies within 0 to 1: are they fractions of the image? --box-format xyxy-norm reads those"
        )
    return tuple(found)


def _leaves(box: Box, size: Size) -> bool:
    """By more than the pixel that rounding may add."""
    height, width = size
    return min(box[0], box[1]) < -1 or box[2] > width + 1 or box[3] > height + 1
