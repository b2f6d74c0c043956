"""The plan of a training as people read it: rows of a name and a text."""

from __future__ import annotations

from pathlib import Path

from lens_bench.train.config import TrainRecipe
from lens_bench.train.memory import CARDS_GB, Memory
from lens_bench.train.plan import Plan, human_range, in_human_time


def plan_rows(recipe: TrainRecipe, plan: Plan, gpus: int = 1, made_in: Path | None = None) -> list[tuple[str, object]]:
    """Parameters, data, steps, memory and time of a stage.

    Args:
        recipe: What would be trained.
        plan: What it would take.
        gpus: That the plan is for.
        made_in: Where the data will be made, where it is generated and absent.
    """
    trained = sum(plan.trainable.values())
    groups = ", ".join(f"{group} {number:,}" for group, number in plan.trainable.items())
    cluster = human_range(*plan.h100_seconds)
    cards = ", ".join(map(str, CARDS_GB))
    return [
        ("trainable", f"{trained:,} of {plan.parameters:,} parameters: {groups}"),
        ("data", _data_in_words(recipe, plan.units, made_in)),
        ("step", f"{recipe.batch.units} units, about {plan.tokens:,} tokens, {_operations(plan.flops)}"),
        ("steps", f"{plan.steps:,}"),
        ("epochs", f"{plan.steps * recipe.batch.units / plan.units:.2f}" if plan.units else ""),
        *((f"memory, {found.layout}", _memory_in_words(found, gpus)) for found in plan.memory),
        ("", f"estimated per GPU; checked against cards of {cards} GB"),
        ("time", f"about {in_human_time(plan.seconds)} on this machine, by the speed of a matrix product"),
        ("", f"{cluster} on {gpus} H100, at 40 to 25 % of peak; sampling and waiting come on top"),
        *(("note", text) for text in plan.notes),
    ]


def _memory_in_words(memory: Memory, gpus: int) -> str:
    """Peak, what it fits on, and its largest parts."""
    fits = f"fits {', '.join(map(str, memory.cards))} GB" if memory.cards else "fits none of the cards below"
    where = f"on each of {gpus} GPUs" if gpus > 1 else "on one GPU"
    when = " while sampling" if memory.sleeps else ""
    beside = f", beside {memory.vllm:.0%} of the card for vLLM{when}" if memory.vllm else ""
    largest = sorted(memory.parts.items(), key=lambda part: -part[1])[:4]
    parts = ", ".join(f"{name} {_gigabytes(size)}" for name, size in largest if size)
    return f"{_gigabytes(memory.peak)} {where}{beside}; {fits} ({parts})"


def _operations(flops: float) -> str:
    return f"{flops / 1e15:,.3g} PFLOP" if flops >= 1e15 else f"{flops / 1e12:,.3g} TFLOP"


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _data_in_words(recipe: TrainRecipe, units: int | None, made_in: Path | None) -> str:
    if units is not None:
        return f"{units:,} units"
    if made_in is not None:
        each = f", of {recipe.data.images:,} images a split" if recipe.data.images is not None else ""
        return f"made when it runs, in {made_in}{each}"
    return ""
