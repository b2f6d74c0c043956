"""The ground truth, damaged by a known and finely adjustable amount.

Every draw is a function of (seed, sample id), and every damage grows with its argument alone: the expressions that are
wrong at ``error_rate=0.01`` are among those wrong at 0.02, and what is moved by two pixels at ``shift=4`` is moved by
one, in the same direction, at ``shift=2``. So two strengths differ on few expressions and by a computable amount.
"""

from __future__ import annotations

import math
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from lens_bench.masks import box_of, decode, encode
from lens_bench.records import BoolMask, ModelOptions, Prediction, Query, Size

from .draws import number, uniform
from .oracle import target_of, truth_of
from .weightless import Weightless

_REACH = 4096.0  # pixels; beyond any image that is read


class NoisyOracle(Weightless):
    """Erodes, shifts, misplaces or drops the ground truth; see ``model.yaml`` for the arguments."""

    def __init__(self, options: ModelOptions) -> None:
        super().__init__(options)
        self._erode = number(options, "erode", -_REACH, _REACH)
        self._shift = number(options, "shift", 0.0, _REACH)
        self._error_rate = number(options, "error_rate", 0.0, 1.0)
        self._drop = number(options, "drop", 0.0, 1.0)

    def answer(self, query: Query, size: Size) -> Prediction:
        """The damaged ground truth; with all strengths at 0, the ground truth."""
        truth = truth_of(query)
        if truth.no_target or self._draw("drop", query) < self._drop:
            return Prediction(query.sample_id, "no_mask")
        mask, box = target_of(truth)
        if self._draw("error", query) < self._error_rate:
            mask = encode(misplace(decode(mask)))
            return Prediction(query.sample_id, "ok", mask=mask, box=box_of(mask))
        radius = self._erode * self._draw("erode", query)
        distance, angle = self._shift * self._draw("shift", query), math.tau * self._draw("angle", query)
        dx, dy = round(distance * math.cos(angle)), round(distance * math.sin(angle))
        if radius or dx or dy:
            mask = encode(shift(erode(decode(mask), radius), dx, dy))
            box = box_of(mask)
        return Prediction(query.sample_id, "ok", mask=mask, box=box)

    def _draw(self, purpose: str, query: Query) -> float:
        return uniform(self.options.seed, purpose, query.sample_id)


def erode(mask: BoolMask, radius: float) -> BoolMask:
    """Keep the pixels farther than ``radius`` from the outline; a negative radius adds those outside within it.

    Distances are Euclidean, from the centre of a pixel; the outline runs half a pixel before the nearest pixel of the
    other kind, so that a radius below 0.5 changes nothing. The image border is no outline.
    """
    if not radius or not mask.any() or mask.all():
        return mask
    if radius > 0:
        return _distance(mask) - 0.5 > radius
    return _distance(~mask) - 0.5 <= -radius


def _distance(mask: BoolMask) -> NDArray[np.float32]:
    """Distance of every pixel to the nearest that is off; 0 where the pixel itself is."""
    field = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return cast("NDArray[np.float32]", field)


def shift(mask: BoolMask, dx: int, dy: int) -> BoolMask:
    """Move a mask by whole pixels, right and down; what leaves the image is lost."""
    height, width = mask.shape
    moved = np.zeros_like(mask)
    if abs(dx) < width and abs(dy) < height:
        source = mask[max(0, -dy) : height - max(0, dy), max(0, -dx) : width - max(0, dx)]
        moved[max(0, dy) : height - max(0, -dy), max(0, dx) : width - max(0, -dx)] = source
    return moved


def misplace(mask: BoolMask) -> BoolMask:
    """A wrong answer of about the right size: rolled by half the image both ways, without the target's own pixels.

    The intersection with the target is exactly 0, so a share of such answers lowers gIoU by exactly that share.
    """
    height, width = mask.shape
    return np.roll(mask, (height // 2, width // 2), axis=(0, 1)) & ~mask
