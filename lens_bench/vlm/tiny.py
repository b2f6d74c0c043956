"""Vision-language models small enough for tests: random, or with an answer that is known.

They are saved the way released checkpoints lie on the Hub, with tokenizer, chat template and image processor, and are
loaded through the same path.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from lens_bench.lens.tiny import SPECIAL, byte_tokenizer
from lens_bench.torchvision_guard import guard_torchvision

guard_torchvision()

from transformers import (  # noqa: E402
    AddedToken,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor  # noqa: E402
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor  # noqa: E402

Family = Literal["qwen2_5_vl", "qwen3_vl"]

# The turn format of Qwen's models; a system text of its own where the conversation has none, as theirs.
TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_tiny_vlm(
    folder: Path,
    family: Family = "qwen2_5_vl",
    answer: str | None = None,
    seed: int = 0,
    repetition_penalty: float | None = None,
) -> Path:
    """Write a tiny checkpoint; returns its folder.

    Args:
        folder: Where to.
        family: Architecture.
        answer: What it says whatever it is asked; None for random weights, whose answers depend on everything.
        seed: Of the weights.
        repetition_penalty: In its generation settings.
    """
    tokenizer = byte_tokenizer().inner
    if answer is not None:
        tokenizer.add_tokens([AddedToken(answer, normalized=False)])
    ids = {name: _id(tokenizer, name) for name in SPECIAL}
    model = _model(family, len(tokenizer), ids)
    _enliven(model, seed)
    if answer is not None:
        newline = tokenizer.encode("\n", add_special_tokens=False)[-1]
        _recite(model, (newline, _id(tokenizer, answer), ids["<|im_end|>"]))
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=[ids["<|im_end|>"], ids["<|endoftext|>"]],
        pad_token_id=ids["<|endoftext|>"],
        do_sample=True,
        temperature=0.1,
        repetition_penalty=repetition_penalty,
    )
    model.save_pretrained(folder)
    processor_of(family, tokenizer).save_pretrained(folder)
    return folder


def _id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    number = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(number, int):
        raise TypeError(f"{token!r} is not one token")
    return number


def _model(family: Family, vocabulary: int, ids: Mapping[str, int]) -> PreTrainedModel:
    text = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,  # the least that vLLM computes on a CPU
        "vocab_size": vocabulary,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "bos_token_id": ids["<|endoftext|>"],
    }
    tokens = {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "tie_word_embeddings": False,
    }
    vision = {"depth": 2, "num_heads": 2, "spatial_merge_size": 2, "temporal_patch_size": 2, "hidden_size": 32}
    vision |= {"intermediate_size": 64, "out_hidden_size": 64}
    if family == "qwen2_5_vl":
        own = {**vision, "patch_size": 14, "fullatt_block_indexes": [1]}
        return Qwen2_5_VLForConditionalGeneration(  # type: ignore[no-untyped-call]
            Qwen2_5_VLConfig.from_dict({"text_config": text, "vision_config": own, **tokens})
        )
    own = {**vision, "patch_size": 16, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
    config = Qwen3VLConfig.from_dict({"text_config": text, "vision_config": own, **tokens})
    return Qwen3VLForConditionalGeneration(config)  # type: ignore[no-untyped-call]


def processor_of(family: Family, tokenizer: PreTrainedTokenizerBase) -> ProcessorMixin:
    """A processor of the family with the given tokenizer, as released checkpoints carry one."""
    patch = 14 if family == "qwen2_5_vl" else 16
    token = (2 * patch) ** 2  # pixels of one token
    images = Qwen2VLImageProcessor(patch_size=patch, size={"shortest_edge": token, "longest_edge": 1280 * token})
    if family == "qwen2_5_vl":
        return Qwen2_5_VLProcessor(  # type: ignore[no-untyped-call]
            images, tokenizer, Qwen2VLVideoProcessor(), chat_template=TEMPLATE
        )
    return Qwen3VLProcessor(  # type: ignore[no-untyped-call]
        images, tokenizer, Qwen3VLVideoProcessor(), chat_template=TEMPLATE
    )


@torch.no_grad()
def _enliven(model: nn.Module, seed: int) -> None:
    """Noise that keeps signals at their size from layer to layer; a fresh model answers everything alike."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim < 2:
            parameter.copy_(float(name.endswith("weight")) + 0.05 * noise)
        else:
            parameter.copy_(noise / math.sqrt(math.prod(parameter.shape[1:])))


@torch.no_grad()
def _recite(model: PreTrainedModel, chain: tuple[int, ...]) -> None:
    """Make each token of the chain the successor of the one before, wherever that stands.

    Layers add nothing to the residual stream, so what the output layer sees is the last token's embedding.
    """
    for name, parameter in model.named_parameters():
        if "language_model" in name and name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.zero_()
    embedding = model.get_parameter("model.language_model.embed_tokens.weight")
    output = model.get_parameter("lm_head.weight")
    for token, successor in pairwise(chain):
        output[successor] = 4 * embedding[token] / embedding[token].norm()
