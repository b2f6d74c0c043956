"""A SAM 3 small enough for tests, saved as the released one lies on the Hub."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from lens_bench.torchvision_guard import guard_torchvision

guard_torchvision()

from tokenizers import pre_tokenizers  # noqa: E402
from transformers import CLIPTokenizer, Sam3Config, Sam3ImageProcessor, Sam3Model, Sam3Processor  # noqa: E402

SIDE = 112


def save_tiny_sam3(folder: Path, seed: int = 0) -> Path:
    """Write random weights whose masks differ from phrase to phrase; returns the folder."""
    tokenizer = clip_tokenizer()
    text = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "projection_dim": 32}
    text |= {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 32}
    text |= {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    part = {"hidden_size": 32, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    backbone = {
        "model_type": "sam3_vit_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "pretrain_image_size": SIDE // 2,
        "window_size": 4,
        "global_attn_indexes": [1],
    }
    cells = SIDE // 14
    vision = {
        "backbone_config": backbone,
        "fpn_hidden_size": 32,
        "backbone_feature_sizes": [[4 * cells] * 2, [2 * cells] * 2, [cells] * 2],
    }
    config = Sam3Config(
        vision_config=vision,
        text_config=text,
        geometry_encoder_config=part,
        detr_encoder_config=part,
        detr_decoder_config={**part, "num_queries": 6},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2},
    )
    model = Sam3Model(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim < 2:
                parameter.copy_(float(name.endswith("weight")) + 0.05 * noise)
            else:
                parameter.copy_(1.5 * noise / math.sqrt(math.prod(parameter.shape[1:])))
    model.save_pretrained(folder)
    Sam3Processor(Sam3ImageProcessor(size={"height": SIDE, "width": SIDE}), tokenizer).save_pretrained(folder)
    return folder


def clip_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with single bytes for a vocabulary."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*alphabet, *(f"{c}</w>" for c in alphabet), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={name: n for n, name in enumerate(names)}, merges=[])
