"""Rewards of the user's own through the command line: no opinion is no 0, and what is wrong is one line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from lens_bench.train.log import read_log

from .commands import command, write_recipe
from .conftest import tiny_recipe

MODULE = """
def sometimes(completion_ids, **kwargs):
    return [None if n == 0 else float(n) for n in range(len(completion_ids))]

def never(completions, **kwargs):
    return [None] * len(completions)

def one(completions, **kwargs):
    return 1.0

def failing(completions, **kwargs):
    raise ZeroDivisionError("division by zero")
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users_rewards.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)


def train(names: Sequence[str], data_root: Path, tmp_path: Path, *settings: str) -> int:
    rewards = [{"name": name} for name in names]
    over = {"optimiser": {"steps": 2}, "batch": {"micro": 4}, "grpo": {"rewards": rewards}}
    recipe = write_recipe(tiny_recipe("grpo", over), tmp_path / "recipe.yaml")
    return command(recipe, tmp_path / "out", data_root, *settings)


def test_what_is_not_scored_is_left_out_of_the_means(data_root: Path, tmp_path: Path) -> None:
    names = ["users_rewards.sometimes", "users_rewards.never"]
    assert train(names, data_root, tmp_path) == 0
    for line in read_log(tmp_path / "out" / "train_log.jsonl"):
        # Sixteen completions, of which the first has no score; a 0 for it would give 7.5.
        assert line["reward/users_rewards.sometimes"] == line["reward/total"] == 8.0
        assert line["rate/unscored"] == 1 / 16
        assert "reward/users_rewards.never" not in line
        # Of 1, 2, 3 and of four numbers in a row each.
        assert line["reward/std_in_group"] == pytest.approx((1 + 3 * (5 / 3) ** 0.5) / 4)


def test_a_step_in_which_nothing_was_scored_logs_nothing_and_is_flat(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(["users_rewards.never"], data_root, tmp_path, "stop.flat=2") == 1
    assert "nothing to learn from" in " ".join(capsys.readouterr().err.split())
    lines = [json.loads(line) for line in (tmp_path / "out" / "train_log.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and not any(key.startswith("reward/") for line in lines for key in line)
    assert all(line["rate/flat_groups"] == line["rate/unscored"] == 1.0 for line in lines)


@pytest.mark.parametrize(
    ("name", "what"), [("one", "returned 1.0 (float)"), ("failing", "raised ZeroDivisionError: division by zero")]
)
def test_what_is_wrong_is_one_line(
    name: str, what: str, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train([f"users_rewards.{name}"], data_root, tmp_path) == 1
    said = capsys.readouterr().err
    assert f"reward users_rewards.{name} {what}" in " ".join(said.split()) and "Traceback" not in said
