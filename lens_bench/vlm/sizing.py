"""The image as a vision-language model gets it: stretched to a square, or sized so that no server resizes it again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from lens_bench.errors import UsageError
from lens_bench.records import Pixels, Size


@dataclass(frozen=True, slots=True)
class Sizing:
    """How an image is sized before a model sees it.

    Attributes:
        square: Stretch to a square of this side; 0 to keep the aspect.
        factor: Both sides become multiples of it: patch times merge of the vision tower (28 for Qwen2.5-VL, 32 for
            Qwen3-VL), so that the model's own processor leaves the image as it is and its pixels are those we sent.
        min_pixels: Smallest area.
        max_pixels: Largest area.
        kernel: Pillow's resampling kernel.
    """

    square: int = 0
    factor: int = 28
    min_pixels: int = 56 * 56
    max_pixels: int = 1280 * 28 * 28
    kernel: str = "bicubic"

    def __post_init__(self) -> None:
        if self.kernel not in ("bicubic", "bilinear"):
            raise UsageError(f"no resampling kernel {self.kernel!r}", "one of: bicubic, bilinear")
        if self.square < 0 or self.factor < 1 or not 1 <= self.min_pixels <= self.max_pixels:
            raise UsageError("sizes of the image do not fit together", "0 <= square, 1 <= min_pixels <= max_pixels")

    def size(self, original: Size) -> Size:
        """Size (height, width) for an image of ``original`` size."""
        if self.square:
            return self.square, self.square
        from lens_bench.lens.images import smart_size

        return smart_size(original, self.factor, self.min_pixels, self.max_pixels)

    def apply(self, pixels: Pixels) -> Pixels:
        """The image RGB uint8 [H, W, 3] at that size."""
        height, width = self.size((int(pixels.shape[0]), int(pixels.shape[1])))
        if pixels.shape[:2] == (height, width):
            return pixels
        kernel = Image.Resampling.BICUBIC if self.kernel == "bicubic" else Image.Resampling.BILINEAR
        return np.asarray(Image.fromarray(pixels).resize((width, height), kernel))
