"""Resizing and patching against transformers' own processor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_bench.errors import DataError
from lens_bench.lens.images import Patching, longest_side_size, patches, prepare, sam2_square, sam_square, smart_size
from lens_bench.lens.recipe import Recipe
from lens_bench.torchvision_guard import guard_torchvision

guard_torchvision()

from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil  # noqa: E402
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize  # noqa: E402


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_smart_size_is_transformers_where_no_side_rounds_to_nothing(height: int, width: int) -> None:
    if max(height, width) / min(height, width) > 200 or min(height, width) <= 14:
        return
    assert smart_size((height, width), 28, 3136, 1_000_000) == smart_resize(height, width, 28, 3136, 1_000_000)


@given(st.integers(1, 14), st.integers(1, 2800), st.booleans(), st.sampled_from([(28, 3136), (32, 65536), (28, 1)]))
def test_no_side_rounds_to_nothing(thin: int, long: int, upright: bool, rule: tuple[int, int]) -> None:
    """Sides of half a token and less, as Qwen's ``smart_resize`` sizes them; the processor then leaves them alone."""
    factor, least = rule
    if long > 200 * thin:
        return
    height, width = (long, thin) if upright else (thin, long)
    size = smart_size((height, width), factor, least, 1_000_000)
    sides = [max(factor, round(side / factor) * factor) for side in (height, width)]
    if sides[0] * sides[1] >= least:
        assert size == tuple(sides)
    else:
        grow = (least / (height * width)) ** 0.5
        assert size == tuple(-(-side * grow // factor) * factor for side in (height, width))
    assert min(size) >= factor and size[0] % factor == size[1] % factor == 0
    if max(size) <= 200 * min(size):
        assert smart_resize(*size, factor, least, 1_000_000) == size


def test_small_sides_by_value() -> None:
    """10 x 200: transformers' function alone would say 28 x 252, since it takes the height for nothing."""
    assert smart_size((10, 200), 28, 3136, 1_003_520) == (28, 196)
    assert smart_size((1000, 14), 28, 3136, 1_003_520) == (1008, 28)
    assert smart_size((10, 10), 28, 3136, 1_003_520) == (56, 56)


def _triangle(size: int, out: int) -> np.ndarray:
    """Weights [out, size] of bilinear resizing with antialiasing, from its definition, in float64."""
    scale = size / out
    reach = max(scale, 1.0)
    distance = (np.arange(size)[None] + 0.5 - (np.arange(out)[:, None] + 0.5) * scale) / reach
    weights = np.clip(1 - np.abs(distance), 0, None)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("size", [(300, 420), (64, 64), (31, 200), (40, 25), (97, 64)])
def test_sam_2_sees_what_metas_transforms_make(size: tuple[int, int]) -> None:
    """``ToTensor``, ``Resize`` of a float tensor with antialiasing, ``Normalize``: no grey level is rounded to."""
    pixels, side = picture(*size), 64
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    rows, columns = _triangle(size[0], side), _triangle(size[1], side)
    exact = (np.einsum("ih,hwc,jw->ijc", rows, pixels / 255, columns) - mean) / std
    found = sam2_square(pixels, side)
    assert found.dtype == torch.float32 and found.shape == (3, side, side)
    torch.testing.assert_close(found.permute(1, 2, 0).double(), torch.from_numpy(exact), rtol=0, atol=2e-5)
    if size != (side, side):  # resizing bytes is off by up to a grey level, 1 / 255 / 0.225
        assert (sam_square(pixels, side, "pillow") - found).abs().max() > 1e-3


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
