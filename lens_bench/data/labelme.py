"""The shapes of a labelme file: polygons as they are, rectangles, circles and masks as labelme draws them.

Format and drawing: wkentaro/labelme, ``utils/shape.py``. A rectangle is two opposite corners, both inside; a circle is
its centre and a point on it; a mask is two corners and, in base64, a PNG of the pixels between them.
"""

from __future__ import annotations

import base64
import binascii
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from lens_bench.data.instances import coordinates_of
from lens_bench.data.jsonio import REFETCH, Record, as_list, as_record, get_list, get_str, shown
from lens_bench.data.mask_files import decode_mask
from lens_bench.errors import DataError
from lens_bench.masks import encode
from lens_bench.records import BoolMask, Outline, Size

TYPES: Final = ("polygon", "rectangle", "circle", "mask")


@dataclass(frozen=True, slots=True)
class Shape:
    """One shape. ``points`` are flat; ``bitmap`` holds the pixels of a mask, bool [H, W], within its corners."""

    kind: str
    points: tuple[float, ...]
    ignore: bool
    where: str
    bitmap: BoolMask | None = None


def shapes_of(record: Record, where: str) -> list[Shape]:
    """The shapes of a labelme record, ``flag`` left out, in the order of the file.

    Raises:
        DataError: A shape is malformed or of a type that covers no area; ``where`` and its number name it.
    """
    shapes: list[Shape] = []
    for index, entry in enumerate(as_list(record.get("shapes", []), f"shapes of {where}")):
        here = f"shape {index} of {where}"
        shape = as_record(entry, here)
        label = get_str(shape, "label", here).lower()
        if label != "flag":
            shapes.append(_shape(shape, "ignore" in label, here))
    return shapes


def _shape(record: Record, ignore: bool, where: str) -> Shape:
    kind = record.get("shape_type") or "polygon"  # the first versions had no other
    if kind not in TYPES or not isinstance(kind, str):
        raise DataError(f"{where} has the type {shown(kind)}", f"known are: {', '.join(TYPES)}")
    flat: list[object] = []
    for point in get_list(record, "points", where):
        pair = as_list(point, f"a point of {where}")
        if len(pair) != 2:
            raise DataError(f"{where} has a point of {len(pair)} coordinates", REFETCH)
        flat += pair
    points = coordinates_of(flat, where)
    if kind != "polygon" and len(points) != 4:
        raise DataError(f"{where} is a {kind} of {len(points) // 2} points", "it has two")
    return Shape(kind, points, ignore, where, _bitmap(record, points, where) if kind == "mask" else None)


def _bitmap(record: Record, points: tuple[float, ...], where: str) -> BoolMask:
    try:
        data = base64.b64decode(get_str(record, "mask", where), validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"the mask of {where} is not base64: {error}", REFETCH) from None
    bitmap = decode_mask(data, f"the mask of {where}")
    x1, y1, x2, y2 = map(int, points)
    if bitmap.shape != (y2 - y1 + 1, x2 - x1 + 1):
        raise DataError(
            f"the mask of {where} is {bitmap.shape[1]}x{bitmap.shape[0]}, its corners span {x2 - x1 + 1}x{y2 - y1 + 1}",
            REFETCH,
        )
    return bitmap


def outline_of(shape: Shape, size: Size) -> Outline:
    """A shape as it is painted on an image of ``size`` (height, width).

    Raises:
        DataError: A mask leaves the image.
    """
    if shape.kind == "polygon":
        return Outline(shape.points, shape.ignore)
    x1, y1, x2, y2 = shape.points
    if shape.kind == "rectangle":
        return Outline((x1, y1, x2, y1, x2, y2, x1, y2), shape.ignore)
    canvas = np.zeros(size, dtype=np.bool_)
    if shape.bitmap is not None:
        left, top = int(x1), int(y1)
        height, width = shape.bitmap.shape
        if left < 0 or top < 0 or left + width > size[1] or top + height > size[0]:
            raise DataError(f"the mask of {shape.where} leaves its image of {size[1]}x{size[0]}", REFETCH)
        canvas[top : top + height, left : left + width] = shape.bitmap
    else:
        canvas = _circle(shape.points, size)
    return Outline(shape.points, shape.ignore, encode(canvas))


def _circle(points: tuple[float, ...], size: Size) -> BoolMask:
    x, y, on_x, on_y = points
    radius = math.hypot(on_x - x, on_y - y)
    image = Image.new("1", (size[1], size[0]))
    ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), outline=1, fill=1)
    return np.array(image, dtype=np.bool_)
