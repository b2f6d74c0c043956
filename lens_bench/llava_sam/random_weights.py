"""LISA and GLaMM at their full size without a checkpoint: shapes by name, drawn weights, words without a vocabulary."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch

from lens_bench.lens.random_weights import draw
from lens_bench.lens.spread import Spread, link
from lens_bench.llava_sam.checkpoint import BLOCKS, finish
from lens_bench.llava_sam.config import LISA, Family, LlavaSamConfig, released_config
from lens_bench.llava_sam.modeling import LlavaSam
from lens_bench.llava_sam.tokens import SEG, SegTokenizer

_PIECES = 32_000
_WORD = 300
# LLaMA-7B and Llama-2-13B (their config.json), with the tokens that the authors add.
_SIZES: Mapping[str, Mapping[str, int]] = {
    "7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
    },
    "13b": {
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "max_position_embeddings": 4096,
    },
}
# CLIP ViT-L/14, at the side that the family reads.
_CLIP = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
}


def added_tokens(family: Family) -> dict[str, int]:
    """The tokens that a family's prompts use, behind the vocabulary."""
    names = [SEG, "<im_start>", "<im_end>"] if family is LISA else ["<im_start>", "<im_end>", "<bbox>", SEG]
    return {name: _PIECES + place for place, name in enumerate(names)}


def named_config(family: Family, name: str) -> LlavaSamConfig | None:
    """The shape of a released model by the name of its card (``lisa-13b-llama2``; GLaMM is 7B throughout), or None."""
    if family is LISA:
        size = next((size for size in _SIZES if name.startswith(f"lisa-{size}")), None)
    else:
        size = "7b" if name.startswith("glamm") else None
    if size is None:
        return None
    llama = {**_SIZES[size], "vocab_size": _PIECES + len(added_tokens(family)), "rms_norm_eps": 1e-6}
    return released_config(family, llama, {**_CLIP, "image_size": family.side})


def random_llava(config: LlavaSamConfig, seed: int, devices: Sequence[str], dtype: torch.dtype) -> LlavaSam:
    """A model of this shape on its devices, in evaluation mode; its weights are a function of seed and device kind."""
    device = devices[0]
    with torch.device("meta"):
        model = LlavaSam(config)
    spread = Spread.over(devices, model.llama.model.layers, model)
    draw(model, seed, device, lambda _: dtype, lambda name: spread.place(name, BLOCKS))
    link(model.llama.model, spread, devices)
    finish(model, device)
    return model


def word_tokens(family: Family) -> SegTokenizer:
    """A tokenizer that needs no file: every word and punctuation mark is a token, and all have the same id."""
    return SegTokenizer(_Words(), added_tokens(family))


class _Words:
    """A vocabulary of one word, as ``tokens.Pieces`` has it."""

    def encode(self, text: str) -> list[int]:
        return [_WORD for _ in re.findall(r"\w+|[^\w\s]", text)]

    def decode(self, ids: list[int]) -> str:
        return " ".join("word" for _ in ids)

    def get_piece_size(self) -> int:
        return _PIECES

    def id_to_piece(self, number: int) -> str:
        return {0: "<unk>", 1: "<s>", 2: "</s>"}.get(number, "word")

    def bos_id(self) -> int:
        return 1

    def eos_id(self) -> int:
        return 2

    def unk_id(self) -> int:
        return 0
