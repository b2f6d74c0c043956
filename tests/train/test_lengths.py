"""Prompts that leave no room for answers are named before the first step, and refused answers in every evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lens_bench.cli.app import app
from lens_bench.errors import UsageError
from lens_bench.registry import find_model
from lens_bench.train.loop import Where, train

from .conftest import Watcher, tiny_recipe
from .own_set import write_own_set

OWN = {"splits": ["coco-json/train"], "held_out": [], "unit": "expression"}
# The tiny model sees 112x112 pixels, one token for 14x14.
IMAGE = 64


def own_recipe(limit: int, **over: object) -> dict[str, object]:
    """A supervised recipe on a person's own images, with a limit of prompt and answer together."""
    prompt = {"max_length": limit, "max_new_tokens": None}
    return {"data": OWN, "optimiser": {"steps": 2}, "model": {"prompt": prompt}, **over}


def test_a_recipe_whose_result_would_refuse_its_images_is_refused(tmp_path: Path) -> None:
    write_own_set(tmp_path / "data", "train", 6)
    with pytest.raises(UsageError, match=r"training data: 6 of 6 images .* leave no room for an answer") as caught:
        train(tiny_recipe("supervised", own_recipe(IMAGE)), Where(tmp_path / "out", tmp_path / "data"), Watcher())
    assert "model.prompt.max_length=" in caught.value.hint
    assert not (tmp_path / "out" / "recipe.json").exists()


def test_answers_that_may_not_fit_are_warned_of(tmp_path: Path) -> None:
    write_own_set(tmp_path / "data", "train", 6)
    grpo = tiny_recipe("grpo", own_recipe(IMAGE + 14, grpo={"max_completion_length": 12}, optimiser={"steps": 1}))
    watcher = Watcher()
    train(grpo, Where(tmp_path / "out", tmp_path / "data"), watcher)
    (warning,) = (note for note in watcher.notes if note.startswith("training data"))
    assert "6 of 6 images" in warning and "12 tokens (grpo.max_completion_length)" in warning


def test_the_command_line_says_what_to_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_own_set(tmp_path / "data", "train", 6)
    path = tmp_path / "own.yaml"
    fields = tiny_recipe("supervised", own_recipe(IMAGE)).model_dump(mode="json", exclude_defaults=True)
    path.write_text(yaml.safe_dump(fields), encoding="utf-8")
    command = ["train", str(path), "--out", str(tmp_path / "out"), "--data-root", str(tmp_path / "data")]
    app(command, standalone_mode=False)
    needed = int(capsys.readouterr().err.split("model.prompt.max_length=")[1].split(",")[0])
    app([*command, "--set", f"model.prompt.max_length={needed}"], standalone_mode=False)
    card = find_model(str(tmp_path / "out" / "final"))
    # The result can be told another limit, and how to size images.
    assert card.args["max_length"].default == needed
    assert {"sizing", "max_pixels", "longest_side", "sam_resize", "question", "coordinates"} <= card.args.keys()
