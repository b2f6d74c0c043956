"""Estimated memory of one rank, by how the model lies on the devices.

Rules, not measurements: AdamW keeps 16 bytes for each trained parameter (weight, gradient, two moments in float32), a
transformer layer keeps about 34 bytes per token and unit of width for its backward pass where attention is recomputed
(arXiv 2205.05198), and activation checkpointing keeps one state per layer and token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lens_bench.lens.config import whole
from lens_bench.lens.modeling import LensModel
from lens_bench.train.config import Lora, TrainRecipe
from lens_bench.train.lora import inject
from lens_bench.train.parameters import freeze
from lens_bench.train.start import random_start

CARDS_GB = (24, 48, 80, 141)
_KEPT = 34
# What CUDA, its libraries and fragmentation take of a card.
_RESERVED = 0.08


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one rank.

    Attributes:
        layout: ``plain``, ``FSDP`` or ``LoRA``.
        parts: What takes them, by name.
        training: While gradients live.
        sampling: While rollouts are sampled; 0 where none are.
        vllm: Share of a card that vLLM takes beside them.
        sleeps: Whether vLLM gives it back while gradients live.
    """

    layout: str
    parts: Mapping[str, float]
    training: float
    sampling: float
    vllm: float
    sleeps: bool

    @property
    def peak(self) -> float:
        """While gradients live or while rollouts are sampled, whichever is more."""
        return max(self.training, self.sampling)

    @property
    def cards(self) -> tuple[int, ...]:
        """The sizes of ``CARDS_GB`` that it fits on."""
        beside = 0.0 if self.sleeps else self.vllm
        needs = ((self.training, beside), (self.sampling, self.vllm))
        return tuple(n for n in CARDS_GB if all(size <= n * 1e9 * (1 - _RESERVED - share) for size, share in needs))


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens that the language model reads.

    Attributes:
        prefix: Of an image and the prompt before it.
        answer: Of a question, an answer and the queries.
        members: Answers to one prefix.
    """

    prefix: int
    answer: int
    members: int

    @property
    def unit(self) -> int:
        """Of one unit of the data, its prefix read once."""
        return self.prefix + self.members * self.answer


def memory_of(recipe: TrainRecipe, lens: LensModel, lengths: Lengths, gpus: int) -> tuple[Memory, ...]:
    """Memory of a rank with everything on it, with FSDP over ``gpus``, and with adapters.

    Args:
        recipe: What is trained.
        lens: Of the recipe's shape, frozen as the recipe says; may be on the meta device.
        lengths: Tokens of a unit.
        gpus: Ranks.
    """
    if recipe.lora is not None:
        return (_memory("LoRA", recipe, lens, lengths, gpus, divided=1),)
    found = [_memory("plain", recipe, lens, lengths, gpus, divided=1)]
    if recipe.stage not in ("supervised", "grpo"):
        return tuple(found)
    if gpus > 1:
        found.append(_memory("FSDP", recipe, lens, lengths, gpus, divided=gpus))
    if "language" in recipe.optimiser.rates:
        found.append(_with_adapters(recipe, lengths, gpus))
    return tuple(found)


def _with_adapters(recipe: TrainRecipe, lengths: Lengths, gpus: int) -> Memory:
    """The same stage as ``lens-3b-stage2-lora`` trains it: frozen weights in bfloat16, adapters of rank 64."""
    kept = {group: rate for group, rate in recipe.optimiser.rates.items() if group not in ("embeddings", "vision")}
    adapted = recipe.model_copy(
        update={
            "lora": Lora(rank=64, alpha=128),
            "model": recipe.model.model_copy(update={"dtype": "bfloat16"}),
            "optimiser": recipe.optimiser.model_copy(update={"rates": kept}),
        }
    )
    with torch.device("meta"):
        lens = random_start(adapted)
    inject(lens, Lora(rank=64, alpha=128), recipe.seed)
    freeze(lens, adapted)
    return _memory("LoRA", adapted, lens, lengths, gpus, divided=1)


def _memory(layout: str, recipe: TrainRecipe, lens: LensModel, lengths: Lengths, gpus: int, *, divided: int) -> Memory:
    trained = sum(p.numel() for p in lens.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in lens.parameters() if not p.requires_grad)
    language = sum(p.numel() for p in lens.qwen.parameters())
    half = 2.0 if recipe.runtime.precision == "bf16" else 4.0
    grpo = recipe.grpo
    parts = {
        "weights": 4.0 * trained / divided + (2.0 if recipe.model.dtype == "bfloat16" else 4.0) * frozen,
        "gradients": 4.0 * trained / divided,
        "moments": 8.0 * trained / divided,
    }
    if grpo is not None and grpo.beta and recipe.lora is None:
        parts["reference"] = 4.0 * language / divided
    micro = recipe.batch.micro * lengths.unit
    parts["activations"] = _activations(recipe, lens, micro, half)
    vocabulary = whole(lens.qwen.config.text_config, "vocab_size")
    parts["logits"] = 3 * 4.0 * min(micro, recipe.runtime.logits_chunk) * vocabulary
    if divided > 1:  # FSDP gathers a layer at a time while it trains
        layers = whole(lens.qwen.config.text_config, "num_hidden_layers")
        parts["gathered layers"] = 2 * half * language / layers
    training = sum(parts.values())
    sampling = 0.0
    if grpo is not None:
        if divided > 1:
            parts["gathered copy"] = 4.0 * sum(p.numel() for p in lens.parameters())
        if grpo.rollouts == "hf":
            units = max(1, recipe.batch.units // gpus)
            parts["keys and values"] = units * lengths.unit * _key_values(lens, half)
        kept = ("weights", "moments", "reference", "gathered copy", "keys and values")
        sampling = sum(parts.get(name, 0.0) for name in kept)
    share = grpo.vllm_share if grpo is not None and grpo.rollouts == "vllm" else 0.0
    return Memory(layout, parts, training, sampling, share, grpo is not None and grpo.vllm_sleep)


def _activations(recipe: TrainRecipe, lens: LensModel, tokens: int, size: float) -> float:
    layers = whole(lens.qwen.config.text_config, "num_hidden_layers")
    if recipe.runtime.gradient_checkpointing:
        return tokens * lens.width * (layers * size + _KEPT * size / 2)
    return tokens * lens.width * layers * _KEPT * size / 2


def _key_values(lens: LensModel, size: float) -> float:
    """Bytes of one token's keys and values in all layers."""
    text = lens.qwen.config.text_config
    heads, shared = whole(text, "num_attention_heads"), whole(text, "num_key_value_heads")
    return 2 * size * whole(text, "num_hidden_layers") * shared * (lens.width // heads)
