"""What a stage was begun with, in ``recipe.json``: it goes on with nothing else, and nothing else is thrown away."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lens_bench.errors import UsageError
from lens_bench.parsing import parse_json
from lens_bench.train.checkpoint import FINAL
from lens_bench.train.config import TrainRecipe
from lens_bench.train.curriculum import MEASURED
from lens_bench.train.log import LOG_NAME
from lens_bench.train.usable import LEFT_OUT

BEGUN, LOCK = "recipe.json", ".lock"
# All that a training writes.
_WRITTEN = (BEGUN, LOG_NAME, MEASURED, LEFT_OUT, "*.part", "checkpoint-*", ".checkpoint-*", FINAL, f".{FINAL}.*",
            "samples", "tensorboard", "wandb")  # fmt: skip
# What may change between the parts of a training without changing what is trained.
_FREE = ("saving", "evaluation", "stop", "title", "summary", "model_name", "model_title", "licence",
         "runtime.report_to", "runtime.threads")  # fmt: skip
# Keys of the section runtime that older recipes wrote down, and that never changed a result.
_GONE = ("tensorboard",)
_PLACES = ("model.checkpoint", "model.qwen", "model.sam")


@dataclass(frozen=True, slots=True)
class Begun:
    """What decides a stage's result.

    Attributes:
        recipe: What is trained.
        data: Content hash of every split; None: not looked at.
        start: SHA-256 of the weights that it starts from, wherever they lie; empty where they are drawn from the seed;
            None: not looked at.
        counts: Of every split, what its card expects and what was found; written down and not compared, since the
            content hash says more.
    """

    recipe: TrainRecipe
    data: Mapping[str, str] | None = None
    start: str | None = None
    counts: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


def require_same(folder: Path, now: Begun) -> None:
    """Check that a stage goes on with what it was begun with; anything may begin in a folder without ``recipe.json``.

    Raises:
        UsageError: Something else is trained than was begun here.
    """
    path = folder / BEGUN
    if not path.is_file():
        return
    then = _read(path)
    for what, before, after in _differences(then, now):
        raise UsageError(
            f"{folder} was begun with another {what}: {before!r}, now {after!r}",
            "train with what it was begun with, under another --out, or anew with --fresh",
        )


def write_down(folder: Path, now: Begun) -> None:
    """Say in ``recipe.json`` what a stage is begun with, where that is not said yet."""
    path = folder / BEGUN
    if path.is_file():
        return
    content = {"recipe": now.recipe.model_dump(mode="json"), "data": dict(now.data or {}), "start": now.start}
    content["counts"] = {name: dict(counts) for name, counts in now.counts.items()}
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def require_own(folder: Path) -> None:
    """Check that a folder is a training's, or empty, before anything in it is thrown away.

    Raises:
        UsageError: It holds something and no ``recipe.json``.
    """
    others = [path.name for path in folder.iterdir() if path.name != LOCK] if folder.is_dir() else []
    if others and not (folder / BEGUN).is_file():
        raise UsageError(
            f"{folder} is no folder of a training: it holds {sorted(others)[0]} and no {BEGUN}",
            "--fresh throws away a training alone; --out names another folder",
        )


def clear(folder: Path) -> None:
    """Remove what a training wrote, and nothing else."""
    for path in (path for pattern in _WRITTEN for path in folder.glob(pattern)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, object]:
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("recipe"), dict):
        raise UsageError(f"{path} is not what a training wrote", "train under another --out, or anew with --fresh")
    return found


def _differences(then: Mapping[str, object], now: Begun) -> list[tuple[str, object, object]]:
    """What differs, with both values."""
    start = then.get("start")
    compared = isinstance(start, str) and now.start is not None
    before, after = _flat(_filled(then["recipe"])), _flat(now.recipe.model_dump(mode="json"))
    # The same weights may have been moved; where they were not looked at, the place stands for them.
    free = (*_FREE, *(_PLACES if compared else ()))
    keys = [key for key in sorted(before.keys() | after.keys()) if not any(_is_in(key, name) for name in free)]
    found = [(f"recipe.{key}", before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)]
    if now.data is not None:
        known, hashes = _flat(then.get("data")), now.data
        names = sorted(known.keys() | hashes.keys())
        found += [(f"data.{n}", known.get(n), hashes.get(n)) for n in names if known.get(n) != hashes.get(n)]
    if compared and start != now.start:
        found.append(("start (the weights it starts from)", start, now.start))
    return found


def _is_in(key: str, section: str) -> bool:
    return key == section or key.startswith(f"{section}.")


def _filled(recipe: object) -> object:
    """A recipe as it was written, with what it could not say yet: keys that came later have their defaults."""
    runtime = recipe.get("runtime") if isinstance(recipe, dict) else None
    if isinstance(recipe, dict) and isinstance(runtime, dict):
        recipe = {**recipe, "runtime": {key: value for key, value in runtime.items() if key not in _GONE}}
    try:
        return TrainRecipe.model_validate(recipe).model_dump(mode="json")
    except ValueError:
        return recipe


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, object] = {}
    for name, inner in value.items():
        found |= _flat(inner, f"{prefix}.{name}" if prefix else name)
    return found
