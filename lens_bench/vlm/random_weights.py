"""Box-writing models and SAM 2 at their full size without a checkpoint: shapes by name, drawn weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from lens_bench.errors import UsageError
from lens_bench.lens.config import sam_preset
from lens_bench.lens.filling import recompute_buffers, require_filled
from lens_bench.lens.hf import Sam2Config
from lens_bench.lens.random_weights import QWEN_SPECIAL, draw, word_tokenizer
from lens_bench.lens.sam import SamPart
from lens_bench.lens.spread import Spread, link, name_of, parts_of
from lens_bench.records import Query, Size
from lens_bench.sam2.model import Sam2
from lens_bench.sam2.prompts import SamPrompt
from lens_bench.torchvision_guard import guard_torchvision
from lens_bench.vlm.chat import Conversation, Picture
from lens_bench.vlm.local import LocalSettings, LocalVlm
from lens_bench.vlm.prompting import read_processor
from lens_bench.vlm.segmenter import Manner
from lens_bench.vlm.tiny import Family, processor_of

guard_torchvision()

from transformers import (  # noqa: E402
    AutoConfig,
    AutoModelForImageTextToText,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen3VLConfig,
)

_TOKENS = {
    "image_token_id": QWEN_SPECIAL["<|image_pad|>"],
    "video_token_id": QWEN_SPECIAL["<|video_pad|>"],
    "vision_start_token_id": QWEN_SPECIAL["<|vision_start|>"],
    "vision_end_token_id": QWEN_SPECIAL["<|vision_end|>"],
}
_ROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
_TOWER = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
_TOWER |= {"fullatt_block_indexes": [7, 15, 23, 31]}  # type: ignore[dict-item]


def _text(width: int, inner: int, layers: int, heads: int, key_heads: int, words: int) -> dict[str, object]:
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "vocab_size": words,
        "max_position_embeddings": 128000,
        "rms_norm_eps": 1e-6,
        "rope_parameters": _ROPE,
    }


@dataclass(frozen=True, slots=True)
class _Shape:
    """A released model by the fields of its ``config.json``."""

    family: Family
    config: Mapping[str, object]


# By the repository that a card names; dimensions of the released config.json files.
_SHAPES: Mapping[str, _Shape] = {
    "Qwen/Qwen2.5-VL-3B-Instruct": _Shape(
        "qwen2_5_vl",
        {
            "text_config": _text(2048, 11008, 36, 16, 2, 151936),
            "vision_config": {**_TOWER, "out_hidden_size": 2048},
            "tie_word_embeddings": True,
        },
    ),
    "Qwen/Qwen2.5-VL-7B-Instruct": _Shape(
        "qwen2_5_vl",
        {
            "text_config": _text(3584, 18944, 28, 28, 4, 152064),
            "vision_config": {**_TOWER, "out_hidden_size": 3584},
            "tie_word_embeddings": False,
        },
    ),
    "Qwen/Qwen3-VL-8B-Instruct": _Shape(
        "qwen3_vl",
        {
            "text_config": {
                **_text(4096, 12288, 36, 32, 8, 151936),
                "head_dim": 128,
                "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]},
            },
            "vision_config": {"out_hidden_size": 4096},  # the rest is the family's default
            "tie_word_embeddings": False,
        },
    ),
}


def named_shape(hub: str) -> PreTrainedConfig | None:
    """The configuration of a released model by its repository; None where it is not known."""
    shape = _SHAPES.get(hub)
    if shape is None:
        return None
    kind = Qwen2_5_VLConfig if shape.family == "qwen2_5_vl" else Qwen3VLConfig
    return kind.from_dict({**shape.config, **_TOKENS})


def random_vlm(
    hub: str, folder: Path | None, seed: int, devices: Sequence[str], dtype: torch.dtype, settings: LocalSettings
) -> LocalVlm:
    """A language model of a released shape, or of a folder's configuration, with weights drawn from the seed.

    Raises:
        UsageError: Neither says what to build.
        CheckpointError: The folder has no processor.
    """
    if folder is not None:
        processor = read_processor(folder)
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    else:
        named = named_shape(hub)
        if named is None:
            raise UsageError(
                f"nothing says what {hub or 'the model'} is without its weights", "--model-arg checkpoint=FOLDER"
            )
        config, processor = named, _processor(_SHAPES[hub].family)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForImageTextToText.from_config(config)  # type: ignore[no-untyped-call]
    language = cast("nn.Module", model.get_decoder())  # type: ignore[no-untyped-call]
    blocks, _ = parts_of(language)
    spread, begin = Spread.over(devices, blocks, model), name_of(blocks, model)
    draw(model, seed, devices[0], lambda _: dtype, lambda name: spread.place(name, begin))
    _finish(model, devices[0])
    placed = link(language, spread, devices)
    ends = [QWEN_SPECIAL["<|im_end|>"], QWEN_SPECIAL["<|endoftext|>"]]
    if folder is None:
        model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=ends[1])  # type: ignore[no-untyped-call]
    else:
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return LocalVlm(model.eval(), processor, settings, placed=placed)  # type: ignore[no-untyped-call]


def random_sam(seed: int, device: str, dtype: torch.dtype) -> Sam2:
    """SAM 2.1 Hiera-L with weights drawn from the seed."""
    with torch.device("meta"):
        part = SamPart(Sam2Config(**json.loads(json.dumps(sam_preset("sam2_hiera_l")))))
    draw(part, seed, device, lambda _: dtype)
    _finish(part, device)
    return Sam2(part, device, dtype)


@dataclass(frozen=True, slots=True)
class Boxed:
    """A manner whose every answer names exactly one box, so that SAM 2's work does not depend on what is said."""

    manner: Manner

    def conversation(self, query: Query, picture: Picture) -> Conversation:
        """As the manner asks."""
        return self.manner.conversation(query, picture)

    def prompts(self, text: str, seen: Size, original: Size) -> tuple[SamPrompt, ...]:
        """The first box that the manner reads, else the middle of the image."""
        height, width = original
        found = self.manner.prompts(text, seen, original)
        return found[:1] or (SamPrompt((width / 4, height / 4, 3 * width / 4, 3 * height / 4)),)


def _processor(family: Family) -> ProcessorMixin:
    return processor_of(family, word_tokenizer().inner)


def _finish(model: nn.Module, device: str) -> None:
    """Tie what the configuration ties, and recompute what no file holds."""
    if isinstance(model, PreTrainedModel):
        model.tie_weights()
    recompute_buffers(model, device)
    require_filled(model)
