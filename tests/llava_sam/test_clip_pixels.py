"""The vision tower's pixels against transformers' own CLIP processor on Pillow."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lens_bench.llava_sam.images import clip_pixels
from lens_bench.torchvision_guard import guard_torchvision

guard_torchvision()

from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil  # noqa: E402


@pytest.mark.parametrize("side", [224, 336])
@pytest.mark.parametrize("size", [(300, 400), (401, 300), (64, 64), (100, 777), (1031, 517), (224, 225)])
def test_pixels_are_those_of_the_processor(size: tuple[int, int], side: int) -> None:
    pixels = np.random.default_rng(size[0]).integers(0, 256, (*size, 3), dtype=np.uint8)
    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    theirs = processor(pixels, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(clip_pixels(pixels, side), theirs, rtol=0, atol=1e-5)
