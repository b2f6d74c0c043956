"""Sizing images for the two towers: Qwen's patches and SAM 2's square.

Written against arrays instead of transformers' processors, which need torchvision. ``smart_size`` and ``patches`` give
what ``Qwen2VLImageProcessor`` gives (compared in the tests); resizing is Pillow's bicubic kernel, as in the authors'
evaluations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from lens_bench.errors import DataError
from lens_bench.lens.positions import Grid
from lens_bench.lens.recipe import Recipe
from lens_bench.records import Pixels, Size

# CLIP's statistics, which Qwen2-VL and Qwen2.5-VL use, and ImageNet's, which SAM 2 uses; on the 0-1 scale.
QWEN_MEAN, QWEN_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SAM_MEAN, SAM_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Qwen refuses images that are more than 200 times as long as wide.
MAX_ASPECT = 200


@dataclass(frozen=True, slots=True)
class Prepared:
    """One image, ready for both towers.

    Attributes:
        patches: [t*h*w, channels * temporal * patch * patch] float32.
        grid: Patch grid (t, h, w).
        seen: Size (height, width) of the image the language model sees.
        original: Size of the original image.
        square: [3, S, S] float32, normalised for SAM 2.
    """

    patches: Tensor
    grid: Grid
    seen: Size
    original: Size
    square: Tensor


@dataclass(frozen=True, slots=True)
class Patching:
    """The vision tower's geometry: ``patch`` pixels a side, ``merge`` patches a token and axis, ``temporal`` frames."""

    patch: int = 14
    merge: int = 2
    temporal: int = 2


def prepare(pixels: Pixels, recipe: Recipe, patching: Patching, sam_size: int, name: str = "image") -> Prepared:
    """Resize and normalise one RGB image uint8 [H, W, 3] for both towers.

    Raises:
        DataError: The image is empty or too elongated for the vision tower.
    """
    size = (int(pixels.shape[0]), int(pixels.shape[1]))
    if min(size) < 1 or max(size) > MAX_ASPECT * min(size):
        raise DataError(f"{name} of {size[1]}x{size[0]} pixels is too elongated", f"at most 1:{MAX_ASPECT}")
    seen = resize_for_language(pixels, recipe, patching)
    flat, grid = patches(seen, patching)
    return Prepared(flat, grid, (seen.shape[0], seen.shape[1]), size, sam_square(pixels, sam_size, recipe.sam_resize))


# ---------------------------------------------------------------------------------------------- the language model


def smart_size(size: Size, factor: int, min_pixels: int, max_pixels: int) -> Size:
    """Nearest size whose sides are multiples of ``factor`` and whose area lies between the bounds.

    The rule of Qwen's own ``qwen_vl_utils.smart_resize``, where no side rounds down to nothing. transformers' function
    of the same name lacks that and agrees for sides of more than half of ``factor``.
    """
    height, width = size
    new_height, new_width = (max(factor, round(side / factor) * factor) for side in (height, width))
    if new_height * new_width > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        new_height, new_width = (max(factor, math.floor(s / shrink / factor) * factor) for s in (height, width))
    elif new_height * new_width < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        new_height, new_width = (math.ceil(s * grow / factor) * factor for s in (height, width))
    return new_height, new_width


def longest_side_size(size: Size, longest: int) -> Size:
    """Size with the longest side at ``longest``, up or down, the other truncated (the authors' ReasonSeg rule)."""
    height, width = size
    scale = longest / (width if width > height else height)
    return max(1, int(height * scale)), max(1, int(width * scale))


def size_for_language(size: Size, recipe: Recipe, patching: Patching) -> Size:
    """Size (height, width) at which the language model sees an image of ``size``."""
    if recipe.sizing == "square":
        return recipe.longest_side, recipe.longest_side
    if recipe.sizing == "longest-side":
        size = longest_side_size(size, recipe.longest_side)
    return smart_size(size, patching.patch * patching.merge, recipe.min_pixels, recipe.max_pixels)


def resize_for_language(pixels: Pixels, recipe: Recipe, patching: Patching) -> Pixels:
    """The image as the language model sees it, uint8, both sides multiples of a token."""
    size = (int(pixels.shape[0]), int(pixels.shape[1]))
    if recipe.sizing == "longest-side":  # the authors resize twice
        pixels = bicubic(pixels, longest_side_size(size, recipe.longest_side))
    return bicubic(pixels, size_for_language(size, recipe, patching))


def bicubic(pixels: Pixels, size: Size) -> Pixels:
    """Pillow's bicubic kernel, antialiased, on uint8."""
    if pixels.shape[:2] == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def patches(pixels: Pixels, patching: Patching) -> tuple[Tensor, Grid]:
    """Flatten an image into patches, those of one token next to each other, the still frame repeated in time.

    Returns:
        Patches [h*w, 3 * temporal * patch * patch] float32 and the grid (1, h, w).
    """
    p, m = patching.patch, patching.merge
    height, width = pixels.shape[0] // p, pixels.shape[1] // p
    if (height * p, width * p) != pixels.shape[:2] or height % m or width % m:
        raise ValueError(f"an image of {pixels.shape[1]}x{pixels.shape[0]} is not a multiple of {p * m}")
    normal = normalised(pixels, QWEN_MEAN, QWEN_STD)
    tiles = normal.reshape(3, height // m, m, p, width // m, m, p).transpose(1, 4, 2, 5, 0, 3, 6)
    still = np.repeat(tiles[:, :, :, :, :, None], patching.temporal, axis=5)
    return torch.from_numpy(still.reshape(height * width, -1)), (1, height, width)


# ---------------------------------------------------------------------------------------------- SAM 2


def sam_square(pixels: Pixels, side: int, kernel: str) -> Tensor:
    """Stretch an image to [3, side, side] and normalise it.

    ``pillow`` is bilinear with antialiasing (the authors' RefCOCO and GroundingSuite evaluations), ``opencv`` bilinear
    without (their ReasonSeg evaluation).
    """
    if kernel == "pillow":
        square = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR))
    else:
        square = np.asarray(cv2.resize(pixels, (side, side), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    return torch.from_numpy(normalised(square, SAM_MEAN, SAM_STD))


def sam2_square(pixels: Pixels, side: int) -> Tensor:
    """The image as Meta's ``SAM2ImagePredictor`` hands it to the encoder: [3, side, side] float32, normalised.

    ``SAM2Transforms`` resizes after turning bytes into floats, so nothing is rounded to grey levels in between.
    """
    planes = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float().div(255)
    if planes.shape[1:] != (side, side):
        planes = functional.interpolate(
            planes[None], (side, side), mode="bilinear", align_corners=False, antialias=True
        )[0]
    return (planes - torch.tensor(SAM_MEAN).view(3, 1, 1)) / torch.tensor(SAM_STD).view(3, 1, 1)


def normalised(pixels: Pixels, mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.float32]:
    """Channels first [3, H, W], on the 0-1 scale, mean removed, divided by the deviation."""
    scale = (1 / (255 * np.asarray(std))).astype(np.float32)
    shift = (np.asarray(mean) / np.asarray(std)).astype(np.float32)
    return np.ascontiguousarray((pixels.astype(np.float32) * scale - shift).transpose(2, 0, 1))
