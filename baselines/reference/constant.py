"""Models that look at nothing but the size of the image."""

from __future__ import annotations

import math

from lens_bench.errors import UsageError
from lens_bench.masks import box_mask, box_of, empty, full
from lens_bench.records import ModelOptions, Prediction, Query, Size

from .draws import number
from .weightless import Weightless


class Empty(Weightless):
    """Marks no pixel: a mask that is there, and empty."""

    def answer(self, query: Query, size: Size) -> Prediction:
        """The empty mask."""
        return Prediction(query.sample_id, "ok", mask=empty(size))


class Full(Weightless):
    """Marks every pixel."""

    def answer(self, query: Query, size: Size) -> Prediction:
        """The full mask and the box of the image."""
        mask = full(size)
        return Prediction(query.sample_id, "ok", mask=mask, box=box_of(mask))


class Center(Weightless):
    """Marks a centred box that covers the argument ``share`` of the image, in the image's own aspect ratio."""

    def __init__(self, options: ModelOptions) -> None:
        super().__init__(options)
        share = number(options, "share", 0.0, 1.0)
        if share == 0:
            raise UsageError("--model-arg share=0: center marks a share of the image above 0", "`empty` marks nothing")
        self._scale = math.sqrt(share)

    def answer(self, query: Query, size: Size) -> Prediction:
        """The centred box, filled."""
        height, width = size
        dx, dy = width * self._scale / 2, height * self._scale / 2
        box = (width / 2 - dx, height / 2 - dy, width / 2 + dx, height / 2 + dy)
        return Prediction(query.sample_id, "ok", mask=box_mask(box, size), box=box)
