"""Pictures for the agent: masks with numbers on them, one mask alone, one mask from near by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from lens_bench.masks import box_of, decode
from lens_bench.records import BoolMask, Pixels, Rle

# Told apart on most grounds, and from their neighbours in the list.
COLOURS = (
    (230, 25, 75),
    (60, 180, 75),
    (255, 225, 25),
    (0, 130, 200),
    (245, 130, 48),
    (145, 30, 180),
    (70, 240, 240),
    (240, 50, 230),
    (210, 245, 60),
    (0, 128, 128),
    (170, 110, 40),
    (128, 0, 0),
)
_TINT = 0.4
_LEAST_MARGIN = 16


def with_masks(pixels: Pixels, masks: Sequence[Rle], numbers: Sequence[int] | None = None) -> Pixels:
    """The image with masks tinted, outlined and, where ``numbers`` are given, numbered at their thickest place."""
    drawn = pixels.copy()
    dense = [decode(mask) for mask in masks]
    thickness = max(1, round(max(pixels.shape[:2]) / 400))
    for place, mask in enumerate(dense):
        colour = COLOURS[place % len(COLOURS)]
        drawn[mask] = ((1 - _TINT) * drawn[mask] + _TINT * np.array(colour)).astype(np.uint8)
        outlines, _ = cv2.findContours(_bytes(mask), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, outlines, -1, colour, thickness)
    for place, number in enumerate(numbers or ()):
        _number(drawn, dense[place], number, COLOURS[place % len(COLOURS)])
    return drawn


def from_near(pixels: Pixels, mask: Rle) -> Pixels:
    """The mask's surroundings twice, plain and tinted, side by side or one above the other, whichever is squarer."""
    box = box_of(mask)
    if box is None:
        return np.concatenate([pixels, pixels], axis=1)
    height, width = pixels.shape[:2]
    x_margin = max(_LEAST_MARGIN, round(0.1 * (box[2] - box[0])))
    y_margin = max(_LEAST_MARGIN, round(0.1 * (box[3] - box[1])))
    left, right = max(0, int(box[0]) - x_margin), min(width, int(box[2]) + x_margin)
    top, bottom = max(0, int(box[1]) - y_margin), min(height, int(box[3]) + y_margin)
    tinted = with_masks(pixels, [mask])
    crops = [picture[top:bottom, left:right] for picture in (pixels, tinted)]
    return np.ascontiguousarray(np.concatenate(crops, axis=1 if right - left < bottom - top else 0))


def _number(drawn: Pixels, mask: BoolMask, number: int, colour: tuple[int, int, int]) -> None:
    """A number on a dark plate, kept inside the image."""
    depth = cv2.distanceTransform(np.pad(_bytes(mask), 1), cv2.DIST_L2, cv2.DIST_MASK_5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    height, width = drawn.shape[:2]
    scale = max(0.4, max(height, width) / 1000)
    (w, h), base = cv2.getTextSize(str(number), cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    left = int(min(max(0, x - w // 2), max(0, width - w)))
    low = int(min(max(h, y + h // 2), max(h, height - base)))
    cv2.rectangle(drawn, (left - 2, low - h - 2), (left + w + 2, low + base), (0, 0, 0), -1)
    cv2.putText(drawn, str(number), (left, low), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)


def _bytes(mask: BoolMask) -> NDArray[np.uint8]:
    return cast("NDArray[np.uint8]", np.ascontiguousarray(mask).view(np.uint8))
