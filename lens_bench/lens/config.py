"""The shape of a LENS model: backbone, head, SAM 2, positions. The tiny and the full model differ only here.

The same dataclass describes the released checkpoints (read from their ``config.json``) and ours
(``lens_config.json``). transformers is imported only when its configuration objects are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lens_bench.errors import CheckpointError
from lens_bench.lens.recipe import Recipe

if TYPE_CHECKING:
    from lens_bench.lens.hf import Qwen2_5_VLConfig, Qwen2VLConfig, Sam2Config

FORMAT: Literal["lens-bench/1"] = "lens-bench/1"
CONFIG_NAME = "lens_config.json"

# <|im_end|> and <|endoftext|> of Qwen2-VL and Qwen2.5-VL; the latter is also their padding.
QWEN_ENDS, QWEN_PADDING = (151645, 151643), 151643

Family: TypeAlias = Literal["qwen2_5_vl", "qwen2_vl"]
Positions: TypeAlias = Literal["lens-1d", "mrope"]
Json: TypeAlias = dict[str, object]


class HeadConfig(BaseModel):
    """The part between the language model and SAM 2.

    Attributes:
        queries: Number of context queries.
        width: Width of the connector. Where it differs from the language model's, a linear layer leads into it.
        depth: Bidirectional transformer blocks; 0 leaves the connector out (older checkpoints).
        heads: Attention heads of a block.
        mlp_ratio: Width of a block's MLP as a multiple of ``width``.
        eps: Of the layer norms.
        prompt_width: Width of SAM 2's prompt tokens.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    queries: int = Field(default=64, ge=1)
    width: int = Field(ge=1)
    depth: int = Field(default=4, ge=0)
    heads: int = Field(default=16, ge=1)
    mlp_ratio: float = Field(default=4.0, gt=0)
    eps: float = 1e-6
    prompt_width: int = Field(default=256, ge=1)


class LensConfig(BaseModel):
    """A whole model.

    Attributes:
        family: Which backbone class of transformers.
        qwen: Its configuration as transformers writes it to ``config.json``.
        sam: ``Sam2Config`` as a dictionary.
        head: See ``HeadConfig``.
        ends: Token ids that end an answer, the padding among them.
        padding: Token id that stands for nothing; the mask pass leaves it out of an answer. It always ends one, as in
            Qwen's generation settings, so an answer holds it at most once and last.
        positions: Of the mask pass. ``lens-1d``: one sequential index for every token, image tokens included, as the
            released checkpoints were trained; ``mrope``: the backbone's own three-dimensional positions.
        recipe: How the model is asked.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["lens-bench/1"] = FORMAT
    family: Family
    qwen: Json
    sam: Json
    head: HeadConfig
    ends: tuple[int, ...] = QWEN_ENDS
    padding: int = QWEN_PADDING
    positions: Positions = "mrope"
    recipe: Recipe = Recipe()

    @model_validator(mode="after")
    def _padding_ends(self) -> LensConfig:
        if self.padding not in self.ends:
            raise ValueError("padding must be one of ends")
        return self

    def qwen_config(self) -> Qwen2_5_VLConfig | Qwen2VLConfig:
        """A fresh configuration object of transformers."""
        from lens_bench.lens.hf import Qwen2_5_VLConfig, Qwen2VLConfig

        kind = Qwen2_5_VLConfig if self.family == "qwen2_5_vl" else Qwen2VLConfig
        return kind(**json.loads(json.dumps(self.qwen)))

    def sam_config(self) -> Sam2Config:
        """A fresh configuration object of transformers."""
        from lens_bench.lens.hf import Sam2Config

        return Sam2Config(**json.loads(json.dumps(self.sam)))


def whole(config: object, name: str) -> int:
    """A whole-number field of one of transformers' configuration objects, whose parts are typed loosely."""
    value = getattr(config, name)
    if not isinstance(value, int):
        raise TypeError(f"{type(config).__name__}.{name} is {value!r}, not a whole number")
    return value


# ---------------------------------------------------------------------------------------------- SAM 2 sizes

SAM_SIZES: Mapping[str, Json] = {
    "sam2_hiera_t": {
        "hidden_size": 96,
        "num_attention_heads": 1,
        "blocks_per_stage": [1, 2, 7, 2],
        "global_attention_blocks": [5, 7, 9],
        "window_size_per_stage": [8, 4, 14, 7],
        "window_positional_embedding_background_size": [7, 7],
    },
    "sam2_hiera_s": {
        "hidden_size": 96,
        "num_attention_heads": 1,
        "blocks_per_stage": [1, 2, 11, 2],
        "global_attention_blocks": [7, 10, 13],
        "window_size_per_stage": [8, 4, 14, 7],
        "window_positional_embedding_background_size": [7, 7],
    },
    "sam2_hiera_b+": {
        "hidden_size": 112,
        "num_attention_heads": 2,
        "blocks_per_stage": [2, 3, 16, 3],
        "global_attention_blocks": [12, 16, 20],
        "window_size_per_stage": [8, 4, 14, 7],
        "window_positional_embedding_background_size": [14, 14],
    },
    "sam2_hiera_l": {
        "hidden_size": 144,
        "num_attention_heads": 2,
        "blocks_per_stage": [2, 6, 36, 4],
        "global_attention_blocks": [23, 33, 43],
        "window_size_per_stage": [8, 4, 16, 8],
        "window_positional_embedding_background_size": [7, 7],
    },
}


