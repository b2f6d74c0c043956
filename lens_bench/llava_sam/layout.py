"""Names of the released tensors, and the mistakes that people make with checkpoints, told apart by them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from lens_bench.errors import CheckpointError
from lens_bench.lens.config import whole
from lens_bench.lens.layouts import Layout
from lens_bench.lens.sources import Shape
from lens_bench.llava_sam.config import GLAMM, LISA, Family, LlavaSamConfig

# The vision tower alone, or the whole of CLIP, in the names of OpenAI's repositories.
CLIP = Layout(
    "CLIP",
    (("vision_model.{*}", "clip.{*}"),),
    ignored=(
        "vision_model.embeddings.position_ids",
        "text_model.{*}",
        "text_projection.weight",
        "visual_projection.weight",
        "logit_scale",
    ),
)
_V0_FILES = ("pytorch_model-visual_model.bin", "pytorch_model-text_hidden_fcs.bin")
_MERGE = "merge the adapter into the base model first: LISA's merge_lora_weights_and_save_hf_model.py writes the result"


def released(family: Family) -> Layout:
    """Naming of a released checkpoint; the vision tower is not in it."""
    return Layout(
        f"released {family.name}",
        (
            ("model.mm_projector.{*}", "projector.{*}"),
            ("model.text_hidden_fcs.{*}", "text_hidden_fcs.{*}"),
            (f"model.{family.sam}.{{*}}", "sam.{*}"),
            ("model.{*}", "llama.model.{*}"),
            ("lm_head.weight", "llama.lm_head.weight"),
        ),
        ignored=family.ignored,
    )


def left_out_by(layout: Layout, keys: Iterable[str]) -> tuple[str, ...]:
    """The patterns of a naming by which keys of a checkpoint are left out; shorter to read than the keys."""
    known = tuple(keys)
    return tuple(p for p in layout.ignored if any(Layout("", (), ignored=(p,)).is_ignored(key) for key in known))


def check_files(folder: Path) -> None:
    """Look at a folder before its weights are: old layouts and adapters have files of their own.

    Raises:
        CheckpointError: It holds no checkpoint of the released layout.
    """
    if not folder.is_dir():
        raise CheckpointError(f"no checkpoint folder {folder}")
    if any((folder / name).is_file() for name in _V0_FILES):
        raise CheckpointError(
            f"{folder} is a v0 checkpoint: its mask head lies in files of its own ({_V0_FILES[0]})",
            "v0 needs the authors' code at 0e26916; take a v1 checkpoint, e.g. xinlai/LISA-13B-llama2-v1",
        )
    if (folder / "adapter_config.json").is_file():
        raise CheckpointError(f"{folder} is a LoRA adapter, not a merged checkpoint", _MERGE)


def check_names(family: Family, shapes: Mapping[str, Shape], what: str) -> None:
    """Name the mistake where a checkpoint is of another kind; what else does not fit is found tensor by tensor.

    Raises:
        CheckpointError: LoRA is not merged, the mask head or SAM is missing, or it is the sibling's checkpoint.
    """
    if adapters := [key for key in shapes if ".lora_" in key or key.startswith("base_model.")]:
        raise CheckpointError(f"{what} holds LoRA weights that are not merged ({adapters[0]})", _MERGE)
    other = GLAMM if family.sam == LISA.sam else LISA
    if _any(shapes, f"model.{other.sam}.") and not _any(shapes, f"model.{family.sam}."):
        raise CheckpointError(f"{what} is a checkpoint of {other.name}, not of {family.name}", "see `lens-bench list`")
    if not _any(shapes, "model.text_hidden_fcs."):
        raise CheckpointError(
            f"{what} has no text_hidden_fcs: nothing turns [SEG] into a prompt of SAM",
            f"this looks like a LLaVA checkpoint; take one that {family.name}'s authors released",
        )
    if not _any(shapes, f"model.{family.sam}.mask_decoder."):
        raise CheckpointError(
            f"{what} has no mask decoder (model.{family.sam}.mask_decoder.*)",
            f"{family.name} trains the decoder, so Meta's SAM file cannot stand in for it; fetch every shard",
        )
    if _any(shapes, "model.vision_tower."):
        raise CheckpointError(
            f"{what} holds a vision tower of its own (model.vision_tower.*)",
            f"released checkpoints leave the frozen tower out and read {family.tower}; remove these tensors if frozen",
        )


def check_tower(config: LlavaSamConfig, shapes: Mapping[str, Shape], tower: Path) -> None:
    """Whether the vision tower is the one that the model was trained with.

    Raises:
        CheckpointError: It reads images of another size, or has another width than the projector.
    """
    family, clip = config.family, config.clip_config()
    side, patch, width = (whole(clip, name) for name in ("image_size", "patch_size", "hidden_size"))
    hint = f"name the folder of {family.tower}: --model-arg clip=FOLDER"
    if side != family.side:
        raise CheckpointError(
            f"the vision tower {tower} reads {side} px images ({(side // patch) ** 2} tokens); "
            f"{family.name} needs {family.side} px ({(family.side // patch) ** 2} tokens)",
            hint,
        )
    first = "model.mm_projector.weight" if family.projector == 1 else "model.mm_projector.0.weight"
    if first in shapes and shapes[first][-1] != width:
        raise CheckpointError(
            f"the vision tower {tower} is {width} wide, the projector reads {shapes[first][-1]}", hint
        )


def _any(keys: Iterable[str], prefix: str) -> bool:
    return any(key.startswith(prefix) for key in keys)
