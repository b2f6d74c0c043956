"""Loading a model: check every tensor against the architecture first, then read them one by one to the device.

The model is built without memory on the meta device and its parameters are replaced by the tensors of the file, so
that the peak is the model plus one tensor and nothing can stay at a random value unnoticed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from lens_bench.errors import CheckpointError
from lens_bench.lens.attention import prefer_flash
from lens_bench.lens.config import CONFIG_NAME, HeadConfig, LensConfig, Positions, read_config, released_config
from lens_bench.lens.filling import recompute_buffers, require_filled
from lens_bench.lens.layouts import (
    OWN,
    QWEN,
    RELEASED,
    SAM2_HUB,
    SAM2_META,
    Layout,
    Plan,
    Slot,
    make_plan,
    own_shapes,
    tied_names,
)
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.quantise import Bits, quantise
from lens_bench.lens.recipe import Recipe
from lens_bench.lens.sources import SafetensorsSource, TensorSource, digest_files, folder_shards, pickle_source
from lens_bench.lens.spread import Spread, check_whole, link
from lens_bench.records import LoadReport

# The language model's blocks among our tensors.
BLOCKS = "qwen.model.language_model.layers."


@dataclass(frozen=True, slots=True)
class Precision:
    """Precision of the three parts."""

    text: torch.dtype = torch.float32
    head: torch.dtype = torch.float32
    sam: torch.dtype = torch.float32

    def of(self, name: str) -> torch.dtype:
        """Of one of our tensors, by its first name."""
        return {"qwen": self.text, "head": self.head, "sam": self.sam}[name.split(".", 1)[0]]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in evaluation mode and what loading it found."""

    model: LensModel
    report: LoadReport


# ---------------------------------------------------------------------------------------------- whole checkpoints


def load(
    folder: Path,
    device: str | torch.device | Sequence[str] = "cpu",
    precision: Precision | None = None,
    recipe: Recipe | None = None,
    bits: Bits | None = None,
) -> Loaded:
    """Load a checkpoint folder of ours (``lens_config.json``) or of the authors (``config.json`` of LENS).

    Args:
        folder: The checkpoint.
        device: Where to; several, where the language model is to be spread over them.
        precision: Of the parts; float32 by default.
        recipe: How to ask a released checkpoint, whose files do not say it. Overrides the one of our format.
        bits: Quantises the language model's blocks.

    Raises:
        CheckpointError: A file is missing or broken, or a tensor is missing, unexpected or misshapen.
        UsageError: Quantised blocks are to be spread.
    """
    devices = [device] if isinstance(device, str | torch.device) else list(device)
    check_whole(bits, devices)
    config, layout = describe(folder, recipe)
    source = SafetensorsSource(folder_shards(folder))
    with torch.device("meta"):
        model = LensModel(config)
    plan = make_plan(layout, own_shapes(model), source, tied_names(model))
    precision = precision or Precision()
    language = model.qwen.model.language_model
    spread = Spread.over(devices, language.layers, model)

    def place_of(name: str) -> str | torch.device:
        return "cpu" if bits and name.startswith(BLOCKS) else spread.place(name, BLOCKS)

    assign(model, plan, devices[0], precision, place_of)
    found = report(model, [plan])
    if bits:
        quantise(language.layers, bits, devices[0], precision.text)
        found = replace(found, notes=(*found.notes, f"the language model's blocks are held in {bits}"))
    choose_attention(model)
    return Loaded(model.eval(), replace(found, notes=(*found.notes, *link(language, spread, devices))))


def describe(folder: Path, recipe: Recipe | None = None) -> tuple[LensConfig, Layout]:
    """Configuration and naming of a checkpoint folder, without touching its weights.

    Raises:
        CheckpointError: The folder does not hold a LENS checkpoint.
    """
    if not folder.is_dir():
        raise CheckpointError(f"no checkpoint folder {folder}")
    if (folder / CONFIG_NAME).is_file():
        config = read_config(folder / CONFIG_NAME)
        return (config if recipe is None else config.model_copy(update={"recipe": recipe})), OWN
    generation = hub_config(folder, "generation_config.json") if (folder / "generation_config.json").is_file() else None
    return released_config(hub_config(folder), released_sam(folder), recipe, generation), RELEASED


