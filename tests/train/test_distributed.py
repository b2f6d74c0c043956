"""Two ranks (gloo) train what one does, however the model lies on them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from lens_bench.lock import FolderLock
from lens_bench.picture import OpenModel
from lens_bench.train.config import TrainRecipe
from lens_bench.train.log import read_log

from .conftest import Run, tiny_recipe
from .launching import FSDP, PLAIN, launch
from .test_training import BF16_NOISE, close, numbers, weights

EVALUATED = {"evaluation": {"split": "shapes/val", "every": 2, "samples": 5}}
STEPS = {"optimiser": {"steps": 2}}


def stages(**over: object) -> dict[str, TrainRecipe]:
    """Supervised learning in several micro batches, and stage 2 with a reference; both evaluated."""
    return {
        "supervised": tiny_recipe("supervised", {**EVALUATED, **STEPS, "batch": {"micro": 1}, **over}),
        "grpo": tiny_recipe("grpo", {**EVALUATED, **STEPS, "grpo": {"loss_type": "dapo"}, **over}),
    }


def require_alike(alone: Path, two: Path, rel: float = 2e-3) -> None:
    """Logs agree to rounding, and so do weights."""
    logs = [numbers(read_log(folder.parent / "train_log.jsonl")) for folder in (alone, two)]
    assert len(logs[0]) == len(logs[1]) == 2
    for one, other in zip(*logs, strict=True):
        close(one, other, rel)  # type: ignore[arg-type]
    ours, theirs = weights(alone), weights(two)
    assert ours.keys() == theirs.keys()
    # Adam's first steps are of the size of the learning rate wherever a gradient is rounding noise.
    assert all(float((ours[n] - theirs[n]).abs().max()) < 5e-3 for n in ours)


@pytest.mark.slow
def test_two_ranks_train_what_one_does(run: Run, data_root: Path, tmp_path: Path) -> None:
    recipes = {**stages(), "sam": tiny_recipe("sam", STEPS), "vision": tiny_recipe("vision", STEPS)}
    launch(recipes, tmp_path / "two", data_root)
    for name, recipe in recipes.items():
        require_alike(run(recipe, f"one-{name}")[0], tmp_path / "two" / name / "final")


def test_what_the_first_rank_refuses_all_ranks_refuse(data_root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two" / "supervised"
    with FolderLock(folder, folder / ".lock"):
        first, second = launch({"supervised": tiny_recipe("supervised")}, tmp_path / "two", data_root)
    assert first.startswith(f"UsageError: {folder} is in use by process")
    assert second.startswith(f"UsageError: the first process refused: {folder} is in use by process")
    assert "--out" in first and "--out" in second


# ---------------------------------------------------------------------------------------------- weights in parts


def test_a_model_in_parts_trains_what_a_whole_one_does(run: Run, data_root: Path, tmp_path: Path) -> None:
    """Answers differ in length, so ranks decode different numbers of tokens, in rollouts and in evaluation."""
    recipes = stages()
    launch(recipes, tmp_path / "two", data_root, FSDP)
    for name, recipe in recipes.items():
        require_alike(run(recipe, f"one-{name}")[0], tmp_path / "two" / name / "final")
    with OpenModel(str(tmp_path / "two" / "grpo" / "final")) as model:
        (found,) = model.ask(np.zeros((64, 80, 3), np.uint8), ["the red circle"])
    assert found.status == "ok" and found.mask is not None


def test_a_model_in_parts_trains_in_half_precision(run: Run, data_root: Path, tmp_path: Path) -> None:
    """Supervised learning is compared. Sampled answers are not: in bfloat16 their tokens depend on the processor.

    The shape of a batch and the processor choose the kernel, and with it the rounding of the probabilities that a
    token is drawn from. One token drawn differently changes every later figure of that answer.
    """
    half = {"runtime": {"precision": "bf16", "gradient_checkpointing": True, "cache_gb": 1}}
    recipes = {stage: tiny_recipe(stage, {**STEPS, **half}) for stage in ("supervised", "grpo")}
    launch(recipes, tmp_path / "two", data_root, FSDP)
    alone = run(recipes["supervised"], "one-supervised")[0]
    require_alike(alone, tmp_path / "two" / "supervised" / "final", rel=torch.finfo(torch.bfloat16).eps)
    first, second = read_log(tmp_path / "two" / "grpo" / "train_log.jsonl")
    assert first["kl"] == 0.0
    for step in (first, second):
        assert np.isfinite(step["loss"]) and step["sampler_difference"] < BF16_NOISE


@pytest.mark.slow
@pytest.mark.parametrize("config", [PLAIN, FSDP], ids=["plain", "fsdp"])
def test_two_ranks_redraw_what_one_does(config: Mapping[str, str], run: Run, data_root: Path, tmp_path: Path) -> None:
    """Only boxes are rewarded, and an untrained model hardly names one: most groups are flat."""
    over = {**STEPS, "grpo": {"redraws": 2, "rewards": [{"name": "box"}]}}
    recipe = tiny_recipe("grpo", over)
    alone, seen = run(recipe, "one")
    assert all(step["rate/redrawn"] > 0 for step in seen.steps)
    launch({"grpo": recipe}, tmp_path / "two", data_root, config)
    require_alike(alone, tmp_path / "two" / "grpo" / "final")


@pytest.mark.slow
def test_two_ranks_have_the_history_of_one(run: Run, data_root: Path, tmp_path: Path) -> None:
    """Quantiles of rewards that do not hang on rounding: a sum over tokens, and whether a box is named."""
    (tmp_path / "rewards.py").write_text(
        "def mixed(completion_ids, **kwargs):\n    return [sum(i) for i in completion_ids]\n"
    )
    rewards = [{"name": f"{tmp_path}/rewards.py:mixed", "quantile": 2}, {"name": "format", "quantile": 1}]
    recipe = tiny_recipe("grpo", {**STEPS, "grpo": {"rewards": rewards}})
    alone, seen = run(recipe, "one")
    assert seen.steps[-1]["rate/flat_groups"] < 1
    launch({"grpo": recipe}, tmp_path / "two", data_root, PLAIN)
    require_alike(alone, tmp_path / "two" / "grpo" / "final")
