"""Resizing and patching against transformers' own processor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_bench.errors import DataError
from lens_bench.lens.images import Patching, longest_side_size, patches, prepare, sam_square, smart_size
from lens_bench.lens.recipe import Recipe
from lens_bench.torchvision_guard import guard_torchvision

guard_torchvision()

from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil  # noqa: E402
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize  # noqa: E402


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_smart_size_is_transformers(height: int, width: int) -> None:
    if max(height, width) / min(height, width) > 200:
        return
    assert smart_size((height, width), 28, 3136, 1_000_000) == smart_resize(height, width, 28, 3136, 1_000_000)


@settings(max_examples=8, deadline=None)
@given(st.integers(20, 300), st.integers(20, 300))
def test_patches_are_those_of_transformers(height: int, width: int) -> None:
    pixels = picture(height, width)
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 3136, "longest_edge": 1_000_000})
    theirs = processor(images=pixels, return_tensors="pt")
    ours = prepare(pixels, Recipe(), Patching(), 64)
    assert ours.grid == tuple(theirs["image_grid_thw"][0].tolist())
    assert ours.seen == (ours.grid[1] * 14, ours.grid[2] * 14) and ours.original == (height, width)
    torch.testing.assert_close(ours.patches, theirs["pixel_values"], rtol=0, atol=2e-6)


def test_patches_of_a_tower_without_merging() -> None:
    flat, grid = patches(picture(28, 42), Patching(14, 1, 2))
    assert grid == (1, 2, 3) and flat.shape == (6, 3 * 2 * 14 * 14)
    with pytest.raises(ValueError, match="multiple"):
        patches(picture(28, 43), Patching(14, 1, 2))


def test_longest_side_truncates_and_may_enlarge() -> None:
    assert longest_side_size((480, 640), 640) == (480, 640)
    assert longest_side_size((100, 333), 640) == (192, 640)
    assert longest_side_size((1000, 999), 640) == (640, 639)


def test_sam_square_kernels_differ_and_are_normalised() -> None:
    pixels = picture(300, 500)
    smooth, sharp = sam_square(pixels, 128, "pillow"), sam_square(pixels, 128, "opencv")
    assert smooth.shape == sharp.shape == (3, 128, 128)
    assert smooth.std() < sharp.std()
    grey = sam_square(np.full((10, 10, 3), 255, np.uint8), 4, "opencv")
    expected = torch.tensor([(255 - 123.675) / 58.395, (255 - 116.28) / 57.12, (255 - 103.53) / 57.375])
    torch.testing.assert_close(grey[:, 0, 0], expected, rtol=1e-5, atol=1e-5)


def test_an_elongated_image_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="strip"):
        prepare(picture(1, 300), Recipe(), Patching(), 64, "strip")
