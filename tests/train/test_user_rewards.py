"""Rewards of the user's own through the command line: no opinion is no 0, and what is wrong is one line."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from lens_bench.train.log import read_log
from lens_bench.trained import BEGUN

from .commands import command, write_recipe
from .conftest import TINY, tiny_recipe

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


# ---------------------------------------------------------------------------------------------- from a file

FILE = """
from .scale import most

def brief(completion_ids, **kwargs):
    return [most / (1 + len(ids)) for ids in completion_ids]

calls = []

def late(completions, **kwargs):
    calls.append(0)
    return [1 / (2 - len(calls))] * len(completions)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recipe's folder with a file of rewards and a neighbour that it imports."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "rewards.py").write_text(FILE, encoding="utf-8")
    (folder / "scale.py").write_text("most = 2.0\n", encoding="utf-8")
    return folder


def recipe_in(folder: Path, reward: str, name: str = "recipe.yaml") -> Path:
    over = {"optimiser": {"steps": 1}, "batch": {"micro": 4}, "grpo": {"rewards": [{"name": "box"}]}}
    recipe = write_recipe(tiny_recipe("grpo", over), folder / name)
    fields = yaml.safe_load(recipe.read_text())
    fields["grpo"]["rewards"] = [{"name": "format"}, {"name": reward}]
    recipe.write_text(yaml.safe_dump(fields), encoding="utf-8")
    return recipe


