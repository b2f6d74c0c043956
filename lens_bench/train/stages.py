"""What differs between the stages: what is learned, and what is looked at now and then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from lens_bench.train.config import Grpo
from lens_bench.train.data import Check, open_data, open_items
from lens_bench.train.evaluate import evaluate, held_out_loss
from lens_bench.train.lengths import require_lengths
from lens_bench.train.policy import Policy
from lens_bench.train.pretrain import FromBoxes, FromThings
from lens_bench.train.rollout import HfSampler, Sampler
from lens_bench.train.supervised import Supervised
from lens_bench.train.vllm_sampler import VllmSampler
from lens_bench.train.workshop import Objective, Workshop


def make_objective(shop: Workshop) -> Objective:
    """What a stage does."""
    recipe = shop.recipe
    if recipe.stage == "sam":
        return FromBoxes(shop)
    if recipe.stage == "vision":
        return FromThings(shop)
    if recipe.grpo is None:
        return Supervised(shop)
    return Policy(shop, recipe.grpo, make_sampler(shop, recipe.grpo))


def make_sampler(shop: Workshop, config: Grpo) -> Sampler:
    """Where rollouts come from."""
    if config.rollouts == "hf":
        return HfSampler(shop.lens, shop.prompter, config.temperature, config.max_completion_length)
    return VllmSampler(
        shop.lens,
        shop.tokenizer,
        shop.prompter,
        config.temperature,
        config.max_completion_length,
        torch.bfloat16 if shop.recipe.runtime.precision == "bf16" else shop.lens.text_dtype,
        config.vllm_share,
        config.vllm_sleep,
    )


@dataclass(frozen=True, slots=True)
class Evaluator:
    """What looks at the evaluation split.

    Attributes:
        look: Evaluates after a step; fractions by name.
        count: Expressions that it asks about, or units of a stage before the language model.
        every: Steps from one evaluation to the next.
    """

    look: Callable[[int], dict[str, float]]
    count: int
    every: int


def make_evaluator(
    shop: Workshop, data_root: Path, out: Path, check: Check, note: Callable[[str], object]
) -> Evaluator | None:
    """What looks at the evaluation split after a step; None where the recipe wants none.

    Args:
        shop: Of the stage.
        data_root: Where suites lie.
        out: Folder of the stage, for overlays.
        check: Finds the expressions of the split that cannot be used, which are left out.
        note: Is told what to know of the split.

    Raises:
        UsageError: Prompts of the split leave no room for answers.
    """
    recipe, config = shop.recipe, shop.recipe.evaluation
    if config is None:
        return None
    if recipe.stage in ("sam", "vision"):
        kind: Callable[[Workshop], Objective] = FromBoxes if recipe.stage == "sam" else FromThings
        settings = recipe.data.model_copy(
            update={"splits": (config.split,), "held_out": (), "paper_data": True, "part": (0.0, 1.0)}
        )
        data = open_data(settings, data_root, with_things=True, check=check)
        count = min(config.samples, len(data.units))
        return Evaluator(lambda step: held_out_loss(shop, kind, data, config), count, config.every)
    items = open_items(config.split, data_root, check)
    require_lengths(config.split, items, recipe, shop.prompter, shop.album.patching, note)
    count = min(config.samples, len(items))
    return Evaluator(lambda step: evaluate(shop, items, config, step, out), count, config.every)
