"""8-bit and 4-bit weights by bitsandbytes, for devices that the language model does not fit otherwise.

Only the linear layers of the language model's blocks are quantised: they are most of the weights. Embeddings, output
layer, vision tower, head and SAM keep their precision, so a mask differs only by what its prompt differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from torch import nn

from lens_bench.errors import UsageError

Bits: TypeAlias = Literal["8bit", "4bit"]
BITS: Mapping[str, Bits] = {"8bit": "8bit", "4bit": "4bit"}


def bits_of(said: object, device: str) -> Bits | None:
    """What argument ``load_in`` of a card means on a device; None for weights as they are.

    Raises:
        UsageError: It is no such thing, or the device is none that bitsandbytes is meant for.
    """
    if said in (None, "", "none"):
        return None
    if said not in BITS:
        raise UsageError(f"no weights in {said!r}", f"load_in is one of: none, {', '.join(BITS)}")
    if not device.startswith("cuda"):
        raise UsageError(
            f"load_in={said} needs a GPU, the device is {device}", "--device cuda, or load_in=none and a smaller dtype"
        )
    return BITS[str(said)]


def quantise(blocks: nn.ModuleList, bits: Bits, device: str | torch.device, dtype: torch.dtype) -> None:
    """Replace every linear layer of the blocks, whose weights lie in CPU memory, and bring it to the device.

    ``8bit`` is LLM.int8() (Dettmers et al., 2022), ``4bit`` is NF4 with double quantisation (QLoRA, 2023), as the
    authors' own scripts offer them.

    Raises:
        UsageError: bitsandbytes is not installed.
    """
    try:
        import bitsandbytes as bnb  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as error:
        raise UsageError(f"load_in={bits} needs bitsandbytes: {error}", "pip install bitsandbytes") from None
    for module in list(blocks.modules()):
        for name, child in list(module.named_children()):
            if not isinstance(child, nn.Linear):
                continue
            size, bias, weight = (child.in_features, child.out_features), child.bias, child.weight.data
            layer: nn.Module
            if bits == "8bit":
                layer = bnb.nn.Linear8bitLt(*size, bias=bias is not None, has_fp16_weights=False, device="meta")
                layer.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
            else:
                layer = bnb.nn.Linear4bit(
                    *size, bias=bias is not None, compute_dtype=dtype, quant_type="nf4", device="meta"
                )
                layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
            layer.bias = bias
            setattr(module, name, layer.to(device))
    blocks.to(device)
