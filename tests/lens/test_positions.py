"""Positions against transformers' own, and the law of the authors' one-dimensional ones."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLModel

from lens_bench.lens.positions import image_tokens, padded_positions, row_positions

IMAGE = 9


def reference() -> Qwen2_5_VLModel:
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    vision = {"depth": 1, "hidden_size": 16, "num_heads": 1, "out_hidden_size": 16}
    config = Qwen2_5_VLConfig(
        text_config={**text, "vocab_size": 16, "intermediate_size": 16}, vision_config=vision, image_token_id=IMAGE
    )
    with torch.device("meta"):
        return Qwen2_5_VLModel(config)


MODEL = reference()


@settings(deadline=None)
@given(st.integers(0, 6), st.integers(1, 6), st.integers(1, 6), st.integers(1, 9), st.integers(0, 4), st.booleans())
def test_mrope_is_transformers(before: int, h: int, w: int, after: int, pads: int, left: bool) -> None:
    grid = (1, 2 * h, 2 * w)
    row = [1] * before + [IMAGE] * image_tokens(grid, 2) + [2] * after
    ids, mask = torch.tensor([row]), torch.ones(1, len(row), dtype=torch.long)
    padding = torch.zeros(1, pads, dtype=torch.long)
    ids = torch.cat([padding, ids] if left else [ids, padding], dim=1)
    mask = torch.cat([padding, mask] if left else [mask, padding], dim=1)
    kinds = (ids == IMAGE).int()
    theirs, _ = MODEL.get_rope_index(ids, kinds, torch.tensor([grid]), attention_mask=mask)
    ours = padded_positions("mrope", ids, mask, [grid], IMAGE, 2)
    assert torch.equal(ours, theirs)


@given(st.integers(0, 5), st.integers(1, 5), st.integers(1, 5), st.integers(0, 9))
def test_lens_1d_counts_every_token(before: int, h: int, w: int, after: int) -> None:
    positions = row_positions("lens-1d", before, (1, 2 * h, 2 * w), 2, after)
    assert torch.equal(positions, torch.arange(before + h * w + after).expand(3, -1))
