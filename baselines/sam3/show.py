"""Pictures as the language model gets them."""

from __future__ import annotations

from lens_bench.records import Pixels
from lens_bench.vlm.chat import Picture
from lens_bench.vlm.sizing import Sizing


class Show:
    """Sizes pictures; the same array gives the same ``Picture``, so that what several agents see is sent or read once.

    It holds on to every array it has seen, so that none is mistaken for another: make one per call of the model.
    """

    def __init__(self, sizing: Sizing) -> None:
        self._sizing = sizing
        self._known: dict[int, tuple[Pixels, Picture]] = {}

    def __call__(self, pixels: Pixels) -> Picture:
        """The picture of an RGB image uint8 [H, W, 3]."""
        known = self._known.get(id(pixels))
        if known is None:
            known = self._known[id(pixels)] = (pixels, Picture(self._sizing.apply(pixels)))
        return known[1]
