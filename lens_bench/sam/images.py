"""SAM's view of an image: longest side to the input side, normalised, then padded with zeros right and below."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lens_bench.records import Pixels, Size

# ImageNet's statistics on the 0-255 scale, as SAM writes them.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True, slots=True)
class SamImage:
    """One image, ready for the image encoder.

    Attributes:
        pixels: [3, S, S] float32, normalised, zero beyond ``inside``.
        inside: Size (height, width) of the resized image within the square.
        original: Size of the original image.
    """

    pixels: Tensor
    inside: Size
    original: Size


def inside_size(size: Size, side: int) -> Size:
    """Size (height, width) with the longest side at ``side``, up or down, the other rounded half up."""
    scale = side / max(size)
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)


def prepare(pixels: Pixels, side: int) -> SamImage:
    """Resize with Pillow's bilinear kernel (antialiased), normalise and pad an RGB image uint8 [H, W, 3].

    The same arithmetic as ``SamPredictor.set_image``: padding comes after the normalisation, so it is zero.
    """
    original = (int(pixels.shape[0]), int(pixels.shape[1]))
    height, width = inside = inside_size(original, side)
    resized = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
    image = torch.from_numpy(resized.astype(np.float32)).permute(2, 0, 1)
    square = torch.zeros(3, side, side)
    square[:, :height, :width] = (image - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    return SamImage(square, inside, original)
