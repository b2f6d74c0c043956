"""Trainings of two ranks (gloo) that are killed and go on, and adapters and DeepSpeed beside the plain model."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from lens_bench.train.log import read_log

from .conftest import Run, tiny_recipe
from .launching import FSDP, ZERO, launch
from .test_distributed import require_alike, stages
from .test_training import close, numbers, same


@pytest.mark.slow
def test_a_model_in_parts_is_resumed_and_may_go_on_whole(run: Run, data_root: Path, tmp_path: Path) -> None:
    """Killed and resumed is uninterrupted, bit for bit; and one process may take over from two."""
    recipe = tiny_recipe("grpo", {"optimiser": {"steps": 4}, "saving": {"every": 2}})
    launch({"grpo": recipe}, tmp_path / "whole", data_root, FSDP)
    launch({"grpo": recipe}, tmp_path / "parts", data_root, FSDP, kill_at=3)
    whole, parts, alone = tmp_path / "whole" / "grpo", tmp_path / "parts" / "grpo", tmp_path / "alone"
    assert not (parts / "final").exists()
    shutil.copytree(parts, alone)
    launch({"grpo": recipe}, tmp_path / "parts", data_root, FSDP)
    assert same(whole / "final", parts / "final")
    logs = [numbers(read_log(folder / "train_log.jsonl")) for folder in (whole, parts)]
    assert logs[0] == logs[1] and len(logs[0]) == 4
    _, rest = run(recipe, "alone")
    assert rest.begun == 2
    for one, other in zip(numbers(read_log(alone / "train_log.jsonl")), logs[0], strict=True):
        close(one, other)  # type: ignore[arg-type]


@pytest.mark.slow
def test_adapters_in_parts(run: Run, data_root: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="adapters need peft")
    over = {"lora": {"rank": 4, "alpha": 8}, "optimiser": {"steps": 2, "rates": {"embeddings": None}}}
    recipe = tiny_recipe("grpo", {**over, "saving": {"every": 1}})
    launch({"lora": recipe}, tmp_path / "two", data_root, FSDP)
    require_alike(run(recipe, "one")[0], tmp_path / "two" / "lora" / "final")
    assert read_log(tmp_path / "two" / "lora" / "train_log.jsonl")[0]["kl"] == 0.0


# ---------------------------------------------------------------------------------------------- DeepSpeed


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
def test_zero_trains_what_plain_devices_do(stage: int, run: Run, data_root: Path, tmp_path: Path) -> None:
    environment = {**ZERO, "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage)}
    recipes = stages(saving={"every": 1})
    launch(recipes, tmp_path / "whole", data_root, environment)
    for name, recipe in recipes.items():
        require_alike(run(recipe, f"one-{name}")[0], tmp_path / "whole" / name / "final")
    launch({"grpo": recipes["grpo"]}, tmp_path / "parts", data_root, environment, kill_at=2)
    launch({"grpo": recipes["grpo"]}, tmp_path / "parts", data_root, environment)
    whole, parts = (tmp_path / name / "grpo" for name in ("whole", "parts"))
    assert same(whole / "final", parts / "final")
    assert numbers(read_log(whole / "train_log.jsonl")) == numbers(read_log(parts / "train_log.jsonl"))
