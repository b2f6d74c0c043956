"""Attention span by span against one dense attention over everything."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lens_bench.errors import UsageError
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.spans import Spans, attend
from lens_bench.lens.tiny import tiny_config, tiny_model

SIZES = ((5, 3, 1, 4), (2,), (3, 6))


def spans_and_mask(hidden: int = 0) -> tuple[Spans, Tensor]:
    """Spans in which each segment's last token does not see its ``hidden`` first ones; the same as one mask [N, N]."""
    total = sum(size for row in SIZES for size in row)
    allowed = torch.zeros(total, total, dtype=torch.bool)
    masks, start = [], 0
    for prefix, *segments in SIZES:
        allowed[start : start + prefix, start : start + prefix] = torch.ones(prefix, prefix).tril().bool()
        at = start + prefix
        for size in segments:
            own = torch.ones(size, prefix + size, dtype=torch.bool).tril(prefix)
            if size > hidden:
                own[-1, prefix : prefix + hidden] = False
            allowed[at : at + size, start : start + prefix] = own[:, :prefix]
            allowed[at : at + size, at : at + size] = own[:, prefix:]
            masks.append(torch.zeros(own.shape).masked_fill(~own, -torch.inf)[None, None])
            at += size
        start = at
    return Spans(SIZES, tuple(masks)), allowed


@pytest.mark.parametrize("heads", [(4, 4), (6, 2)])
@pytest.mark.parametrize("hidden", [0, 1])
def test_spans_are_dense_attention(heads: tuple[int, int], hidden: int) -> None:
    spans, allowed = spans_and_mask(hidden)
    generator = torch.Generator().manual_seed(0)
    total, width = len(allowed), 8
    query = torch.randn(1, heads[0], total, width, generator=generator, requires_grad=True)
    key, value = (torch.randn(1, heads[1], total, width, generator=generator, requires_grad=True) for _ in range(2))
    weights = torch.randn(1, total, heads[0], width, generator=generator)
    out = attend(query, key, value, spans, 0.3)
    repeated = [t.repeat_interleave(heads[0] // heads[1], dim=1) for t in (key, value)]
    dense = functional.scaled_dot_product_attention(query, *repeated, attn_mask=allowed, scale=0.3).transpose(1, 2)
    torch.testing.assert_close(out, dense)
    found = torch.autograd.grad((out * weights).sum(), (query, key, value))
    wanted = torch.autograd.grad((dense * weights).sum(), (query, key, value))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_masks_that_are_one_object_stay_one() -> None:
    mask = torch.zeros(1, 1, 2, 3)
    moved = Spans(((1, 2, 2),), (mask, mask)).to(torch.device("meta"))
    assert moved.masks[0] is moved.masks[1] and moved.masks[0].is_meta


def dropping_out() -> LensModel:
    config = tiny_config("mrope")
    text = config.qwen["text_config"]
    assert isinstance(text, dict)
    dropping = {**config.qwen, "text_config": {**text, "attention_dropout": 0.5}}
    return tiny_model(config.model_copy(update={"qwen": dropping}))


def test_attention_dropout_is_refused_where_it_would_act() -> None:
    """Whatever is passed for a mask: spans, one that can be folded, one that cannot."""
    model = dropping_out()
    embeds = torch.randn(1, 2, model.width, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(2).expand(3, 1, -1)
    inputs = (Spans(((2,),), ()), torch.ones(1, 1, 2, 2, dtype=torch.bool), torch.ones(1, 2, dtype=torch.long))
    with torch.no_grad():
        for mask in inputs:
            expected = tiny_model(tiny_config("mrope")).read(embeds, positions, mask)
            assert torch.equal(model.eval().read(embeds, positions, mask), expected)
            with pytest.raises(UsageError, match=r"attention dropout 0\.5"):
                model.train().read(embeds, positions, mask)
