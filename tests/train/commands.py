"""``lens-bench train`` as a user calls it: the command's options, a recipe in a file, an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from lens_bench.cli.app import app
from lens_bench.train.config import TrainRecipe


def write_recipe(recipe: TrainRecipe, path: Path) -> Path:
    """A recipe as a file."""
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json", exclude_defaults=True)), encoding="utf-8")
    return path


def command(recipe: Path, out: Path, data_root: Path, *settings: str, options: Sequence[str] = ()) -> int:
    """Run the command in this process; returns its exit code."""
    arguments = ["train", str(recipe), "--out", str(out), "--data-root", str(data_root), *options]
    for setting in settings:
        arguments += ["--set", setting]
    try:
        app(arguments, prog_name="lens-bench")
    except SystemExit as stop:
        return int(stop.code or 0)
    raise AssertionError("the command did not end")


def main() -> None:
    """The same in a process of its own: recipe, folder, data root, settings."""
    recipe, out, data_root, *settings = sys.argv[1:]
    sys.exit(command(Path(recipe), Path(out), Path(data_root), *settings))
