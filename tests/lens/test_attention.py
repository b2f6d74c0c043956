"""Heads that share keys, against transformers' attention, which repeats them."""

from __future__ import annotations

import types

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_bench.lens.attention import attention, can_fold, folded, prefer_flash
from lens_bench.lens.hf import sdpa_attention_forward
from lens_bench.lens.modeling import LensModel


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(0, 9),
    st.sampled_from([4, 8]),
)
def test_folding_equals_repeating(rows: int, groups: int, shared: int, count: int, before: int, width: int) -> None:
    generator = torch.Generator().manual_seed(rows * 1000 + groups * 100 + count)
    keys = before + count
    query = torch.randn(rows, groups * shared, count, width, generator=generator)
    key, value = (torch.randn(rows, shared, keys, width, generator=generator) for _ in range(2))
    mask = torch.rand(rows, 1, count, keys, generator=generator) > 0.4
    mask |= torch.eye(count, keys, dtype=torch.bool)
    module = types.SimpleNamespace(num_key_value_groups=groups, is_causal=True)
    expected, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=0.3)  # type: ignore[arg-type]
    assert torch.allclose(folded(query, key, value, mask, 0.3), expected, atol=1e-6)
    added = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
    assert torch.allclose(folded(query, key, value, added[:1], 0.3)[:1], expected[:1], atol=1e-6)


def test_what_can_be_folded() -> None:
    query, key = torch.zeros(2, 4, 3, 8), torch.zeros(2, 2, 5, 8)
    mask = torch.ones(2, 1, 3, 5, dtype=torch.bool)
    assert can_fold(query, key, mask)
    assert not can_fold(query, torch.zeros(2, 4, 5, 8), mask)  # nothing is shared
    assert not can_fold(query, key, None) and not can_fold(query, key, mask.expand(-1, 4, -1, -1))
    long = torch.zeros(2, 4, 32, 8)  # the mask of every head of a group would be larger than keys and values
    assert not can_fold(long, key, torch.ones(2, 1, 32, 5, dtype=torch.bool))


def test_the_engine_folds(model: LensModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from lens_bench.lens import spans

    seen: list[int] = []

    def watch(query: torch.Tensor, *rest: object) -> torch.Tensor:
        seen.append(query.shape[2])
        return folded(query, *rest)  # type: ignore[arg-type]

    embeds = torch.randn(1, 1, model.width, generator=torch.Generator().manual_seed(0))
    positions, mask = torch.zeros(3, 1, 1, dtype=torch.long), torch.ones(1, 1, 1, 1, dtype=torch.bool)
    with torch.inference_mode():
        expected = model.read(embeds, positions, mask)
        monkeypatch.setattr(spans, "folded", watch)
        assert torch.equal(model.read(embeds, positions, mask), expected)
    assert seen == [1] * len(model.qwen.model.language_model.layers)


def test_kernels_are_named_and_left_alone_on_a_cpu(model: LensModel) -> None:
    tower = model.qwen.model.visual
    prefer_flash(tower, torch.device("cpu"), torch.bfloat16)
    parts = {"language model": model.qwen.model.language_model, "vision tower": tower}
    assert attention(parts) == "attention: language model sdpa, vision tower sdpa"