def hub_config(folder: Path, name: str = "config.json") -> Mapping[str, object]:
    """A JSON file of a folder in transformers' format.

    Raises:
        CheckpointError: It is missing or not a JSON object.
    """
    path = folder / name
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has neither {CONFIG_NAME} nor config.json", "is this a checkpoint?") from None
    except (ValueError, OSError):
        raise CheckpointError(f"{path} is not readable JSON") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return content


def released_sam(folder: Path) -> str:
    """SAM 2 size of a released checkpoint, told by its trunk: the authors' configuration does not say it."""
    shapes = SafetensorsSource(folder_shards(folder)).shapes()
    width = shapes.get("sam.image_encoder.trunk.pos_embed", (0, 0))[1]
    blocks = sum(1 for key in shapes if key.startswith("sam.image_encoder.trunk.blocks.") and ".norm1.weight" in key)
    sizes = {(96, 12): "sam2_hiera_t", (96, 16): "sam2_hiera_s", (112, 24): "sam2_hiera_b+", (144, 48): "sam2_hiera_l"}
    return sizes.get((width, blocks), "sam2_hiera_l")


def weight_digest(folder: Path) -> str:
    """SHA-256 of a checkpoint's configuration, shards and, where it has one, ``tokenizer.json``.

    Raises:
        CheckpointError: There is no checkpoint.
    """
    if not folder.is_dir():
        raise CheckpointError(f"no checkpoint folder {folder}")
    own = folder / CONFIG_NAME
    words = [folder / "tokenizer.json"] if (folder / "tokenizer.json").is_file() else []
    return digest_files([own if own.is_file() else folder / "config.json", *words, *folder_shards(folder)])


# ---------------------------------------------------------------------------------------------- to start training


def load_plain(
    config: LensConfig,
    qwen: Path,
    sam: Path,
    seed: int,
    device: str | torch.device = "cpu",
    precision: Precision | None = None,
) -> Loaded:
    """Put a plain Qwen-VL checkpoint and a plain SAM 2 checkpoint together, with a fresh head.

    Args:
        config: The model to build; its backbone and SAM must be those of the two checkpoints.
        qwen: Folder of a Qwen2-VL or Qwen2.5-VL checkpoint.
        sam: Meta's ``.pt`` file, or a folder in transformers' format.
        seed: Of the head's weights.
        device: Where to.
        precision: Of the parts.

    Raises:
        CheckpointError: As ``load``.
    """
    precision = precision or Precision()
    with torch.device("meta"):
        model = LensModel(config)
    sam_layout, sam_source = sam_checkpoint(sam)
    plans = [
        make_plan(QWEN, own_shapes(model.qwen, "qwen."), SafetensorsSource(folder_shards(qwen)), tied_names(model)),
        make_plan(sam_layout, own_shapes(model.sam, "sam."), sam_source),
    ]
    model.head.to_empty(device=device).to(precision.head)
    model.head.initialise(torch.Generator().manual_seed(seed))
    for plan in plans:
        _place_all(model, plan, device, precision)
    finish(model, device)
    note = f"head initialised from seed {seed}"
    found = report(model, plans)
    return Loaded(model.eval(), LoadReport(found.parameters, found.ignored, (*found.notes, note)))


def sam_checkpoint(path: Path) -> tuple[Layout, TensorSource]:
    """A plain SAM 2 checkpoint: Meta's file or transformers' folder."""
    if path.is_dir():
        return SAM2_HUB, SafetensorsSource(folder_shards(path))
    if path.suffix == ".safetensors":
        return SAM2_HUB, SafetensorsSource([path])
    return SAM2_META, pickle_source(path)