def test_a_file_beside_the_recipe(
    folder: Path, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe_in(folder, "rewards.py:brief")
    monkeypatch.chdir(tmp_path)
    assert command(Path("mine/recipe.yaml"), Path("out"), data_root) == 0
    (line,) = read_log(tmp_path / "out" / "train_log.jsonl")
    assert 0 < float(str(line["reward/rewards.py:brief"])) <= 1
    # Moved, named from elsewhere, with a comment more: the same training.
    shutil.move(folder, tmp_path / "moved")
    with (tmp_path / "moved" / "rewards.py").open("a") as file:
        file.write("# a comment\n")
    monkeypatch.chdir(tmp_path / "moved")
    assert command(Path("recipe.yaml"), tmp_path / "out", data_root, "optimiser.steps=1") == 0
    begun = json.loads((tmp_path / "out" / BEGUN).read_text())
    assert list(begun["rewards"]) == ["1 rewards.py:brief"] and len(begun["rewards"]["1 rewards.py:brief"]) == 64


def test_a_recipe_that_is_based_on_it_and_a_setting(
    folder: Path, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe_in(folder, "rewards.py:brief")
    (tmp_path / "derived.yaml").write_text("base: mine/recipe.yaml\nname: derived\n")
    assert command(tmp_path / "derived.yaml", tmp_path / "out", data_root) == 0
    assert "reward/rewards.py:brief" in read_log(tmp_path / "out" / "train_log.jsonl")[0]
    # A setting is of the command line: relative to where that is.
    monkeypatch.chdir(folder)
    setting = "grpo.rewards=[{name: 'rewards.py:brief'}]"
    assert command(tmp_path / "derived.yaml", tmp_path / "set", data_root, setting) == 0
    assert read_log(tmp_path / "set" / "train_log.jsonl")[0].keys() >= {"reward/rewards.py:brief"}


@pytest.mark.parametrize("dry", [True, False])
@pytest.mark.parametrize(
    ("reward", "said"),
    [
        ("absent.py:brief", "reward absent.py:brief: there is no file"),
        ("rewards.py:breif", "reward rewards.py:breif is not in"),
        ("rewards.py:most", "reward rewards.py:most is not a function"),
        ("torn.py:brief", "reward torn.py:brief cannot be imported: SyntaxError"),
        ("loud.py:brief", "reward loud.py:brief cannot be imported: NameError: name 'nothing' is not defined"),
        ("narrow.py:brief", "reward narrow.py:brief does not take what rewards are told"),
        ("no_such_package.brief", "reward no_such_package.brief cannot be imported: ModuleNotFoundError"),
    ],
)
def test_what_is_wrong_is_said_before_data_are_made(
    reward: str, said: str, dry: bool, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "torn.py").write_text("def brief(:\n")
    (folder / "loud.py").write_text("nothing\n")
    (folder / "narrow.py").write_text("def brief(completions):\n    return completions\n")
    chain = folder / "chain.yaml"
    first = write_recipe(tiny_recipe("supervised"), folder / "first.yaml").name
    second = {"recipe": recipe_in(folder, reward).name, "set": {"model": {"like": TINY}}}
    chain.write_text(yaml.safe_dump({"name": "both", "chain": [{"recipe": first}, second]}), encoding="utf-8")
    (tmp_path / "data").mkdir()
    options = ["--dry-run"] if dry else []
    assert command(chain, tmp_path / "out", tmp_path / "data", options=options) == 2
    text = capsys.readouterr().err
    assert said in " ".join(text.split()) and "Traceback" not in text
    assert not list((tmp_path / "data").iterdir()) and not (tmp_path / "out").exists()


def test_a_mistake_in_a_file_can_be_put_right(
    folder: Path, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_in(folder, "rewards.py:late")
    settings = ["optimiser.steps=2", "saving.every=1"]
    assert command(recipe, tmp_path / "out", data_root, *settings) == 1
    assert "reward rewards.py:late raised ZeroDivisionError" in " ".join(capsys.readouterr().err.split())
    wrong = json.loads((tmp_path / "out" / BEGUN).read_text())["rewards"]
    text = (folder / "rewards.py").read_text()
    (folder / "rewards.py").write_text(text.replace("1 / (2 - len(calls))", "1.0"))
    for name in [name for name in sys.modules if name.startswith("lens_bench_plugin_")]:
        del sys.modules[name]  # as in a new process
    assert command(recipe, tmp_path / "out", data_root, *settings) == 0
    begun = json.loads((tmp_path / "out" / BEGUN).read_text())
    (change,) = begun["changes"]
    key = "rewards.1 rewards.py:late"
    assert change == {"step": 1, "settings": {key: {"from": wrong[key[8:]], "to": begun["rewards"][key[8:]]}}}
    assert wrong != begun["rewards"]


def test_a_chain_sets_a_file_of_its_own(folder: Path, data_root: Path, tmp_path: Path) -> None:
    recipe_in(folder, "format")
    chain = tmp_path / "chain.yaml"
    rewards = [{"name": "mine/rewards.py:brief"}]
    links = [{"recipe": "mine/recipe.yaml", "set": {"grpo.rewards": rewards, "model.fresh": TINY}}]
    chain.write_text(yaml.safe_dump({"name": "chain", "chain": links}), encoding="utf-8")
    assert command(chain, tmp_path / "out", data_root) == 0
    assert "reward/rewards.py:brief" in read_log(tmp_path / "out" / "1-tiny-grpo" / "train_log.jsonl")[0]


def test_the_example_of_the_documentation(data_root: Path, tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    section = text[text.index("## Rewards of one's own") :]
    recipe, code = (re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)[0] for language in ("yaml", "python"))
    (tmp_path / "brief.yaml").write_text(recipe, encoding="utf-8")
    (tmp_path / "rewards.py").write_text(code, encoding="utf-8")
    small = ["optimiser.steps=1", "optimiser.warmup=0", "batch.units=4", "batch.micro=4", "grpo.num_generations=2"]
    small += ["data.part=[0, 1]", "data.held_out=[shapes/val]", "evaluation=null", "runtime.threads=1"]
    small += [f"model.fresh={json.dumps(TINY)}", "model.like=null"]
    assert command(tmp_path / "brief.yaml", tmp_path / "out", data_root, *small) == 0
    (line,) = read_log(tmp_path / "out" / "train_log.jsonl")
    assert 0 < float(str(line["reward/rewards.py:brief"])) < 1
