"""Configuration: what tells LISA and GLaMM apart, and what a released ``config.json`` says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from huggingface_hub.errors import StrictDataclassError

from lens_bench.errors import CheckpointError
from lens_bench.lens.config import whole
from lens_bench.sam.model import VIT_H, SamSize

if TYPE_CHECKING:
    from transformers import CLIPVisionConfig, LlamaConfig


@dataclass(frozen=True, slots=True)
class Family:
    """What tells the two models apart.

    Attributes:
        name: What messages call it.
        sam: Name of SAM in the checkpoint's keys, below ``model.``.
        projector: Linear layers between the vision tower and the language model, GELU between them.
        side: Pixels a side that the vision tower reads.
        tower: The vision tower's repository, for hints.
        ignored: Patterns of the checkpoint's tensors that segmentation from text never reads.
    """

    name: str
    sam: str
    projector: int
    side: int
    tower: str
    ignored: tuple[str, ...] = ()


# Saved as a buffer by transformers before 4.32, computed since.
_ROTARY = "model.layers.{}.self_attn.rotary_emb.inv_freq"

LISA = Family("LISA", "visual_model", 1, 224, "openai/clip-vit-large-patch14", (_ROTARY,))
GLAMM = Family(
    "GLaMM", "grounding_encoder", 2, 336, "openai/clip-vit-large-patch14-336", (_ROTARY, "model.region_encoder.{*}")
)

# Fields of a released config.json that LLaMA reads.
_LLAMA = frozenset(
    {
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "hidden_act",
        "vocab_size",
        "max_position_embeddings",
        "rms_norm_eps",
        "rope_theta",
        "rope_scaling",
        "attention_bias",
        "tie_word_embeddings",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
    }
)


@dataclass(frozen=True)
class LlavaSamConfig:
    """Everything that is needed to build the model.

    Attributes:
        family: LISA or GLaMM.
        llama: Fields of ``LlamaConfig``.
        clip: Fields of ``CLIPVisionConfig``.
        sam: Size of SAM.
        select_layer: Which hidden state of the vision tower is read; -2 is the one before the last block.
        keep_class: Whether the tower's class token is among the image tokens.
    """

    family: Family
    llama: Mapping[str, object]
    clip: Mapping[str, object]
    sam: SamSize
    select_layer: int
    keep_class: bool

    def llama_config(self) -> LlamaConfig:
        """A fresh configuration object of transformers."""
        from transformers import LlamaConfig

        return LlamaConfig.from_dict({**self.llama, "attn_implementation": "sdpa"})

    def clip_config(self) -> CLIPVisionConfig:
        """A fresh configuration object of transformers."""
        from transformers import CLIPVisionConfig

        return CLIPVisionConfig.from_dict({**self.clip, "attn_implementation": "sdpa"})

    @property
    def width(self) -> int:
        """Width of the language model."""
        return integer(self.llama, "hidden_size")

    @property
    def context(self) -> int:
        """Most tokens of a row, the image's included."""
        return integer(self.llama, "max_position_embeddings")

    @property
    def clip_side(self) -> int:
        """Pixels a side that the vision tower reads."""
        return whole(self.clip_config(), "image_size")


def released_config(family: Family, config: Mapping[str, object], clip: Mapping[str, object]) -> LlavaSamConfig:
    """Describe a released checkpoint.

    Args:
        family: What the checkpoint should be.
        config: Its parsed ``config.json``. A block ``sam`` (segment-anything's names) describes another SAM than ViT-H.
        clip: The vision tower's parsed ``config.json``, of the tower alone or of the whole of CLIP.

    Raises:
        CheckpointError: A field is missing or of the wrong kind.
    """
    tower = clip.get("vision_config", clip)
    if not isinstance(tower, Mapping):
        raise CheckpointError("the vision tower's config.json has no vision_config")
    select = config.get("mm_vision_select_layer", -2)
    feature = config.get("mm_vision_select_feature", "patch")
    if not isinstance(select, int) or feature not in ("patch", "cls_patch"):
        raise CheckpointError(f"config.json selects the features {feature!r} of the vision tower's layer {select!r}")
    for name in ("hidden_size", "vocab_size", "num_hidden_layers", "max_position_embeddings"):
        integer(config, name)
    out = LlavaSamConfig(
        family=family,
        llama={k: v for k, v in config.items() if k in _LLAMA and v is not None},
        clip={k: v for k, v in tower.items() if k in _CLIP},
        sam=_sam(config.get("sam")),
        select_layer=select,
        keep_class=feature == "cls_patch",
    )
    try:
        out.llama_config(), out.clip_config()
    except (StrictDataclassError, TypeError, ValueError, KeyError) as error:
        raise CheckpointError(f"config.json describes no model: {' '.join(str(error).split())[:200]}") from None
    return out


# Fields of a vision tower's config.json; transformers leaves those out that have their default.
_CLIP = frozenset(
    {
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "image_size",
        "patch_size",
        "hidden_act",
        "layer_norm_eps",
    }
)


def _sam(block: object) -> SamSize:
    if block is None:
        return VIT_H
    if not isinstance(block, Mapping) or not isinstance(block.get("global_attn_indexes"), list):
        raise CheckpointError("the block `sam` of config.json does not describe an image encoder")
    width, depth, heads = (integer(block, k) for k in ("encoder_embed_dim", "depth", "num_heads"))
    return SamSize(width, depth, heads, tuple(int(i) for i in block["global_attn_indexes"]))


def integer(config: Mapping[str, object], name: str) -> int:
    """An integer field. Raises ``CheckpointError`` where it is missing or something else."""
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise CheckpointError(f"config.json has {name} = {value!r}, an integer is needed", "is this the right folder?")
    return value