def sam_preset(name: str, image_size: int = 1024) -> Json:
    """``Sam2Config`` of one of Meta's four sizes as a dictionary (SAM 2, arXiv 2408.00714, its own configs).

    Raises:
        CheckpointError: No such size.
    """
    if name not in SAM_SIZES:
        raise CheckpointError(f"no SAM 2 size {name!r}", f"one of: {', '.join(SAM_SIZES)}")
    trunk = dict(SAM_SIZES[name])
    width, heads = trunk["hidden_size"], trunk["num_attention_heads"]
    if not isinstance(width, int) or not isinstance(heads, int):
        raise TypeError(f"SAM_SIZES[{name!r}] is malformed")
    widths = [width * 2**stage for stage in range(4)]
    trunk |= {
        "image_size": [image_size, image_size],
        "embed_dim_per_stage": widths,
        "num_attention_heads_per_stage": [heads * 2**stage for stage in range(4)],
    }
    return {
        "vision_config": {
            "backbone_config": trunk,
            "backbone_channel_list": widths[::-1],
            "backbone_feature_sizes": [[image_size // s, image_size // s] for s in (4, 8, 16)],
        },
        "prompt_encoder_config": {"image_size": image_size, "patch_size": 16},
        "mask_decoder_config": {},
    }


# ---------------------------------------------------------------------------------------------- reading


def read_config(path: Path) -> LensConfig:
    """Read ``lens_config.json``.

    Raises:
        CheckpointError: The file is missing, not JSON, or has a wrong or unknown field.
    """
    try:
        return LensConfig.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint configuration at {path}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"]) or "file"
        raise CheckpointError(f"{path}: {where}: {first['msg']}") from None


def released_config(
    config: Mapping[str, object],
    sam: str = "sam2_hiera_l",
    recipe: Recipe | None = None,
    generation: Mapping[str, object] | None = None,
) -> LensConfig:
    """Describe a checkpoint of the authors from its ``config.json``.

    Args:
        config: Parsed ``config.json``. Keys of LENS are ``num_of_query`` and ``if_use_qwen_connector``; everything else
            is the backbone's.
        sam: SAM 2 size; the authors' code fixes it, their configuration does not say it.
        recipe: How to ask; the default is the one of the RefCOCO evaluation.
        generation: Parsed ``generation_config.json``, which names more end tokens than ``config.json`` does.

    Raises:
        CheckpointError: The configuration is not one of LENS.
    """
    family = _family(config)
    width, queries = config.get("hidden_size"), config.get("num_of_query")
    if not isinstance(width, int) and isinstance(text := config.get("text_config"), Mapping):
        width = text.get("hidden_size")
    if not isinstance(width, int) or not isinstance(queries, int):
        raise CheckpointError("the configuration is not one of LENS: hidden_size or num_of_query is missing")
    connector = config.get("if_use_qwen_connector")
    own = {"num_of_query", "if_use_qwen_connector", "if_include_sam", "golden", "architectures", "model_type"}
    backbone = {key: value for key, value in config.items() if key not in own}
    vision = backbone.get("vision_config")
    ends = _token_ids("eos_token_id", config, generation) or QWEN_ENDS
    padding = (_token_ids("pad_token_id", config, generation) or (QWEN_PADDING,))[0]
    if isinstance(vision, Mapping):
        backbone["vision_config"] = _vision(vision, family)
    return LensConfig(
        family=family,
        qwen=backbone,
        sam=sam_preset(sam),
        head=HeadConfig(queries=queries, width=width, depth=4 if connector else 0),
        ends=ends if padding in ends else (*ends, padding),
        padding=padding,
        positions="lens-1d",
        recipe=recipe or Recipe(coordinates="pixels" if family == "qwen2_5_vl" else "thousandths"),
    )


def _token_ids(name: str, *configs: Mapping[str, object] | None) -> tuple[int, ...]:
    """Ids under a name, the last configuration that has it counting."""
    for config in reversed(configs):
        value = config.get(name) if config is not None else None
        if isinstance(value, int):
            return (value,)
        if isinstance(value, list) and value and all(isinstance(v, int) for v in value):
            return tuple(value)
    return ()


def _family(config: Mapping[str, object]) -> Family:
    """LENS-3B and LENS-2B share a configuration class, so the vision tower tells which backbone it is."""
    vision = config.get("vision_config")
    if isinstance(vision, Mapping):
        if "fullatt_block_indexes" in vision or "window_size" in vision or "intermediate_size" in vision:
            return "qwen2_5_vl"
        if "embed_dim" in vision or "mlp_ratio" in vision:
            return "qwen2_vl"
    raise CheckpointError("the configuration has no vision tower of Qwen2-VL or Qwen2.5-VL")


def _vision(vision: Mapping[str, object], family: Family) -> Json:
    """Names that Hub files use for fields which transformers knows under another name or not at all."""
    renamed = {"in_chans": "in_channels"}
    dropped = {"spatial_patch_size", "model_type"}
    fields: Json = {renamed.get(key, key): value for key, value in vision.items() if key not in dropped}
    if family == "qwen2_vl":
        # A LENS-2B file carries fields of the other family's tower with their defaults.
        fields = {k: v for k, v in fields.items() if k not in {"out_hidden_size", "tokens_per_second"}}
    return fields
