"""Attention: which kernels it runs on, chosen by what is installed and fits, and heads that share keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from lens_bench.lens.hf import is_flash_attn_2_available

# Attention functions of ours, by the name that a configuration holds, and the kernels they run on.
OURS = {"lens-spans": "sdpa"}


class Attending(Protocol):
    """A part of a model that transformers gives its attention."""

    @property
    def config(self) -> object:
        """Its configuration."""
        ...

    def set_attn_implementation(self, attn_implementation: str) -> object:
        """Choose the kernels."""
        ...


def prefer_flash(tower: Attending, device: torch.device, dtype: torch.dtype) -> None:
    """Give a vision tower FlashAttention 2 where it is installed and fits: windows of an image then need no loop.

    Language models keep PyTorch's own kernels, because rows with gaps need masks, which FlashAttention 2 lacks.
    """
    if device.type == "cuda" and dtype in (torch.float16, torch.bfloat16) and is_flash_attn_2_available():
        tower.set_attn_implementation("flash_attention_2")


def attention(parts: Mapping[str, Attending]) -> str:
    """In words, as the named parts have it."""
    names = {name: getattr(part.config, "_attn_implementation", None) for name, part in parts.items()}
    return "attention: " + ", ".join(f"{part} {OURS.get(str(kernels), kernels)}" for part, kernels in names.items())


def can_fold(query: Tensor, key: Tensor, mask: object) -> bool:
    """Whether ``folded`` takes these, and with fewer bytes copied than there are repeated keys and values."""
    heads, count = query.shape[1], key.shape[1]
    if heads == count or not isinstance(mask, Tensor) or mask.ndim != 4 or mask.shape[1] != 1:
        return False
    return query.shape[2] < 2 * count * query.shape[3]


def folded(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Attention in which the heads of a group are more queries of the head whose keys they share.

    PyTorch's kernels take a mask only with as many heads of keys as of queries; repeating those costs more than
    attention itself where few tokens look at many.

    Args:
        query: [B, H, Q, d].
        key: [B, G, K, d], where G divides H.
        value: As ``key``.
        mask: [B or 1, 1, Q, K].
        scale: Of the scores.

    Returns:
        [B, Q, H, d].
    """
    rows, heads, count, width = query.shape
    groups = heads // key.shape[1]
    wide = mask.unsqueeze(2).expand(-1, -1, groups, -1, -1).reshape(mask.shape[0], 1, groups * count, mask.shape[3])
    queries = query.reshape(rows, key.shape[1], groups * count, width)
    out = functional.scaled_dot_product_attention(queries, key, value, attn_mask=wide, scale=scale)
    return out.reshape(rows, heads, count, width).transpose(1, 2).contiguous()
