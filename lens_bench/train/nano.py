"""A model that is trained from nothing: its configuration, its tokenizer of words, its first weights.

The vocabulary is that of the generated suites: their words, and one token for every coordinate that an answer can name.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from lens_bench.data.shapes.language import NUMBERS, RANKS
from lens_bench.data.shapes.query import EXTREMES, SIDES
from lens_bench.data.shapes.vocabulary import COLORS, PLURALS, SHAPES, SIZES
from lens_bench.lens.checkpoint import fresh
from lens_bench.lens.config import HeadConfig, Json, LensConfig
from lens_bench.lens.prompts import HubTokenizer
from lens_bench.lens.recipe import Recipe
from lens_bench.train.sizes import Sizes

if TYPE_CHECKING:
    from lens_bench.lens.modeling import LensModel

SPECIAL = (
    "<|endoftext|>",
    "<|unknown|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_MORE = (
    "the a of in at on from to than all only but not is it that which and one very far side thing things no "
    "left right above below over under higher lower closest nearest highest lowest largest large little "
    "counting center first second"
).split()
_PATCH = 14


def words(sizes: Sizes) -> tuple[str, ...]:
    """The vocabulary: special tokens, brackets, coordinates (each with the comma behind it), words."""
    coordinates = [f"{value}," for value in range(0, sizes.side + 1, sizes.step)]
    known = {*_MORE, *COLORS, *SHAPES, *SIZES, *PLURALS.values(), *NUMBERS, *filter(None, RANKS), *EXTREMES, *SIDES}
    return (*SPECIAL, "[", "]", *coordinates, *sorted(known))


def word_tokenizer(sizes: Sizes) -> HubTokenizer:
    """A tokenizer of whole words in lower case; punctuation is dropped, other words are unknown."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(words(sizes))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[1]))
    tokenizer.normalizer = normalizers.Lowercase()
    pattern = Regex(r"\[|\]|\d+,|[^\s\[\],.?!]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="removed", invert=True)
    tokenizer.add_special_tokens(list(SPECIAL))
    names = {"pad_token": SPECIAL[0], "eos_token": SPECIAL[3], "unk_token": SPECIAL[1]}
    return HubTokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names))  # type: ignore[no-untyped-call]


