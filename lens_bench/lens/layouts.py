"""Names of the same tensors in different checkpoints, as pairs of patterns that translate both ways.

``{}`` stands for one or more characters without a dot, ``{*}`` for anything; both sides of a pair hold the same number
in the same order. A right-hand side that ends in ``[{}]`` means one row of a tensor: Meta keeps SAM 2's four point
embeddings apart, transformers keeps them in one table.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from lens_bench.errors import CheckpointError
from lens_bench.lens.sources import MemorySource, Shape, TensorSource

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a tensor of a file goes: one of our tensors, or one row of it."""

    name: str
    row: int | None = None


@dataclass(frozen=True)
class Layout:
    """A naming.

    Attributes:
        name: What to call it in messages.
        pairs: (theirs, ours) patterns; the first that matches counts.
        ignored: Patterns of their tensors that are left out on purpose.
        optional: Patterns of our tensors that a file may lack; they stay zero and the load report says so.
    """

    name: str
    pairs: Pairs
    ignored: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    @cached_property
    def _forward(self) -> list[tuple[re.Pattern[str], str]]:
        return [(_regex(theirs), ours.replace("{*}", "{}")) for theirs, ours in self.pairs]

    @cached_property
    def _backward(self) -> list[tuple[re.Pattern[str], str]]:
        return [(_regex(ours), theirs.replace("{*}", "{}")) for theirs, ours in self.pairs]

    def to_ours(self, key: str) -> Slot | None:
        """Our tensor for a key of a file; None for a key that this naming does not know."""
        name = _translate(key, self._forward)
        if name is None:
            return None
        row = re.fullmatch(r"(.+)\[(\d+)\]", name)
        return Slot(row[1], int(row[2])) if row else Slot(name)

    def to_theirs(self, slot: Slot) -> str | None:
        """The key of a file for one of our tensors; None where this naming has no place for it."""
        name = slot.name if slot.row is None else f"{slot.name}[{slot.row}]"
        return _translate(name, self._backward)

    def is_ignored(self, key: str) -> bool:
        """Whether a key is left out on purpose."""
        return any(_regex(p).fullmatch(key) for p in self.ignored)

    def is_optional(self, name: str) -> bool:
        """Whether a file may lack one of our tensors."""
        return any(_regex(p).fullmatch(name) for p in self.optional)


def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\{\*\}", r"([^\[\]]+)").replace(r"\{\}", r"([^.\[\]]+)"))


