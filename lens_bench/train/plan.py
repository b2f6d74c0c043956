"""What a training would take, without training: parameters, tokens, memory, time. Needs no weights.

Estimates, and called so: memory counts weights, gradients, moments and activations by rule; time is the arithmetic of a
step over the speed of a matrix product measured on this machine, of which training reaches about a third.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from lens_bench.errors import DataError
from lens_bench.lens.config import LensConfig, whole
from lens_bench.lens.images import smart_size
from lens_bench.lens.modeling import LensModel
from lens_bench.train.config import TrainRecipe
from lens_bench.train.data import open_data
from lens_bench.train.lora import inject
from lens_bench.train.parameters import counts, freeze
from lens_bench.train.start import random_start, shape_of

_REACHED = 0.35
_CHARACTERS_PER_TOKEN = 4
# Bytes that a transformer layer keeps per token and unit of width for its backward pass, attention being recomputed.
_KEPT = 34


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer.

    Attributes:
        trainable: Parameters by group.
        parameters: All of them.
        tokens: Read by the language model in a step, about.
        memory: Bytes on one device that holds everything.
        steps: Updates.
        units: Units of the data; None where it is not at hand.
        flops: Arithmetic of a step.
        seconds: Of the whole training on one device like this machine's.
        notes: What had to be assumed.
    """

    trainable: Mapping[str, int]
    parameters: int
    tokens: int
    memory: float
    steps: int
    units: int | None
    flops: float
    seconds: float
    notes: tuple[str, ...]


def make_plan(recipe: TrainRecipe, data_root: Path) -> Plan:
    """Work out a plan on this machine."""
    shape = shape_of(recipe.model)
    with torch.device("meta"):
        lens = random_start(recipe)
    if recipe.lora is not None:
        inject(lens, recipe.lora, recipe.seed)
    freeze(lens, recipe)
    notes: list[str] = []
    if not (
        recipe.model.fresh
        or recipe.model.like
        or any(Path(p).is_dir() for p in (recipe.model.checkpoint, recipe.model.qwen) if p)
    ):
        notes.append("no weights at hand: shapes are those of Qwen2.5-VL-3B and SAM 2 Hiera-L")
    units: int | None = None
    try:
        units = len(open_data(recipe.data, data_root).units)
    except DataError as error:
        notes.append(f"data not at hand: {error.message}")
    rows, tokens = _tokens(recipe, shape)
    flops = _flops(recipe, lens, rows, tokens)
    return Plan(
        trainable={str(group): number for group, number in counts(lens, recipe.stage).items()},
        parameters=sum(p.numel() for p in lens.parameters()),
        tokens=tokens,
        memory=_memory(recipe, lens, tokens),
        steps=recipe.optimiser.steps,
        units=units,
        flops=flops,
        seconds=recipe.optimiser.steps * flops / (_REACHED * matmul_speed(recipe.runtime.precision == "bf16")),
        notes=tuple(notes),
    )


def _image_tokens(shape: LensConfig) -> int:
    recipe, vision = shape.recipe, shape.qwen_config().vision_config
    patch, merge = whole(vision, "patch_size"), whole(vision, "spatial_merge_size")
    if recipe.sizing == "square":
        return (recipe.longest_side // (patch * merge)) ** 2
    height, width = smart_size((480, 640), patch * merge, recipe.min_pixels, recipe.max_pixels)
    return height * width // (patch * merge) ** 2


def _tokens(recipe: TrainRecipe, shape: LensConfig) -> tuple[int, int]:
    """Answers of a step, and tokens that the language model reads for them (images of 640x480, short expressions)."""
    if recipe.stage in ("sam", "vision"):
        return recipe.batch.units, 0
    text, members = len(shape.recipe.question) // _CHARACTERS_PER_TOKEN + 24, 1
    answer = len(recipe.answer.text.replace("{rationale}", 20 * "word")) // _CHARACTERS_PER_TOKEN + 24
    if recipe.grpo is not None:
        members, answer = recipe.grpo.num_generations, min(answer, recipe.grpo.max_completion_length)
    elif recipe.data.unit == "image":
        members = min(recipe.data.per_image, 4)
    prefixes = 1 if recipe.grpo is None or recipe.grpo.share_prefix else members
    unit = prefixes * _image_tokens(shape) + members * (text + answer + shape.head.queries)
    return recipe.batch.units * members, recipe.batch.units * unit


def _flops(recipe: TrainRecipe, lens: LensModel, rows: int, tokens: int) -> float:
    """Two operations per parameter and token forward, four backward; once more where activations are recomputed."""
    language = sum(p.numel() for p in lens.qwen.model.language_model.parameters())
    vision = sum(p.numel() for p in lens.qwen.model.visual.parameters())
    sam = sum(p.numel() for p in lens.sam.sam2.vision_encoder.parameters())
    passes = 3.0 + recipe.runtime.gradient_checkpointing
    generation = 0.0
    if recipe.grpo is not None:
        # The prompt is read once, an answer token by token; the reference reads everything.
        passes += float(recipe.grpo.beta > 0)
        generation = 2.0 * language * tokens
    patches = recipe.batch.units * _image_tokens(lens.config) * lens.merge**2
    cells = recipe.batch.units * (lens.sam.image_size // 16) ** 2
    vision_passes = 3.0 if "vision" in recipe.optimiser.rates else 1.0
    sam_passes = 3.0 if "sam_image" in recipe.optimiser.rates else 1.0
    once = passes * language * tokens + vision_passes * vision * patches + sam_passes * sam * cells
    return float(2.0 * once + generation)


def _memory(recipe: TrainRecipe, lens: LensModel, tokens: int) -> float:
    """Bytes: trained weights with gradient and two moments, frozen weights, a frozen copy, activations, scores."""
    trained = sum(p.numel() for p in lens.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in lens.parameters() if not p.requires_grad)
    total = 16.0 * trained + (2.0 if recipe.model.dtype == "bfloat16" else 4.0) * frozen
    text = lens.qwen.config.text_config
    layers, vocabulary = whole(text, "num_hidden_layers"), whole(text, "vocab_size")
    if recipe.grpo is not None and recipe.grpo.beta and recipe.lora is None:
        total += 4.0 * sum(p.numel() for p in lens.qwen.parameters())
    micro = tokens * recipe.batch.micro / recipe.batch.units
    size = 2.0 if recipe.runtime.precision == "bf16" else 4.0
    if recipe.runtime.gradient_checkpointing:
        total += micro * lens.width * (layers * size + _KEPT * size / 2)
    else:
        total += micro * lens.width * layers * _KEPT * size / 2
    return float(total) + 3 * 4.0 * min(micro, recipe.runtime.logits_chunk) * vocabulary


def matmul_speed(bf16: bool) -> float:
    """Operations per second of a matrix product on this machine, in the precision of training."""
    cuda = torch.cuda.is_available()
    side, device = (8192, "cuda") if cuda else (768, "cpu")
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16 if bf16 and cuda else torch.float32)
    best = float("inf")
    for _ in range(4):
        begin = time.perf_counter()
        a @ a
        if cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return 2.0 * side**3 / best
