"""The vision tower's view of an image: shortest side to the tower's side, then the centre.

What ``CLIPImageProcessor`` of the tower does, which is what LISA and GLaMM use. The ends of a long image are cut off:
the language model does not see them, SAM does.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lens_bench.records import Pixels

# CLIP's statistics on the 0-1 scale.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def clip_pixels(pixels: Pixels, side: int) -> Tensor:
    """Resize (Pillow's bicubic kernel), crop and normalise an RGB image uint8 [H, W, 3]; gives [3, side, side]."""
    height, width = int(pixels.shape[0]), int(pixels.shape[1])
    if height <= width:
        size = (side, int(side * width / height))
    else:
        size = (int(side * height / width), side)
    resized = np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BICUBIC))
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    centre = resized[top : top + side, left : left + side].astype(np.float32) / 255
    normal = (centre - np.asarray(MEAN, dtype=np.float32)) / np.asarray(STD, dtype=np.float32)
    return torch.from_numpy(np.ascontiguousarray(normal.transpose(2, 0, 1)))