def _translate(name: str, rules: list[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, template in rules:
        if match := pattern.fullmatch(name):
            return template.format(*match.groups())
    return None


# ---------------------------------------------------------------------------------------------- our names


def own_shapes(module: nn.Module, prefix: str = "") -> dict[str, Shape]:
    """Every parameter (tied ones under each of their names) and saved buffer of a module, with its shape."""
    out = {prefix + n: tuple(p.shape) for n, p in module.named_parameters(remove_duplicate=False)}
    transient = {
        f"{where}.{name}" if where else name
        for where, part in module.named_modules(remove_duplicate=False)
        for name in part._non_persistent_buffers_set
    }
    buffers = {n: b for n, b in module.named_buffers() if n not in transient}
    return out | {prefix + n: tuple(b.shape) for n, b in buffers.items()}


# ---------------------------------------------------------------------------------------------- pairs

_QWEN_4: Pairs = (
    ("visual.{*}", "qwen.model.visual.{*}"),
    ("model.{*}", "qwen.model.language_model.{*}"),
    ("lm_head.weight", "qwen.lm_head.weight"),
)
# Written by transformers 5; read beside the older names.
_QWEN_5: Pairs = (
    ("model.visual.{*}", "qwen.model.visual.{*}"),
    ("model.language_model.{*}", "qwen.model.language_model.{*}"),
    ("visual.{*}", "qwen.model.visual.{*}"),
    ("model.{*}", "qwen.model.language_model.{*}"),
    ("lm_head.weight", "qwen.lm_head.weight"),
)

_HEAD: Pairs = (
    ("learnable_query", "head.queries"),
    ("connector.{*}", "head.connector.{*}"),
    ("conv_1d.{}", "head.pool.{}"),
    ("proj_to_sam.{*}", "head.project.{*}"),
)

_TRUNK, _BACKBONE = "image_encoder.trunk", "vision_encoder.backbone"
_PROMPT, _DECODER = "sam_prompt_encoder", "sam_mask_decoder"
_LAYER = "transformer.layers.{}"

_SAM_IMAGE: Pairs = (
    (f"{_TRUNK}.patch_embed.proj.{{}}", f"{_BACKBONE}.patch_embed.projection.{{}}"),
    (f"{_TRUNK}.blocks.{{}}.norm1.{{}}", f"{_BACKBONE}.blocks.{{}}.layer_norm1.{{}}"),
    (f"{_TRUNK}.blocks.{{}}.norm2.{{}}", f"{_BACKBONE}.blocks.{{}}.layer_norm2.{{}}"),
    (f"{_TRUNK}.blocks.{{}}.mlp.layers.0.{{}}", f"{_BACKBONE}.blocks.{{}}.mlp.proj_in.{{}}"),
    (f"{_TRUNK}.blocks.{{}}.mlp.layers.1.{{}}", f"{_BACKBONE}.blocks.{{}}.mlp.proj_out.{{}}"),
    (f"{_TRUNK}.{{*}}", f"{_BACKBONE}.{{*}}"),
    ("image_encoder.neck.convs.{}.conv.{}", "vision_encoder.neck.convs.{}.{}"),
    ("no_mem_embed", "no_memory_embedding"),
)
_SAM_PROMPT: Pairs = (
    (f"{_PROMPT}.pe_layer.positional_encoding_gaussian_matrix", "shared_image_embedding.positional_embedding"),
    (f"{_PROMPT}.point_embeddings.{{}}.weight", "prompt_encoder.point_embed.weight[{}]"),
    (f"{_PROMPT}.mask_downscaling.0.{{}}", "prompt_encoder.mask_embed.conv1.{}"),
    (f"{_PROMPT}.mask_downscaling.1.{{}}", "prompt_encoder.mask_embed.layer_norm1.{}"),
    (f"{_PROMPT}.mask_downscaling.3.{{}}", "prompt_encoder.mask_embed.conv2.{}"),
    (f"{_PROMPT}.mask_downscaling.4.{{}}", "prompt_encoder.mask_embed.layer_norm2.{}"),
    (f"{_PROMPT}.mask_downscaling.6.{{}}", "prompt_encoder.mask_embed.conv3.{}"),
    (f"{_PROMPT}.{{*}}", "prompt_encoder.{*}"),
)
_SAM_DECODER: Pairs = (
    *(
        (f"{_DECODER}.{_LAYER}.{part}.out_proj.{{}}", f"mask_decoder.{_LAYER}.{part}.o_proj.{{}}")
        for part in ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token")
    ),
    *((f"{_DECODER}.{_LAYER}.norm{n}.{{}}", f"mask_decoder.{_LAYER}.layer_norm{n}.{{}}") for n in range(1, 5)),
    (f"{_DECODER}.{_LAYER}.mlp.layers.0.{{}}", f"mask_decoder.{_LAYER}.mlp.proj_in.{{}}"),
    (f"{_DECODER}.{_LAYER}.mlp.layers.1.{{}}", f"mask_decoder.{_LAYER}.mlp.proj_out.{{}}"),
    (
        f"{_DECODER}.transformer.final_attn_token_to_image.out_proj.{{}}",
        "mask_decoder.transformer.final_attn_token_to_image.o_proj.{}",
    ),
    (f"{_DECODER}.transformer.norm_final_attn.{{}}", "mask_decoder.transformer.layer_norm_final_attn.{}"),
    (f"{_DECODER}.output_upscaling.0.{{}}", "mask_decoder.upscale_conv1.{}"),
    (f"{_DECODER}.output_upscaling.1.{{}}", "mask_decoder.upscale_layer_norm.{}"),
    (f"{_DECODER}.output_upscaling.3.{{}}", "mask_decoder.upscale_conv2.{}"),
    *(
        (f"{_DECODER}.{mlp}.layers.{theirs}.{{}}", f"mask_decoder.{mlp}.{ours}.{{}}")
        for mlp in ("output_hypernetworks_mlps.{}", "iou_prediction_head", "pred_obj_score_head")
        for theirs, ours in ((0, "proj_in"), (1, "layers.0"), (2, "proj_out"))
    ),
    (f"{_DECODER}.{{*}}", "mask_decoder.{*}"),
)
_SAM_VIDEO: Pairs = (
    ("no_mem_pos_enc", "no_memory_positional_encoding"),
    ("no_obj_ptr", "no_object_pointer"),
    ("mask_downsample.{}", "mask_downsample.{}"),
    ("obj_ptr_proj.layers.{}.{}", "object_pointer_proj.{}.{}"),
)


def _prefixed(pairs: Pairs, theirs: str, ours: str) -> Pairs:
    return tuple((theirs + t, ours + o) for t, o in pairs)


_META = (*_SAM_IMAGE, *_SAM_PROMPT, *_SAM_DECODER)
_VIDEO_MEMORY = ("memory_attention.{*}", "memory_encoder.{*}")

# Sharded safetensors of the authors: transformers 4.51 names, SAM 2 in Meta's names without its memory.
RELEASED = Layout(
    "released LENS",
    (*_QWEN_4, *_HEAD, *_prefixed(_META, "sam.", "sam.sam2."), *_prefixed(_SAM_VIDEO, "sam.", "sam.leftovers.")),
)
# What `save` writes: the names of our own modules.
OWN = Layout("lens-bench", (("{*}", "{*}"),))
# Qwen2-VL and Qwen2.5-VL as on the Hub.
QWEN = Layout("Qwen-VL", _QWEN_5)
# Meta's `sam2_hiera_*.pt` and `sam2.1_hiera_*.pt`.
SAM2_META = Layout(
    "SAM 2 (Meta)",
    (*_prefixed(_META, "", "sam.sam2."), *_prefixed(_SAM_VIDEO, "", "sam.leftovers.")),
    ignored=(*_VIDEO_MEMORY, "maskmem_tpos_enc", "no_obj_embed_spatial", "obj_ptr_tpos_proj.{*}"),
)
# `Sam2Model` or `Sam2VideoModel` of transformers; the former lacks the video tracker's tensors.
SAM2_HUB = Layout(
    "SAM 2 (transformers)",
    (
        ("no_memory_positional_encoding", "sam.leftovers.no_memory_positional_encoding"),
        ("no_object_pointer", "sam.leftovers.no_object_pointer"),
        ("mask_downsample.{}", "sam.leftovers.mask_downsample.{}"),
        ("object_pointer_proj.proj_in.{}", "sam.leftovers.object_pointer_proj.0.{}"),
        ("object_pointer_proj.layers.0.{}", "sam.leftovers.object_pointer_proj.1.{}"),
        ("object_pointer_proj.proj_out.{}", "sam.leftovers.object_pointer_proj.2.{}"),
        ("{*}", "sam.sam2.{*}"),
    ),
    ignored=(
        *_VIDEO_MEMORY,
        "prompt_encoder.shared_embedding.positional_embedding",
        "memory_temporal_positional_encoding",
        "occlusion_spatial_embedding_parameter",
        "temporal_positional_encoding_projection_layer.{*}",
    ),
    optional=("sam.leftovers.{*}",),
)


# ---------------------------------------------------------------------------------------------- checking


@dataclass(frozen=True, slots=True)
class Plan:
    """Which tensor of which source goes where; made only for checkpoints that fit.

    Attributes:
        source: The tensors.
        keys: Their key for each of our slots.
        ignored: Keys that are left out on purpose.
        absent: Our optional tensors that the source lacks.
    """

    source: TensorSource
    keys: Mapping[Slot, str]
    ignored: tuple[str, ...]
    absent: tuple[str, ...]


def make_plan(layout: Layout, expected: Mapping[str, Shape], source: TensorSource, tied: tuple[str, ...] = ()) -> Plan:
    """Match a source with our tensors.

    Args:
        layout: Naming of the source.
        expected: Our tensors with their shapes.
        source: Theirs.
        tied: Our tensors that share memory with another one and may therefore be absent.

    Raises:
        CheckpointError: A tensor is missing, unexpected or misshapen; up to ten are named.
    """
    shapes = source.shapes()
    keys: dict[Slot, str] = {}
    ignored: list[str] = []
    problems: dict[str, list[str]] = defaultdict(list)
    for key, shape in shapes.items():
        if layout.is_ignored(key):
            ignored.append(key)
            continue
        slot = layout.to_ours(key)
        if slot is None or slot.name not in expected:
            problems["unexpected"].append(key)
        elif slot in keys:
            problems["twice"].append(key)
        elif shape != _slot_shape(slot, expected):
            problems["misshapen"].append(f"{key} {list(shape)} for {list(_slot_shape(slot, expected))}")
        else:
            keys[slot] = key
    absent: list[str] = []
    misshapen = {layout.to_ours(p.split(" ")[0]) for p in problems["misshapen"]}
    for slot in slots(layout, expected):
        if slot in keys or slot in misshapen:
            continue
        if layout.is_optional(slot.name):
            absent.append(slot.name)
        elif slot.name not in tied:
            problems["missing"].append(layout.to_theirs(slot) or slot.name)
    _raise_problems(problems, source.what, layout.name)
    return Plan(source, keys, tuple(sorted(ignored)), tuple(sorted(set(absent))))


def _slot_shape(slot: Slot, expected: Mapping[str, Shape]) -> Shape:
    shape = expected[slot.name]
    if slot.row is None:
        return shape
    return (1, *shape[1:]) if slot.row < shape[0] else (-1,)


def slots(layout: Layout, expected: Mapping[str, Shape]) -> list[Slot]:
    """Every place that a file in ``layout`` has to fill."""
    out: list[Slot] = []
    for name, shape in expected.items():
        if layout.to_theirs(Slot(name, 0)) is not None:
            out.extend(Slot(name, row) for row in range(shape[0]))
        else:
            out.append(Slot(name))
    return out


def _raise_problems(problems: Mapping[str, list[str]], what: str, layout: str) -> None:
    parts = []
    for kind in ("missing", "unexpected", "misshapen", "twice"):
        found = problems.get(kind, [])
        if found:
            rest = f" and {len(found) - 10} more" if len(found) > 10 else ""
            parts.append(f"{len(found)} {kind}: {', '.join(found[:10])}{rest}")
    if parts:
        raise CheckpointError(f"{what} does not fit the model ({layout} names); {'; '.join(parts)}")


def read_layout(layout: Layout, model: nn.Module, tensors: Mapping[str, Tensor], what: str) -> Plan:
    """``make_plan`` for tensors in memory and a whole model that ties its word embeddings where it says so."""
    return make_plan(layout, own_shapes(model), MemorySource(tensors, what), tied_names(model))


def tied_names(model: nn.Module) -> tuple[str, ...]:
    """Our tensors that are other tensors under a second name: the output layer, where embeddings are tied."""
    qwen = getattr(model, "qwen", None)
    tied = qwen is not None and bool(qwen.config.tie_word_embeddings)
    return ("qwen.lm_head.weight",) if tied else ()
