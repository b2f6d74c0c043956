"""What does not fit is said before a run: which images, how much they need, and which argument helps."""

from __future__ import annotations

from pathlib import Path

import pytest

from lens_bench.lens.images import Patching
from lens_bench.lens.recipe import Recipe
from lens_bench.lens.room import shortage
from lens_bench.lens.save import Story, save
from lens_bench.lens.segmenter import LensSegmenter
from lens_bench.lens.tiny import byte_tokenizer, tiny_config, tiny_model
from lens_bench.records import ImageTask, ModelOptions, Query


def test_lens_3b_has_no_room_for_images_of_800x800() -> None:
    """RRSIS-D: 29 x 29 = 841 tokens of 768."""
    found = shortage([(800, 800), (480, 640)], Recipe(), Patching(), 40, 1)
    assert found is not None and (found.images, found.size, found.needed, found.limit) == (1, (800, 800), 882, 768)
    assert shortage([(800, 800)], Recipe(max_length=882), Patching(), 40, 1) is None
    assert shortage([(800, 800)], Recipe(max_length=None, max_new_tokens=9), Patching(), 40, 1) is None
    smaller = Recipe(max_pixels=400_000)
    assert shortage([(800, 800)], smaller, Patching(), 40, 1) is None


@pytest.mark.parametrize("limit", [60, 4000])
def test_loading_warns_of_images_without_room(limit: int, tmp_path: Path) -> None:
    save(tiny_model(tiny_config("mrope")), tmp_path, byte_tokenizer(), Story("tiny"))
    segmenter = LensSegmenter(ModelOptions("tiny", str(tmp_path), {"max_length": limit}))
    segmenter.expect([ImageTask("a", (100, 300), (Query("a0", "the red one"),)), ImageTask("b", (10, 10), ())])
    warnings = segmenter.load().warnings
    segmenter.close()
    assert len(warnings) == (limit == 60)
    if warnings:
        assert "images leave no room for an answer within max_length=60" in warnings[0]
        assert "--model-arg max_length=" in warnings[0]
