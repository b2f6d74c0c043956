"""What a training would take, without training: parameters, tokens, memory, time. Needs no weights.

Estimates, and called so: memory is counted by rule (``memory.py``); time is the arithmetic of a step over the speed of
a matrix product measured on this machine, of which training reaches about a third, or over the peak of a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lens_bench.errors import DataError
from lens_bench.lens.config import LensConfig, whole
from lens_bench.lens.images import Patching, size_for_language
from lens_bench.lens.modeling import LensModel
from lens_bench.records import Size
from lens_bench.train.config import TrainRecipe
from lens_bench.train.data import TrainingData, open_data
from lens_bench.train.lora import inject
from lens_bench.train.memory import Lengths, Memory, memory_of
from lens_bench.train.parameters import counts, freeze
from lens_bench.train.start import random_start, shape_of

_REACHED = 0.35
# Dense bfloat16 peak of an H100 SXM in operations a second (NVIDIA's data sheet), and the shares of it that training
# of models of this size reaches.
_H100, _SHARES = 989e12, (0.40, 0.25)
_CHARACTERS_PER_TOKEN = 4
_USUAL_SIZE: Size = (480, 640)


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer.

    Attributes:
        trainable: Parameters by group.
        parameters: All of them.
        tokens: Read by the language model in a step, about.
        memory: Of a rank, by layout.
        steps: Updates.
        units: Units of the data; None where it is not at hand.
        flops: Arithmetic of a step.
        seconds: Of the whole training on one device like this machine's.
        h100_seconds: Of the whole training on ``gpus`` H100: at most and at least.
        notes: What had to be assumed.
    """

    trainable: Mapping[str, int]
    parameters: int
    tokens: int
    memory: tuple[Memory, ...]
    steps: int
    units: int | None
    flops: float
    seconds: float
    h100_seconds: tuple[float, float]
    notes: tuple[str, ...]


def make_plan(recipe: TrainRecipe, data_root: Path, gpus: int = 1) -> Plan:
    """Work out a plan on this machine.

    Args:
        recipe: What would be trained.
        data_root: Where suites lie; sizes of images are those of the data where it is at hand.
        gpus: Ranks of the training.

    Raises:
        UsageError: The recipe starts from a model that is not at hand and whose sizes are not known.
    """
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
        or any(Path(p).expanduser().is_dir() for p in (recipe.model.checkpoint, recipe.model.qwen) if p)
    ):
        notes.append(f"no weights at hand: shapes are those of {recipe.model.qwen or 'Qwen2.5-VL-3B'} and SAM 2")
    data: TrainingData | None = None
    try:
        data = open_data(recipe.data, data_root)
    except DataError as error:
        notes.append(f"data not at hand, images of 640x480 assumed: {error.message}")
    lengths = _lengths(recipe, shape, data)
    tokens = 0 if recipe.stage in ("sam", "vision") else recipe.batch.units * _read(recipe, lengths)
    flops = _flops(recipe, lens, lengths, tokens)
    total = recipe.optimiser.steps * flops
    fast, slow = (total / (gpus * _H100 * share) for share in _SHARES)
    return Plan(
        trainable={str(group): number for group, number in counts(lens, recipe.stage).items()},
        parameters=sum(p.numel() for p in lens.parameters()),
        tokens=tokens,
        memory=memory_of(recipe, lens, lengths, gpus),
        steps=recipe.optimiser.steps,
        units=None if data is None else len(data.units),
        flops=flops,
        seconds=total / (_REACHED * matmul_speed(recipe.runtime.precision == "bf16")),
        h100_seconds=(fast, slow),
        notes=tuple(notes),
    )


def in_human_time(seconds: float) -> str:
    """A duration in its natural unit: ``40 seconds``, ``12 minutes``, ``7 hours``, ``5 days``, ``150 years``."""
    if seconds < 1:
        return "less than a second"
    for unit, size, most in (
        ("second", 1.0, 90.0), ("minute", 60.0, 90.0), ("hour", 3600.0, 48.0), ("day", 86400.0, 700.0),
    ):  # fmt: skip
        if seconds < most * size:
            return _counted(seconds / size, unit)
    return _counted(seconds / (365.25 * 86400.0), "year")


def human_range(low: float, high: float) -> str:
    """Two durations in seconds: ``4 to 6 days``, ``50 minutes to 2 hours``."""
    first, last = in_human_time(low), in_human_time(high)
    if first == last:
        return first
    number, _, unit = first.rpartition(" ")
    return f"{number} to {last}" if unit.rstrip("s") == last.rpartition(" ")[2].rstrip("s") else f"{first} to {last}"


def _counted(number: float, unit: str) -> str:
    shown = f"{number:,.0f}" if number >= 9.5 else f"{number:.1f}".removesuffix(".0")
    return f"{shown} {unit}" if shown == "1" else f"{shown} {unit}s"


def _image_tokens(shape: LensConfig, sizes: Sequence[Size]) -> int:
    """Mean number of tokens of an image."""
    vision = shape.qwen_config().vision_config
    patching = Patching(whole(vision, "patch_size"), whole(vision, "spatial_merge_size"))
    token = patching.patch * patching.merge
    seen = [size_for_language(size, shape.recipe, patching) for size in sizes]
    return round(sum(height * width for height, width in seen) / len(seen) / token**2)


def _lengths(recipe: TrainRecipe, shape: LensConfig, data: TrainingData | None) -> Lengths:
    """Tokens of a unit; expressions are taken to be short."""
    sizes = [_USUAL_SIZE] if data is None else [unit.items[0].sample.truth.size for unit in data.units]
    image = _image_tokens(shape, sizes)
    question, members = len(shape.recipe.question) // _CHARACTERS_PER_TOKEN + 24, 1
    text = recipe.answer.text.replace("{rationale}", 20 * "word").replace("{expression}", 5 * "word")
    answer = len(text) // _CHARACTERS_PER_TOKEN + 24
    if recipe.grpo is not None:
        members, answer = recipe.grpo.num_generations, min(answer, recipe.grpo.max_completion_length)
    elif recipe.data.unit == "image":
        members = min(recipe.data.per_image, 4)
    return Lengths(image, question + answer + shape.head.queries, members)


def _read(recipe: TrainRecipe, lengths: Lengths) -> int:
    """Tokens that a unit is read with: its prefix once, or with every answer."""
    if recipe.grpo is None or recipe.grpo.share_prefix:
        return lengths.unit
    return lengths.members * (lengths.prefix + lengths.answer)


def _flops(recipe: TrainRecipe, lens: LensModel, lengths: Lengths, tokens: int) -> float:
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
    patches = recipe.batch.units * lengths.prefix * lens.merge**2
    cells = recipe.batch.units * (lens.sam.image_size // 16) ** 2
    vision_passes = 3.0 if "vision" in recipe.optimiser.rates else 1.0
    sam_passes = 3.0 if "sam_image" in recipe.optimiser.rates else 1.0
    once = passes * language * tokens + vision_passes * vision * patches + sam_passes * sam * cells
    return float(2.0 * once + generation)


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
