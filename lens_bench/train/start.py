"""The model that training starts from, and how it is asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from lens_bench.checkpoint_files import digest
from lens_bench.errors import UsageError
from lens_bench.lens.checkpoint import fresh, hub_config, load, load_plain
from lens_bench.lens.config import Json, LensConfig, released_config, sam_preset
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.placing import Precision
from lens_bench.lens.prompts import HubTokenizer, Prompter, load_tokenizer
from lens_bench.lens.recipe import Recipe
from lens_bench.lens.sizes import qwen_base
from lens_bench.train.base import require_base
from lens_bench.train.config import ModelConfig, TrainRecipe
from lens_bench.train.nano import nano_config, nano_model, word_tokenizer

_USUAL_BASE = "Qwen2.5-VL-3B-Instruct"


@dataclass(frozen=True, slots=True)
class Start:
    """A model with its tokenizer; ``notes`` are worth telling the user."""

    lens: LensModel
    tokenizer: HubTokenizer
    notes: tuple[str, ...]

    @property
    def prompter(self) -> Prompter:
        """Writes the prompts that the model is trained on, which are those of evaluation."""
        config = self.lens.config
        return Prompter(config.recipe, self.tokenizer, frozenset(config.ends), config.padding)


def open_start(recipe: TrainRecipe, device: str | torch.device = "cpu") -> Start:
    """Load or make the model of a recipe.

    Raises:
        UsageError: The recipe names no start.
        CheckpointError: A checkpoint is missing (see ``require_base``) or does not fit.
    """
    require_base(recipe)
    config, notes = recipe.model, list[str]()
    dtype = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
    precision = Precision(text=dtype, head=torch.float32, sam=torch.float32)
    if config.fresh is not None:
        lens, tokenizer = nano_model(config.fresh, recipe.seed), word_tokenizer(config.fresh)
    elif config.checkpoint:
        folder = Path(config.checkpoint).expanduser()
        loaded = load(folder, device, precision)
        lens, tokenizer = loaded.model, load_tokenizer(folder)
        notes += loaded.report.notes
    else:
        folder = Path(config.qwen).expanduser()
        shape = plain_config(config, hub_config(folder), _generation(folder))
        loaded = load_plain(shape, folder, Path(config.sam).expanduser(), recipe.seed, device, precision)
        lens, tokenizer = loaded.model, load_tokenizer(folder)
        notes += loaded.report.notes
    if lens.config.positions != "mrope":
        notes.append(f"the checkpoint's mask pass had {lens.config.positions} positions; training goes on with mrope")
    lens.config = as_trained(lens.config, config)
    lens.sam.sam2.mask_decoder.dynamic_multimask_via_stability = False
    return Start(lens.to(device), tokenizer, tuple(notes))


def start_digest(config: ModelConfig) -> str | None:
    """SHA-256 of what training starts from; empty for drawn weights, None where they are absent.

    Raises:
        CheckpointError: A file cannot be read.
    """
    if config.fresh is not None:
        return ""
    if config.checkpoint:
        folder = Path(config.checkpoint).expanduser()
        return digest(folder) if folder.is_dir() else None
    qwen, sam = Path(config.qwen).expanduser(), Path(config.sam).expanduser()
    if not config.qwen or not qwen.is_dir() or not sam.exists():
        return None
    return digest(qwen, sam)


def as_trained(shape: LensConfig, config: ModelConfig) -> LensConfig:
    """A configuration under which training, sampling and evaluation do the same.

    Positions are the backbone's own everywhere. The mask decoder always gives its single mask, the only one that is
    trained; choosing among several by stability, as SAM 2 does in evaluation, would show untrained ones.
    """
    sam: Json = json.loads(json.dumps(shape.sam))
    decoder = sam.get("mask_decoder_config")
    sam["mask_decoder_config"] = {
        **(decoder if isinstance(decoder, dict) else {}),
        "dynamic_multimask_via_stability": False,
    }
    try:
        prompt = Recipe.model_validate({**shape.recipe.model_dump(), **config.prompt})
    except ValueError as error:
        raise UsageError(f"model.prompt: {' '.join(str(error).split())[:200]}") from None
    return shape.model_copy(update={"positions": "mrope", "sam": sam, "recipe": prompt})


def plain_config(
    config: ModelConfig, qwen: Mapping[str, object], generation: Mapping[str, object] | None = None
) -> LensConfig:
    """A model of a plain backbone with a fresh head of the authors' shape."""
    own = {**qwen, "num_of_query": config.queries, "if_use_qwen_connector": True}
    shape = released_config(own, config.sam_size, generation=generation)
    return as_trained(shape.model_copy(update={"sam": sam_preset(config.sam_size)}), config)


def random_start(recipe: TrainRecipe) -> LensModel:
    """A model of the recipe's shape with random weights; under ``torch.device("meta")`` without memory.

    Where the recipe's weights are not at hand, see ``shape_of``.
    """
    shape = shape_of(recipe.model)
    return LensModel(shape) if torch.empty(0).is_meta else fresh(shape, recipe.seed)


def shape_of(config: ModelConfig) -> LensConfig:
    """Configuration of the model that a recipe starts from, without its weights.

    Raises:
        UsageError: The recipe names a model that is not at hand and whose sizes are not known.
    """
    if config.fresh is not None:
        return as_trained(nano_config(config.fresh), config)
    if config.checkpoint and Path(config.checkpoint).expanduser().is_dir():
        from lens_bench.lens.checkpoint import describe

        return as_trained(describe(Path(config.checkpoint).expanduser())[0], config)
    if config.like is not None:
        return as_trained(nano_config(config.like), config)
    if config.qwen and Path(config.qwen).expanduser().is_dir():
        folder = Path(config.qwen).expanduser()
        return plain_config(config, hub_config(folder), _generation(folder))
    if config.checkpoint:
        raise UsageError(
            f"no checkpoint in {config.checkpoint}, and its sizes cannot be told without it",
            "leave model.checkpoint out to plan with Qwen2.5-VL-3B, or name a base with model.qwen",
        )
    return plain_config(config, qwen_base(config.qwen) if config.qwen else qwen_base(_USUAL_BASE))


def _generation(folder: Path) -> Mapping[str, object] | None:
    return hub_config(folder, "generation_config.json") if (folder / "generation_config.json").is_file() else None
