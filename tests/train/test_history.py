"""Rewards as quantiles of a history, and rewards for saying that nothing is meant."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from lens_bench.errors import UsageError
from lens_bench.train.checkpoint import checkpoints
from lens_bench.train.config import DataConfig
from lens_bench.train.data import open_data
from lens_bench.train.durable import seal
from lens_bench.train.history import History
from lens_bench.train.log import read_log
from lens_bench.train.loop import Where, train
from lens_bench.train.rewards import target_reward

from .conftest import Run, Watcher, tiny_recipe
from .own_set import write_own_set
from .test_training import numbers, same

QUANTILES = {"grpo": {"rewards": [{"name": "box", "power": 1, "quantile": 2}, {"name": "mask", "quantile": 3}]}}


def test_a_quantile_is_the_mean_of_two_written_out_shares() -> None:
    """Of the values below, and of those not above; NaN is no value and stays one."""
    random = np.random.default_rng(0)
    history, accelerator = History({"box": 2}), Accelerator(cpu=True)
    steps = [random.integers(0, 5, 40) / 4.0 for _ in range(4)]
    for number, step in enumerate(steps):
        known = np.concatenate(steps[max(0, number - 2) : number]) if number else np.empty(0)
        found = history.ranked({"box": [*step, math.nan], "mask": [0.3]})
        wanted = [((known < v).mean() + (known <= v).mean()) / 2 if number else 0.5 for v in step]
        np.testing.assert_allclose(found["box"][:-1], wanted, rtol=0, atol=1e-12)
        assert math.isnan(found["box"][-1]) and found["mask"] == [0.3]
        for part in (step[:10], step[10:]):  # micro batches
            history.add({"box": [*part, math.nan], "mask": [0.3]})
        history.finish(accelerator)
    again = History({"box": 2})
    again.restore(history.state())
    assert again.ranked({"box": [0.5]}) == history.ranked({"box": [0.5]})


def test_quantiles_by_hand() -> None:
    history = History({"box": 1})
    history.add({"box": [0.0, 0.5, 0.5, 1.0]})
    history.finish(Accelerator(cpu=True))
    assert history.ranked({"box": [-1.0, 0.0, 0.5, 0.7, 1.0, 2.0]}) == {"box": [0.0, 0.125, 0.5, 0.75, 0.875, 1.0]}


def test_killed_and_resumed_has_the_same_history(run: Run) -> None:
    recipe = tiny_recipe("grpo", {**QUANTILES, "optimiser": {"steps": 4}, "saving": {"every": 1}})
    whole, _ = run(recipe, "whole")
    run(recipe, "parts", kill_at=3)
    parts, rest = run(recipe, "parts")
    assert rest.begun == 2
    assert same(whole, parts)
    logs = [numbers(read_log(folder.parent / "train_log.jsonl")) for folder in (whole, parts)]
    assert logs[0] == logs[1]
    assert logs[0][0]["rate/flat_groups"] == 1.0  # nothing is known in the first step


def test_a_history_belongs_to_the_result(run: Run) -> None:
    run(tiny_recipe("grpo", {**QUANTILES, "saving": {"every": 1}}), kill_at=3)
    with pytest.raises(UsageError, match=r"grpo\.rewards"):
        run(tiny_recipe("grpo", {"saving": {"every": 1}}))


def test_a_checkpoint_from_before_histories_is_resumed(run: Run) -> None:
    recipe = tiny_recipe("grpo", {"optimiser": {"steps": 4}, "saving": {"every": 2}})
    whole, _ = run(recipe, "whole")
    root, _ = run(recipe, "parts", kill_at=3)
    (saved,) = checkpoints(root)
    state = torch.load(saved / "trainer_state.pt", weights_only=True)
    del state["rewards"]
    torch.save(state, saved / "trainer_state.pt")
    (saved / "digests.json").unlink()
    seal(saved, 2)
    parts, rest = run(recipe, "parts")
    assert rest.begun == 2 and same(whole, parts)


# ---------------------------------------------------------------------------------------------- nothing is meant


def test_the_reward_for_a_target_by_hand() -> None:
    box = (1.0, 2.0, 3.0, 4.0)
    assert [target_reward(*pair) for pair in ((box, box), (None, None), (box, None), (None, box))] == [1, 1, 0, 0]


def test_expressions_that_mean_nothing_are_trained_on_where_asked(tmp_path: Path) -> None:
    folder = write_own_set(tmp_path / "data", "train", 4)
    listed = json.loads((folder / "expressions.json").read_text())
    nothing = [{"expression": f"the dragon {i}", "ann_ids": [], "image_id": i} for i in range(4)]
    (folder / "expressions.json").write_text(json.dumps([*listed, *nothing]))
    usual = {"splits": ["coco-json/train"], "held_out": [], "unit": "expression"}
    counted = [
        len(open_data(DataConfig.model_validate({**usual, "no_target": on}), tmp_path / "data").units)
        for on in (False, True)
    ]
    assert counted == [4, 8]
    recipe = tiny_recipe(
        "grpo",
        {
            "data": {**usual, "no_target": True},
            "batch": {"units": 8, "micro": 4},
            "optimiser": {"steps": 1},
            "grpo": {"max_completion_length": 3, "rewards": [{"name": "target"}, {"name": "box"}, {"name": "mask"}]},
        },
    )
    train(recipe, Where(tmp_path / "out", tmp_path / "data"), Watcher())
    (line,) = read_log(tmp_path / "out" / "train_log.jsonl")
    # A model that has learned nothing names no box in three tokens: right for the four of eight that mean nothing.
    assert line["reward/target"] == line["reward/box"] == line["rate/box_right"] == 0.5
    assert not checkpoints(tmp_path / "out")


def test_no_perfect_answer_says_that_nothing_is_meant() -> None:
    with pytest.raises(UsageError, match=r"data\.no_target belongs to stage grpo"):
        tiny_recipe("supervised", {"data": {"no_target": True}})
