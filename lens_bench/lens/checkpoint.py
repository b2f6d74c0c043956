"""Checkpoints: what a folder holds, and loading it, with every tensor checked against the architecture beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lens_bench.checkpoint_files import read_object, require_unquantised, weight_files
from lens_bench.errors import CheckpointError
from lens_bench.lens.config import CONFIG_NAME, HeadConfig, LensConfig, Positions, read_config, released_config
from lens_bench.lens.layouts import (
    OWN,
    QWEN,
    RELEASED,
    SAM2_HUB,
    SAM2_META,
    Layout,
    Plan,
    make_plan,
    own_shapes,
    tied_names,
)
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.placing import BLOCKS, Precision, assign, choose_attention, fill, finish
from lens_bench.lens.quantise import Bits, quantise
from lens_bench.lens.recipe import Recipe
from lens_bench.lens.sources import SafetensorsSource, TensorSource, pickle_source
from lens_bench.lens.spread import Spread, check_whole, link
from lens_bench.records import LoadReport


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
    source = SafetensorsSource(weight_files(folder))
    with torch.device("meta"):
        model = LensModel(config)
    plan = make_plan(layout, own_shapes(model), source, tied_names(model))
    precision = precision or Precision()
    language = model.qwen.model.language_model
    spread = Spread.over(devices, language.layers, model)

    def place_of(name: str) -> str | torch.device:
        return "cpu" if bits and name.startswith(BLOCKS) else spread.place(name, BLOCKS)

    assign(model, plan, devices[0], precision, place_of)
    found = _report(model, [plan])
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
    require_unquantised(folder)
    generation = hub_config(folder, "generation_config.json") if (folder / "generation_config.json").is_file() else None
    return released_config(hub_config(folder), released_sam(folder), recipe, generation), RELEASED


def hub_config(folder: Path, name: str = "config.json") -> Mapping[str, object]:
    """A JSON file of a folder in transformers' format.

    Raises:
        CheckpointError: It is missing or not a JSON object.
    """
    if not (folder / name).is_file():
        raise CheckpointError(f"{folder} has neither {CONFIG_NAME} nor {name}", "is this a checkpoint?")
    return read_object(folder / name)


def released_sam(folder: Path) -> str:
    """SAM 2 size of a released checkpoint, told by its trunk: the authors' configuration does not say it."""
    shapes = SafetensorsSource(weight_files(folder)).shapes()
    width = shapes.get("sam.image_encoder.trunk.pos_embed", (0, 0))[1]
    blocks = sum(1 for key in shapes if key.startswith("sam.image_encoder.trunk.blocks.") and ".norm1.weight" in key)
    sizes = {(96, 12): "sam2_hiera_t", (96, 16): "sam2_hiera_s", (112, 24): "sam2_hiera_b+", (144, 48): "sam2_hiera_l"}
    return sizes.get((width, blocks), "sam2_hiera_l")


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
    require_unquantised(qwen)
    with torch.device("meta"):
        model = LensModel(config)
    sam_layout, sam_source = sam_checkpoint(sam)
    plans = [
        make_plan(QWEN, own_shapes(model.qwen, "qwen."), SafetensorsSource(weight_files(qwen)), tied_names(model)),
        make_plan(sam_layout, own_shapes(model.sam, "sam."), sam_source),
    ]
    model.head.to_empty(device=device).to(precision.head)
    model.head.initialise(torch.Generator().manual_seed(seed))
    for plan in plans:
        fill(model, plan, device, precision)
    finish(model, device)
    note = f"head initialised from seed {seed}"
    found = _report(model, plans)
    return Loaded(model.eval(), LoadReport(found.parameters, found.ignored, (*found.notes, note)))


def sam_checkpoint(path: Path) -> tuple[Layout, TensorSource]:
    """A plain SAM 2 checkpoint: Meta's file, or a folder that holds it or is in transformers' format.

    Raises:
        CheckpointError: There is none, or it is broken.
    """
    files = weight_files(path, (".safetensors", ".pt")) if path.is_dir() else (path,)
    if files[0].suffix == ".safetensors":
        return SAM2_HUB, SafetensorsSource(files)
    return SAM2_META, pickle_source(files[0])


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


def _report(model: LensModel, plans: list[Plan]) -> LoadReport:
    """What the record of a run should say about loading."""
    absent = sorted(name for plan in plans for name in plan.absent)
    notes = [f"not in the file and set to zero, no image reads them: {', '.join(absent)}"] if absent else []
    return LoadReport(
        parameters=sum(p.numel() for p in model.parameters()),
        ignored=tuple(key for plan in plans for key in plan.ignored),
        notes=tuple(notes),
    )
