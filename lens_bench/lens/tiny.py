"""A LENS small enough for tests: random weights, a byte tokenizer, a second to build, two megabytes on disk.

Weights are drawn so that signals keep their size from layer to layer. With transformers' own initialisation a random
model answers everything alike, and a test that compares answers could not fail.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from lens_bench.lens.config import HeadConfig, Json, LensConfig, Positions
from lens_bench.lens.recipe import Recipe

if TYPE_CHECKING:
    from lens_bench.lens.modeling import LensModel
    from lens_bench.lens.prompts import HubTokenizer

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_FIRST = 256
VOCABULARY = 272


def special_id(token: str) -> int:
    """Id of a special token of the byte tokenizer."""
    return _FIRST + SPECIAL.index(token)


def byte_tokenizer() -> HubTokenizer:
    """A tokenizer of the 256 bytes and Qwen's special tokens: any text round-trips, nothing has to be learned."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from lens_bench.lens.hf import PreTrainedTokenizerFast
    from lens_bench.lens.prompts import HubTokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[])
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    names = {"pad_token": SPECIAL[0], "eos_token": SPECIAL[2], "additional_special_tokens": list(SPECIAL)}
    return HubTokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names))  # type: ignore[no-untyped-call]


def tiny_config(
    positions: Positions = "mrope", family: str = "qwen2_5_vl", recipe: Recipe | None = None, ends: tuple[int, ...] = ()
) -> LensConfig:
    """Configuration of the tiny model.

    Args:
        positions: Of the mask pass.
        family: ``qwen2_5_vl`` or ``qwen2_vl``.
        recipe: How to ask; small images and 24 tokens by default.
        ends: More ids that end an answer, so that random answers differ in length.
    """
    text: Json = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        # Heads of 32: the smallest that vLLM's attention on the CPU takes.
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        "eos_token_id": special_id("<|im_end|>"),
        "pad_token_id": special_id("<|endoftext|>"),
        "bos_token_id": special_id("<|endoftext|>"),
    }
    common: Json = {"depth": 2, "num_heads": 2, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
    if family == "qwen2_5_vl":
        own: Json = {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 64, "fullatt_block_indexes": [1]}
    else:
        own = {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
    qwen: Json = {
        "text_config": text,
        "vision_config": {**common, **own},
        "image_token_id": special_id("<|image_pad|>"),
        "video_token_id": special_id("<|video_pad|>"),
        "vision_start_token_id": special_id("<|vision_start|>"),
        "vision_end_token_id": special_id("<|vision_end|>"),
        "tie_word_embeddings": True,
    }
    padding = special_id("<|endoftext|>")
    return LensConfig(
        family="qwen2_5_vl" if family == "qwen2_5_vl" else "qwen2_vl",
        qwen=qwen,
        sam=tiny_sam(),
        head=HeadConfig(queries=8, width=48, depth=2, heads=4, prompt_width=32),
        ends=(special_id("<|im_end|>"), padding, *ends),
        padding=padding,
        positions=positions,
        recipe=recipe or Recipe(max_pixels=112 * 112, max_length=None, max_new_tokens=24),
    )


def tiny_sam(image_size: int = 128, width: int = 32) -> Json:
    """SAM 2 with one block a stage; ``width`` is that of its prompt tokens."""
    widths = [8, 16, 32, 64]
    return {
        "vision_config": {
            "backbone_config": {
                "hidden_size": 8,
                "num_attention_heads": 1,
                "image_size": [image_size, image_size],
                "blocks_per_stage": [1, 1, 2, 1],
                "embed_dim_per_stage": widths,
                "num_attention_heads_per_stage": [1, 1, 2, 4],
                "window_size_per_stage": [8, 4, 8, 4],
                "global_attention_blocks": [3],
            },
            "backbone_channel_list": widths[::-1],
            "backbone_feature_sizes": [[image_size // s, image_size // s] for s in (4, 8, 16)],
            "fpn_hidden_size": width,
        },
        "prompt_encoder_config": {"image_size": image_size, "patch_size": 16, "hidden_size": width},
        "mask_decoder_config": {
            "hidden_size": width,
            "mlp_dim": 64,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": width,
        },
    }


@torch.no_grad()
def lively(model: LensModel, seed: int) -> LensModel:
    """Replace every weight by noise that keeps signals at their size: matrices by their fan-in, vectors near 1 or 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim < 2:
            parameter.copy_(float(name.endswith("weight")) + 0.05 * noise)
        elif "embed_tokens" in name:
            # Small beside what the layers add: a tied output layer would otherwise repeat the last token for ever.
            parameter.copy_(0.1 * noise)
        elif name == "head.queries":
            parameter.copy_(noise)
        else:
            parameter.copy_(noise / math.sqrt(math.prod(parameter.shape[1:])))
    return model


def tiny_model(config: LensConfig | None = None, seed: int = 0) -> LensModel:
    """A tiny model with lively random weights, a function of ``seed`` alone."""
    from lens_bench.lens.checkpoint import fresh

    return lively(fresh(config or tiny_config(), seed), seed)
