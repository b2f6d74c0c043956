"""A training's folder as a model: its result, or a line that says what is there instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lens_bench.errors import CheckpointError, UsageError
from lens_bench.registry import find_model

CARD = "name: x\ntitle: X\nsummary: S\nadapter: a.py:A\n"


def models(*folders: Path) -> None:
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "model.yaml").write_text(CARD, encoding="utf-8")


def begun(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text("{}", encoding="utf-8")
    return folder


def test_a_trainings_folder_is_its_result(cli: Any, tmp_path: Path) -> None:
    stage = begun(tmp_path / "x")
    models(stage / "checkpoint-00000002", stage / "best", stage / "final")
    for reference in ("x", "./x", f"{stage}:x", "x/final"):
        found = json.loads(cli("show", reference, "--json", cwd=tmp_path).stdout)
        assert found["folder"].endswith("x/final"), reference
    assert "x/best" in cli("show", "x/best", cwd=tmp_path).stdout


def test_a_training_without_a_result_says_which_checkpoints_there_are(cli: Any, tiny: Any, tmp_path: Path) -> None:
    stage = begun(tmp_path / "x")
    with pytest.raises(CheckpointError, match=r"x has no final yet; there is no checkpoint either$") as caught:
        find_model(str(stage))
    assert caught.value.hint == "let it finish"
    models(stage / "checkpoint-00000010", stage / "checkpoint-00000020", stage / "best")
    (stage / ".checkpoint-00000030.part").mkdir()
    result = cli(*tiny.run(stage, tmp_path / "out"))
    assert result.returncode == 5
    (error, hint) = (line for line in result.stderr.splitlines() if line.startswith(("error", "hint")))
    assert error.endswith("x has no final yet; checkpoints: checkpoint-00000010, checkpoint-00000020, best")
    assert hint.endswith("x/best")


def test_a_chains_folder_is_the_result_of_its_last_stage(tmp_path: Path) -> None:
    chain = tmp_path / "all"
    models(begun(chain / "2-b") / "final", begun(chain / "10-c") / "final")
    (chain / "data-20").mkdir()
    # Chains of earlier versions do not say how many stages they have.
    assert find_model(str(chain)).folder == chain / "10-c" / "final"
    (chain / "chain.json").write_text('{"stages": ["2-b", "10-c", "11-d"]}', encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"no final yet \(stage 11-d is not finished\); there is no") as caught:
        find_model(str(chain))
    assert caught.value.hint.endswith("name one of its models: " + str(chain / "10-c" / "final"))
    models(begun(chain / "11-d") / "checkpoint-00000001")
    with pytest.raises(CheckpointError, match=r"\(stage 11-d is not finished\); checkpoints: checkpoint-00000001"):
        find_model(str(chain))
    (chain / "chain.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"chain\.json cannot be read"):
        find_model(str(chain))


def test_a_folder_of_models_that_is_no_training_names_them(tmp_path: Path) -> None:
    models(tmp_path / "y" / "one", tmp_path / "y" / "two")
    with pytest.raises(UsageError, match="y is no model, but holds 2") as caught:
        find_model(str(tmp_path / "y"))
    assert "y/one or " in caught.value.hint
