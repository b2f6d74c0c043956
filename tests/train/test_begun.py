"""What a stage was begun with: nothing else goes on with it, and nothing else is thrown away."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lens_bench.data.shapes.make import make
from lens_bench.errors import CheckpointError, UsageError
from lens_bench.train.begun import clear
from lens_bench.train.config import TrainRecipe
from lens_bench.train.loop import Where, train
from lens_bench.trained import checkpoints

from .conftest import RATES, Run, Watcher, tiny_recipe


def decoder_from(start: Path, steps: int = 3) -> dict[str, object]:
    """Settings under which the mask decoder alone learns, from a checkpoint."""
    rates = {name: None for name in RATES["supervised"] if name != "sam_decoder"}
    return {
        "model": {"fresh": None, "checkpoint": str(start)},
        "optimiser": {"rates": rates, "steps": steps},
        "text": {"weight": 0},
        "saving": {"every": 1},
    }


Anew = Callable[[TrainRecipe], Path]


@pytest.fixture
def anew(data_root: Path, tmp_path: Path) -> Anew:
    """Train with ``--fresh``."""
    return lambda recipe: train(recipe, Where(tmp_path / "out", data_root, fresh=True), Watcher())


def test_fresh_throws_away_trainings_alone(anew: Anew, tmp_path: Path) -> None:
    (tmp_path / "out" / "sub").mkdir(parents=True)
    (tmp_path / "out" / "sub" / "precious").write_text("kept")
    with pytest.raises(UsageError, match=r"is no folder of a training: it holds sub") as caught:
        anew(tiny_recipe("supervised"))
    assert "--out" in caught.value.hint
    assert (tmp_path / "out" / "sub" / "precious").read_text() == "kept"


def test_fresh_keeps_a_result_until_nothing_can_refuse(run: Run, anew: Anew, tmp_path: Path) -> None:
    result, _ = run(tiny_recipe("supervised"))
    (tmp_path / "out" / "notes.md").write_text("mine")
    weights = (result / "model.safetensors").read_bytes()
    lost = {"model": {"fresh": None, "checkpoint": str(tmp_path / "nowhere")}}
    with pytest.raises(CheckpointError):
        anew(tiny_recipe("supervised", lost))
    with pytest.raises(UsageError, match=r"larger than the data"):
        anew(tiny_recipe("supervised", {"batch": {"units": 1000}}))
    assert (result / "model.safetensors").read_bytes() == weights
    assert run(tiny_recipe("supervised"))[1].steps == []
    anew(tiny_recipe("supervised", {"seed": 1}))
    assert (result / "model.safetensors").read_bytes() != weights
    assert (tmp_path / "out" / "notes.md").read_text() == "mine"


def test_all_that_a_training_writes_is_known(run: Run) -> None:
    recipe = tiny_recipe(
        "grpo",
        {
            "data": {"curriculum": {"measure": 4}},
            "evaluation": {"split": "shapes/val", "every": 1, "samples": 2, "overlays": 1},
            "saving": {"every": 1},
            "runtime": {"report_to": ["tensorboard"]},
        },
    )
    folder = run(recipe)[0].parent
    assert len([path for path in folder.iterdir() if path.name != ".lock"]) >= 6
    clear(folder)
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_an_attempt_that_was_refused_is_no_beginning(run: Run) -> None:
    with pytest.raises(UsageError, match="larger than the data"):
        run(tiny_recipe("supervised", {"batch": {"units": 1000}}))
    with pytest.raises(UsageError, match="cannot be imported"):
        run(tiny_recipe("grpo", {"grpo": {"rewards": [{"name": "no.such.reward"}]}}))
    run(tiny_recipe("supervised"))


def test_other_weights_at_the_same_place_are_refused(run: Run, tmp_path: Path) -> None:
    start, _ = run(tiny_recipe("supervised"), "start")
    recipe = tiny_recipe("supervised", decoder_from(start))
    folder, _ = run(recipe, kill_at=2)
    assert checkpoints(folder)
    shutil.rmtree(start.parent)
    run(tiny_recipe("supervised", {"seed": 5}), "start")
    with pytest.raises(UsageError, match=r"another start \(the weights it starts from\)"):
        run(recipe)
    shutil.rmtree(start.parent)
    run(tiny_recipe("supervised"), "start")
    result, seen = run(recipe)
    assert seen.begun == 1
    shutil.rmtree(start.parent)
    run(tiny_recipe("supervised", {"seed": 5}), "start")
    with pytest.raises(UsageError, match="another start"):  # a finished stage does not pass for what follows from it
        run(recipe)
    shutil.rmtree(start.parent)
    assert run(recipe)[0] == result  # what is not there any more cannot differ


def test_the_same_weights_may_move(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, _ = run(tiny_recipe("supervised"), "start")
    run(tiny_recipe("supervised", decoder_from(start)), kill_at=2)
    shutil.copytree(start.parent, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    _, seen = run(tiny_recipe("supervised", decoder_from(Path("moved/final"))))
    assert seen.begun == 1


def test_where_the_start_was_not_written_down_its_place_is_compared(run: Run, tmp_path: Path) -> None:
    start, _ = run(tiny_recipe("supervised"), "start")
    folder, _ = run(tiny_recipe("supervised", decoder_from(start)), kill_at=1)
    path = folder / "recipe.json"
    begun = json.loads(path.read_text())
    del begun["start"]
    path.write_text(json.dumps(begun))
    shutil.copytree(start.parent, tmp_path / "moved")
    with pytest.raises(UsageError, match=r"recipe\.model\.checkpoint"):
        run(tiny_recipe("supervised", decoder_from(tmp_path / "moved" / "final")))


@pytest.mark.parametrize("content", ["{", "[]", '{"name": "a recipe of something else"}'])
def test_a_foreign_file_is_named(content: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "recipe.json").write_text(content)
    with pytest.raises(UsageError, match=r"recipe\.json is not what a training wrote"):
        run(tiny_recipe("supervised"))


def test_data_is_put_in_place_under_the_lock(tmp_path: Path) -> None:
    """By the first of several processes, before any of them looks for it."""

    def prepare() -> None:
        assert (tmp_path / "out" / ".lock").exists()
        make("shapes", "train", tmp_path / "data", workers=1, images=12)
        make("shapes", "val", tmp_path / "data", workers=1, images=6)

    recipe = tiny_recipe("supervised", {"optimiser": {"steps": 1}})
    assert train(recipe, Where(tmp_path / "out", tmp_path / "data"), Watcher(), prepare).is_dir()


@pytest.mark.parametrize("asked", [False, True])
def test_a_training_that_was_begun_with_runtime_tensorboard_goes_on(asked: bool, run: Run) -> None:
    """``report_to`` took its place."""
    recipe = tiny_recipe("supervised", {"saving": {"every": 1}})
    place, _ = run(recipe, kill_at=3)
    path = place / "recipe.json"
    content = json.loads(path.read_text())
    del content["recipe"]["runtime"]["report_to"]
    content["recipe"]["runtime"]["tensorboard"] = asked
    path.write_text(json.dumps(content))
    assert run(recipe)[1].begun == 2
    content["recipe"]["seed"] = 5
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"another recipe\.seed"):
        run(recipe)