def nano_config(sizes: Sizes) -> LensConfig:
    """Configuration of a model of these sizes."""
    token = {word: number for number, word in enumerate(SPECIAL)}
    head = sizes.width // sizes.heads
    # Rotary channels of time, height and width: half of a head's width in all.
    time = max(1, head // 8)
    section = [time, (head // 2 - time + 1) // 2, (head // 2 - time) // 2]
    text: Json = {
        "hidden_size": sizes.width,
        "intermediate_size": sizes.hidden,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.heads,
        "vocab_size": len(words(sizes)),
        "max_position_embeddings": 1024,
        "rope_parameters": {"rope_type": "default", "rope_theta": sizes.theta, "mrope_section": section},
        "eos_token_id": token["<|im_end|>"],
        "pad_token_id": token["<|endoftext|>"],
        "bos_token_id": token["<|im_start|>"],
    }
    vision: Json = {
        "depth": sizes.vision_layers,
        "num_heads": sizes.vision_heads,
        "hidden_size": sizes.vision_width,
        "intermediate_size": sizes.vision_hidden,
        "out_hidden_size": sizes.width,
        "patch_size": _PATCH,
        "spatial_merge_size": 1,
        "temporal_patch_size": 1,
        # One window: an image of 64 patches needs none.
        "window_size": sizes.side,
        "fullatt_block_indexes": list(range(sizes.vision_layers)),
    }
    qwen: Json = {
        "text_config": text,
        "vision_config": vision,
        "image_token_id": token["<|image_pad|>"],
        "video_token_id": token["<|video_pad|>"],
        "vision_start_token_id": token["<|vision_start|>"],
        "vision_end_token_id": token["<|vision_end|>"],
        "tie_word_embeddings": True,
    }
    recipe = Recipe(
        system="",
        question="{expression}",
        before_image="<|im_start|>",
        after_image="<|vision_end|>{question}<|im_start|>",
        sizing="square",
        longest_side=sizes.side,
        min_pixels=1,
        max_pixels=sizes.side**2,
        max_length=None,
        max_new_tokens=sizes.answer_tokens,
    )
    return LensConfig(
        family="qwen2_5_vl",
        qwen=qwen,
        sam=_sam(sizes),
        head=HeadConfig(
            queries=sizes.queries,
            width=sizes.head_width,
            depth=sizes.head_layers,
            heads=4,
            prompt_width=sizes.sam_width,
        ),
        ends=(token["<|im_end|>"], token["<|endoftext|>"]),
        padding=token["<|endoftext|>"],
        positions="mrope",
        recipe=recipe,
    )


def _sam(sizes: Sizes) -> Json:
    widths, side = list(sizes.sam_trunk), sizes.sam_side
    return {
        "vision_config": {
            "backbone_config": {
                "hidden_size": widths[0],
                "num_attention_heads": 1,
                "image_size": [side, side],
                "blocks_per_stage": [1, 1, 2, 1],
                "embed_dim_per_stage": widths,
                "num_attention_heads_per_stage": [1, 1, 2, 4],
                "window_size_per_stage": [8, 4, 8, 4],
                "global_attention_blocks": [3],
            },
            "backbone_channel_list": widths[::-1],
            "backbone_feature_sizes": [[side // s, side // s] for s in (4, 8, 16)],
            "fpn_hidden_size": sizes.sam_width,
        },
        "prompt_encoder_config": {"image_size": side, "patch_size": 16, "hidden_size": sizes.sam_width},
        "mask_decoder_config": {
            "hidden_size": sizes.sam_width,
            "mlp_dim": 4 * sizes.sam_width,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": sizes.sam_width,
            # Only the single mask is trained, so evaluation must not choose among the others.
            "dynamic_multimask_via_stability": False,
        },
    }


def nano_model(sizes: Sizes, seed: int) -> LensModel:
    """A fresh model, a function of sizes and seed."""
    model = fresh(nano_config(sizes), seed)
    _initialise(model, torch.Generator().manual_seed(seed))
    return model


@torch.no_grad()
def _initialise(model: LensModel, generator: torch.Generator) -> None:
    """Weights by fan-in. transformers' deviation of 0.02 is meant for widths near 1,000 and stalls narrow layers."""
    deep = 1 / math.sqrt(2 * len(model.qwen.model.language_model.layers))
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "pos_embed" in name:
            parameter.copy_(0.1 * noise)
        elif name.endswith("embed_tokens.weight"):
            parameter.copy_(noise / math.sqrt(parameter.shape[1]))
        elif name == "head.queries" or name.endswith(("_token.weight", "_tokens.weight", "point_embed.weight")):
            parameter.copy_(noise)
        elif parameter.ndim >= 2 and not name.endswith(("_embed.weight", "no_memory_embedding")):
            residual = name.endswith(
                ("language_model.o_proj.weight", "self_attn.o_proj.weight", "mlp.down_proj.weight")
            )
            parameter.copy_(noise * (deep if residual else 1.0) / math.sqrt(_fan_in(model, name, parameter)))
        elif parameter.ndim < 2:
            parameter.fill_(float(name.endswith("weight")))
    # Attention of the mask decoder that starts by looking for what is alike; random projections stall for long.
    for name, module in model.sam.sam2.mask_decoder.named_modules():
        if "attn" in name and hasattr(module, "q_proj") and module.q_proj.weight.shape == module.k_proj.weight.shape:
            module.k_proj.weight.copy_(module.q_proj.weight)


def _fan_in(model: LensModel, name: str, parameter: nn.Parameter) -> int:
    module = model.get_submodule(name.rpartition(".")[0])
    if isinstance(module, nn.ConvTranspose2d):
        return int(parameter.shape[0])
    return math.prod(parameter.shape[1:])
