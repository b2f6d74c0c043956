"""Attention of rows that stand one behind the other: prefixes, and segments that each continue one of them.

A training batch holds every image once, with all its expressions behind it. As rows of one tensor, padded to the
longest and with a mask over everything, most of the attention would be computed for nothing: a segment sees its prefix
and itself, never its neighbours. Here a batch is one long row without padding, and attention runs span by span.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from lens_bench.errors import UsageError
from lens_bench.lens.attention import can_fold, folded
from lens_bench.lens.hf import AttentionInterface, AttentionMaskInterface, sdpa_attention_forward, sdpa_mask

NAME = "lens-spans"


@dataclass(frozen=True, slots=True)
class Spans:
    """How a row of N tokens divides.

    Attributes:
        sizes: Per prefix its tokens, then those of each of its segments; they add up to N.
        masks: Per segment [1, 1, t, prefix + t], added to the scores: 0 at what a token sees, minus infinity elsewhere.
    """

    sizes: tuple[tuple[int, ...], ...]
    masks: tuple[Tensor, ...]

    def to(self, device: torch.device) -> Spans:
        """A copy on a device; masks that are one object stay one."""
        moved = {id(mask): mask.to(device) for mask in self.masks}
        return Spans(self.sizes, tuple(moved[id(mask)] for mask in self.masks))


def attend(query: Tensor, key: Tensor, value: Tensor, spans: Spans, scale: float) -> Tensor:
    """Attention of every span to itself and the prefix that it continues.

    Args:
        query: [1, H, N, d].
        key: [1, K, N, d], where K divides H.
        value: As ``key``.
        spans: Of the N tokens.
        scale: Of the scores.

    Returns:
        [1, N, H, d].
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    flat = [size for row in spans.sizes for size in row]
    parts = iter(zip(*(torch.split(part, flat, dim=2) for part in (query, key, value)), strict=True))
    masks, found = iter(spans.masks), list[Tensor]()
    for row in spans.sizes:
        q, before_k, before_v = next(parts)
        found.append(functional.scaled_dot_product_attention(q, before_k, before_v, is_causal=True, scale=scale))
        for _ in row[1:]:
            q, k, v = next(parts)
            keys, values = torch.cat([before_k, k], dim=2), torch.cat([before_v, v], dim=2)
            mask = next(masks).to(q.dtype)
            found.append(functional.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=scale))
    return torch.cat(found, dim=2).transpose(1, 2)


def _forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: object, **options: object
) -> tuple[Tensor, None]:
    """What transformers' attention layers call: ``attend`` where they were given spans, else the usual attention.

    Raises:
        UsageError: The backbone is trained with attention dropout, whose draws would depend on how a batch is packed.
    """
    scale = options["scaling"]
    if not isinstance(scale, float):
        raise TypeError(f"attention scaled by {scale!r}")
    if dropout := options.get("dropout"):
        raise UsageError(
            f"the backbone's configuration asks for attention dropout {dropout} in training; there is none here",
            "set attention_dropout to 0 in its config.json",
        )
    if isinstance(attention_mask, Spans):
        return attend(query, key, value, attention_mask, scale), None
    if isinstance(attention_mask, Tensor) and can_fold(query, key, attention_mask):
        return folded(query, key, value, attention_mask, scale), None
    usual = cast("Callable[..., tuple[Tensor, None]]", sdpa_attention_forward)
    return usual(module, query, key, value, attention_mask, **options)


def use_spans(language_model: nn.Module) -> None:
    """Let one of transformers' language models take ``Spans`` in place of a mask."""
    AttentionInterface.register(NAME, _forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    language_model.set_attn_implementation(NAME)  # type: ignore[operator]
