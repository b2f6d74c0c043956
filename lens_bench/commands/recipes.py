"""What `list recipes` and `show RECIPE` print: what a recipe trains, on what, from what, at what cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lens_bench.console import facts, out
from lens_bench.errors import LensBenchError
from lens_bench.heads import load_yaml
from lens_bench.train.config import ChainRecipe, TrainRecipe
from lens_bench.train.recipe_files import load_recipe, recipe_names

if TYPE_CHECKING:
    from lens_bench.train.command import Job


def recipe_rows() -> list[dict[str, object]]:
    """Every recipe that comes with the package, for a list; of a chain, the names of its stages."""
    rows: list[dict[str, object]] = []
    for name in recipe_names():
        recipe = load_recipe(name)
        stages = [link.recipe for link in recipe.chain] if isinstance(recipe, ChainRecipe) else [recipe.stage]
        splits = [] if isinstance(recipe, ChainRecipe) else list(recipe.data.splits)
        rows.append({"name": name, "stages": stages, "splits": splits, "summary": recipe.title})
    return rows


def is_recipe(reference: str) -> bool:
    """Whether a name is a recipe's, or a YAML file is one and not a suite's card."""
    if not reference.endswith((".yaml", ".yml")):
        return reference in recipe_names()
    path = Path(reference)
    return path.is_file() and not {"stage", "chain", "base"}.isdisjoint(load_yaml(path))


def recipe_json(reference: str) -> dict[str, object]:
    """A recipe with the settings of all its stages."""
    from lens_bench.train.command import plan_jobs

    jobs = plan_jobs(reference, [], None)
    stages = [job.recipe.model_dump(mode="json", exclude_defaults=True) for job in jobs]
    found = load_recipe(reference)
    return {"name": found.name, "title": found.title, "stages": stages}


def show_recipe(reference: str, data_root: Path) -> None:
    """Print what a recipe trains, stage by stage, with the estimates of ``train --dry-run``."""
    from lens_bench.train.command import plan_jobs

    found, jobs = load_recipe(reference), plan_jobs(reference, [], None)
    stages = ", ".join(job.recipe.name for job in jobs) if isinstance(found, ChainRecipe) else ""
    out.print(facts([("recipe", found.name), ("title", found.title), ("stages", stages)]))
    for job in jobs:
        out.print()
        out.print(facts([*_stage_rows(job, is_alone=len(jobs) == 1), *_cost(job, data_root)]))
    out.print()
    out.print(facts([("train it", f"lens-bench train {reference}"), ("", "--dry-run --gpus N estimates for N GPUs")]))


def _stage_rows(job: Job, *, is_alone: bool) -> list[tuple[str, object]]:
    recipe = job.recipe
    data, evaluation = recipe.data, recipe.evaluation
    return [
        ("stage", "" if is_alone else recipe.name),
        ("trains", f"{_goal(recipe)} ({recipe.stage}): {', '.join(recipe.optimiser.rates)}"),
        ("starts from", _start(job)),
        ("on", ", ".join(data.splits) + f", by {data.unit}"),
        ("held out", "" if data.paper_data else ", ".join(data.held_out)),
        ("rewards", ", ".join(f"{r.weight:g} {r.label}" for r in recipe.grpo.rewards) if recipe.grpo else ""),
        ("evaluates on", f"{evaluation.split}, {evaluation.samples} samples" if evaluation is not None else ""),
        ("result", f"{job.folder}/final, the model {recipe.model_name or recipe.name}"),
    ]


def _goal(recipe: TrainRecipe) -> str:
    """What a stage teaches."""
    if recipe.stage == "sam":
        return "masks of things"
    if recipe.stage == "vision":
        return "names of things"
    if recipe.stage == "grpo":
        return "answers by rewards" + (" and masks" if recipe.mask.weight else "")
    if not recipe.text.weight:
        return "masks after perfect answers"
    return "perfect answers" + (" and masks" if recipe.mask.weight else "")


def _start(job: Job) -> str:
    model = job.recipe.model
    if model.fresh is not None:
        return "nothing: weights are drawn from the seed"
    if model.qwen:
        return f"{model.qwen}, {model.sam}"
    if model.checkpoint:
        return model.checkpoint
    return f"{job.follows}/final" if job.follows is not None else "a LENS checkpoint: --set model.checkpoint=FOLDER"


def _cost(job: Job, data_root: Path) -> list[tuple[str, object]]:
    """The estimate, or why there is none: the recipe can be shown all the same."""
    from lens_bench.train.command import plan_facts

    try:
        return plan_facts(job, data_root)
    except LensBenchError as error:
        return [("steps", f"{job.recipe.optimiser.steps:,}"), ("cost", f"not known: {error.message}")]
