"""The models by name: LENS-3B and LENS-2B as released, and the nano that two CPU cores can train.

Dimensions of the backbones are those of Qwen2.5-VL-3B-Instruct and Qwen2-VL-2B-Instruct.
"""

from __future__ import annotations

from collections.abc import Mapping

from lens_bench.errors import UsageError
from lens_bench.lens.config import QWEN_ENDS, QWEN_PADDING, HeadConfig, Json, LensConfig, Positions, sam_preset
from lens_bench.lens.recipe import Recipe

# <|image_pad|> of Qwen2-VL and Qwen2.5-VL.
QWEN_IMAGE = 151655

_QWEN_TOKENS: Json = {
    "image_token_id": QWEN_IMAGE,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "tie_word_embeddings": True,
}
_ROPE: Json = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}

# Width, hidden width, layers, heads, key-value heads, words, and hidden width of the vision tower, from each model's
# config.json on the Hub. Only the 3B ties its output layer to the embeddings.
_QWEN_2_5: Mapping[str, tuple[int, int, int, int, int, int, int]] = {
    "qwen2.5-vl-3b": (2048, 11008, 36, 16, 2, 151936, 3420),
    "qwen2.5-vl-7b": (3584, 18944, 28, 28, 4, 152064, 3420),
    "qwen2.5-vl-32b": (5120, 27648, 64, 40, 8, 152064, 3456),
}


def qwen_base(name: str) -> Json:
    """Configuration of a Qwen2.5-VL by its name or by a path that ends in it, with or without ``-Instruct``.

    Raises:
        UsageError: No such model is known, or LENS cannot be built on it.
    """
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2].lower().removesuffix("-instruct")
    if last not in _QWEN_2_5:
        reason = "LENS is built on Qwen2-VL and Qwen2.5-VL" if last.startswith("qwen3") else "its sizes are not known"
        raise UsageError(
            f"{name} is not at hand, and {reason}",
            f"name a folder with its config.json, or one of: {', '.join(_QWEN_2_5)}",
        )
    width, hidden, layers, heads, shared, words, vision_hidden = _QWEN_2_5[last]
    text: Json = {
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": shared,
        "vocab_size": words,
        "max_position_embeddings": 128000,
        "rms_norm_eps": 1e-6,
        "rope_parameters": _ROPE,
    }
    vision: Json = {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": vision_hidden,
        "num_heads": 16,
        "out_hidden_size": width,
        "fullatt_block_indexes": [7, 15, 23, 31],
    }
    tied = last == "qwen2.5-vl-3b"
    return {**_QWEN_TOKENS, "tie_word_embeddings": tied, "text_config": text, "vision_config": vision}


def lens_3b(positions: Positions = "lens-1d", recipe: Recipe | None = None) -> LensConfig:
    """LENS-3B: Qwen2.5-VL-3B, 64 queries, SAM 2 Hiera-L; 4.5 billion parameters with everything."""
    return LensConfig(
        family="qwen2_5_vl",
        qwen=qwen_base("Qwen2.5-VL-3B-Instruct"),
        sam=sam_preset("sam2_hiera_l"),
        head=HeadConfig(queries=64, width=2048),
        ends=QWEN_ENDS,
        padding=QWEN_PADDING,
        positions=positions,
        recipe=recipe or Recipe(),
    )


def lens_2b(positions: Positions = "lens-1d", recipe: Recipe | None = None) -> LensConfig:
    """LENS-2B: Qwen2-VL-2B, 64 queries, SAM 2 Hiera-L; answers in thousandths of the image's sides."""
    text: Json = {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_parameters": _ROPE,
    }
    vision: Json = {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "mlp_ratio": 4, "num_heads": 16}
    return LensConfig(
        family="qwen2_vl",
        qwen={**_QWEN_TOKENS, "text_config": text, "vision_config": vision},
        sam=sam_preset("sam2_hiera_l"),
        head=HeadConfig(queries=64, width=1536),
        ends=QWEN_ENDS,
        padding=QWEN_PADDING,
        positions=positions,
        recipe=recipe or Recipe(coordinates="thousandths"),
    )


def named_size(name: str) -> LensConfig | None:
    """The size that a released model's name stands for (``lens-3b``, ``lens-3b-reasonseg``, ``lens-2b``), or None."""
    sizes = {"lens-3b": lens_3b, "lens-2b": lens_2b}
    return next((make() for size, make in sizes.items() if name == size or name.startswith(f"{size}-")), None)


def lens_nano(vocabulary: int, image_token: int, end: int, padding: int, recipe: Recipe) -> LensConfig:
    """LENS-nano: three million parameters, pictures of 112 pixels, one visual token a patch, SAM 2 at 128 pixels.

    RoPE's base is small because the grid is: with the usual million the width axis would hardly turn at all.

    Args:
        vocabulary: Number of words; its tokenizer is a list of words.
        image_token: Id of the image placeholder.
        end: Id that ends an answer.
        padding: Id that stands for nothing.
        recipe: How to ask; ``sizing="square"`` with ``longest_side=112``.
    """
    text: Json = {
        "hidden_size": 160,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 5,
        "num_key_value_heads": 5,
        "vocab_size": vocabulary,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]},
        "bos_token_id": padding,
        "eos_token_id": end,
        "pad_token_id": padding,
    }
    vision: Json = {
        "depth": 4,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_heads": 4,
        "out_hidden_size": 160,
        "spatial_merge_size": 1,
        "fullatt_block_indexes": [0, 1, 2, 3],
    }
    ids: Json = {"image_token_id": image_token, "video_token_id": padding, "tie_word_embeddings": True}
    return LensConfig(
        family="qwen2_5_vl",
        qwen={**ids, "text_config": text, "vision_config": vision},
        sam=_nano_sam(),
        head=HeadConfig(queries=8, width=128, depth=2, heads=4, prompt_width=64),
        ends=(end, padding),
        padding=padding,
        positions="mrope",
        recipe=recipe,
    )


def _nano_sam() -> Json:
    """SAM 2 of 0.7 million parameters at 128 pixels; masks of 32x32."""
    widths = [32, 64, 128, 128]
    return {
        "vision_config": {
            "backbone_config": {
                "hidden_size": 32,
                "num_attention_heads": 1,
                "image_size": [128, 128],
                "blocks_per_stage": [1, 1, 1, 1],
                "embed_dim_per_stage": widths,
                "num_attention_heads_per_stage": [1, 2, 4, 4],
                "window_size_per_stage": [8, 4, 8, 4],
                "global_attention_blocks": [2, 3],
                "mlp_ratio": 2.0,
            },
            "backbone_channel_list": widths[::-1],
            "backbone_feature_sizes": [[128 // s, 128 // s] for s in (4, 8, 16)],
            "fpn_hidden_size": 64,
        },
        "prompt_encoder_config": {"image_size": 128, "patch_size": 16, "hidden_size": 64},
        "mask_decoder_config": {
            "hidden_size": 64,
            "mlp_dim": 128,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": 64,
        },
    }