def fresh(config: LensConfig, seed: int) -> LensModel:
    """A model with random weights that are a function of ``seed``, in float32 on the CPU, in evaluation mode.

    For tests and benchmarks, and for training from nothing. transformers' own initialisation draws from the global
    generator; its state is put back.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LensModel(config)
    model.head.initialise(torch.Generator().manual_seed(seed))
    return model.eval()


def plain_config(
    qwen: Path, sam: str, head: HeadConfig | None = None, positions: Positions = "mrope", recipe: Recipe | None = None
) -> LensConfig:
    """Describe the model that ``load_plain`` builds from a Qwen-VL folder.

    Args:
        qwen: Folder of a Qwen2-VL or Qwen2.5-VL checkpoint.
        sam: SAM 2 size, as ``sam_preset`` names it.
        head: By default that of the released models at the language model's width.
        positions: Of the mask pass.
        recipe: How to ask.

    Raises:
        CheckpointError: The folder is not one of Qwen-VL.
    """
    generation = hub_config(qwen, "generation_config.json") if (qwen / "generation_config.json").is_file() else None
    fields = {"num_of_query": 64, "if_use_qwen_connector": True, **hub_config(qwen)}
    config = released_config(fields, sam, recipe, generation)
    return config.model_copy(update={"positions": positions, "head": head or config.head})


def choose_attention(model: LensModel) -> None:
    """FlashAttention 2 for the vision tower where it is installed and fits."""
    prefer_flash(model.qwen.model.visual, model.device, model.text_dtype)


# ---------------------------------------------------------------------------------------------- placing tensors


def assign(
    model: LensModel,
    plan: Plan,
    device: str | torch.device,
    precision: Precision | None = None,
    place_of: Callable[[str], str | torch.device] | None = None,
) -> None:
    """Fill a model that lies on the meta device from a plan that covers all of it.

    Args:
        model: The model.
        plan: Where each tensor comes from.
        device: Where to.
        precision: Of the parts.
        place_of: Where to by name, if elsewhere.
    """
    _place_all(model, plan, device, precision or Precision(), place_of)
    finish(model, device)


def place(model: LensModel, device: str | torch.device, precision: Precision) -> LensModel:
    """Move a model and cast its parts; the rotary tables stay float32, which ``Module.to`` would cast as well."""
    parts: list[tuple[nn.Module, torch.dtype]] = [
        (model.qwen, precision.text),
        (model.head, precision.head),
        (model.sam, precision.sam),
    ]
    for part, dtype in parts:
        part.to(device=device, dtype=dtype)
    finish(model, device)
    choose_attention(model)
    return model


def report(model: LensModel, plans: list[Plan]) -> LoadReport:
    """What the record of a run should say about loading."""
    absent = sorted(name for plan in plans for name in plan.absent)
    notes = [f"not in the file and set to zero, no image reads them: {', '.join(absent)}"] if absent else []
    return LoadReport(
        parameters=sum(p.numel() for p in model.parameters()),
        ignored=tuple(key for plan in plans for key in plan.ignored),
        notes=tuple(notes),
    )


def _place_all(
    model: LensModel,
    plan: Plan,
    device: str | torch.device,
    precision: Precision,
    place_of: Callable[[str], str | torch.device] | None = None,
) -> None:
    rows: dict[str, dict[int, Tensor]] = {}
    tied = tied_names(model)
    for slot, key in plan.keys.items():
        if slot.name in tied:
            continue
        where = device if place_of is None else place_of(slot.name)
        tensor = plan.source.tensor(key).to(device=where, dtype=precision.of(slot.name))
        if slot.row is None:
            _place(model, slot.name, tensor)
        else:
            rows.setdefault(slot.name, {})[slot.row] = tensor
    for name, parts in rows.items():
        _place(model, name, torch.cat([parts[n] for n in sorted(parts)]))
    for name in plan.absent:
        shape = model.get_parameter(name).shape
        _place(model, name, torch.zeros(shape, device=device, dtype=precision.of(name)))
    _check_tied(model, plan, tied)


def _check_tied(model: LensModel, plan: Plan, tied: tuple[str, ...]) -> None:
    for name in tied:
        key = plan.keys.get(Slot(name))
        if key is None:
            continue
        embedding = model.embedding.weight
        if not torch.equal(plan.source.tensor(key).to(embedding), embedding):
            raise CheckpointError(
                f"{plan.source.what}: {key} differs from the embedding although the configuration ties them",
                "set tie_word_embeddings to false in its config.json",
            )


def _place(model: nn.Module, name: str, tensor: Tensor) -> None:
    where, _, leaf = name.rpartition(".")
    module = model.get_submodule(where)
    if leaf in module._parameters:
        # A tensor read from a file may be a view of its mapping; parameters own their memory.
        module._parameters[leaf] = nn.Parameter(tensor.clone() if tensor.is_cpu else tensor)
    else:
        module._buffers[leaf] = tensor


def finish(model: LensModel, device: str | torch.device) -> None:
    """Tie the embeddings, recompute the rotary tables that no file holds, and make sure that nothing is left empty."""
    if tied_names(model):
        model.qwen.lm_head.weight = model.embedding.weight
    recompute_buffers(model, device)
    require_filled(model)
