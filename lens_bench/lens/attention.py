"""Which kernels attention runs on: chosen by what is installed and fits, and said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from lens_bench.lens.hf import is_flash_attn_2_available


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
    return "attention: " + ", ".join(f"{part} {kernels}" for part, kernels in names.items())
