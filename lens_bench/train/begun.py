"""What a stage was begun with, in ``recipe.json``.

A stage continues with the settings that define its result, and with no others. Those that only say how it is computed,
saved and looked at may change; ``recipe.json`` then holds the current ones, and under ``changes`` what they were.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lens_bench.atomic import write_text
from lens_bench.errors import UsageError
from lens_bench.parsing import parse_json
from lens_bench.train.config import Optimiser, TrainRecipe, without_folder
from lens_bench.train.curriculum import MEASURED
from lens_bench.train.durable import steps_done
from lens_bench.train.log import read_log
from lens_bench.train.rewards import reward_digests
from lens_bench.train.schedule import rate_share
from lens_bench.trained import BEGUN, BEST, CURVE, FINAL, LEFT_OUT, LOG, REPORT, checkpoints, step_of

LOCK = ".lock"
# All that a training writes.
_WRITTEN = (BEGUN, LOG, MEASURED, LEFT_OUT, REPORT, "*.part", "checkpoint-*", ".checkpoint-*", FINAL, f".{FINAL}.*",
            BEST, f".{BEST}.*", f"{CURVE}-*", "samples", "tensorboard", "wandb")  # fmt: skip
# Settings that do not define the result, or only its rounding. What an error message of a running training advises to
# set must be among them.
FREE = ("saving", "evaluation", "stop", "title", "summary", "model_name", "model_title", "licence", "batch.micro",
        "runtime", "grpo.share_prefix", "grpo.rollouts", "grpo.vllm_share", "grpo.vllm_sleep",
        "grpo.sampler_tolerance")  # fmt: skip
# Keys of the section runtime that older recipes wrote down, and that never changed a result.
_GONE = ("tensorboard",)
# These may change where the learning rates of the steps done stay what they were.
_LENGTH = ("optimiser.steps", "optimiser.decay")
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

    @property
    def rewards(self) -> dict[str, str]:
        """SHA-256 of the files that rewards come from. They may change, so that a mistake in one can be put right."""
        return reward_digests(self.recipe)


def require_same(folder: Path, now: Begun) -> None:
    """Check that a stage continues with what it was begun with; anything may begin where no step was done.

    Raises:
        UsageError: Something else is trained than was begun here.
    """
    if not (folder / BEGUN).is_file():
        return
    then = _read(folder / BEGUN)
    if not _has_steps(folder):
        return
    _require_length(folder, then["recipe"], now.recipe.optimiser)
    for what, before, after in _differences(then, now):
        raise UsageError(
            f"{folder} was begun with another {what}: {before!r}, now {after!r}",
            "train with what it was begun with, under another --out, or anew with --fresh",
        )


def write_down(folder: Path, now: Begun) -> None:
    """Say in ``recipe.json`` what a stage is begun with, or which of the free settings it continues with."""
    path = folder / BEGUN
    if path.is_file() and _has_steps(folder):
        _note_changes(path, now, _step(folder))
        return
    content = {"recipe": now.recipe.model_dump(mode="json"), "data": dict(now.data or {}), "start": now.start}
    content["counts"] = {name: dict(counts) for name, counts in now.counts.items()}
    content["rewards"] = now.rewards
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=1) + "\n")


def _note_changes(path: Path, begun: Begun, step: int) -> None:
    then, now, files = _read(path), begun.recipe.model_dump(mode="json"), begun.rewards
    before = _flat(_filled(then["recipe"])) | _flat(then.get("rewards", {}), "rewards")
    after = _flat(now) | _flat(files, "rewards")
    keys = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
    if not keys:
        return
    earlier = then.get("changes")
    change = {"step": step, "settings": {key: {"from": before.get(key), "to": after.get(key)} for key in keys}}
    changes = [*(earlier if isinstance(earlier, list) else []), change]
    write_text(path, json.dumps({**then, "recipe": now, "rewards": files, "changes": changes}, indent=1) + "\n")


def _has_steps(folder: Path) -> bool:
    """Whether a training got as far as a step, or a measurement, that depends on what it was begun with."""
    written = (folder / FINAL).is_dir() or (folder / MEASURED).is_file() or bool(checkpoints(folder))
    return written or bool(read_log(folder / LOG))


def _step(folder: Path) -> int:
    """Number of steps that what lies in a folder was trained for."""
    saved = checkpoints(folder)
    return max(step_of(saved[-1]) if saved else 0, steps_done(folder / FINAL) or 0)


def _require_length(folder: Path, recipe: object, now: Optimiser) -> None:
    """Check that a training becomes longer only where the steps done would have been the same.

    Raises:
        UsageError: The schedule had another learning rate in them.
    """
    try:
        then = TrainRecipe.model_validate(recipe).optimiser
    except ValueError:
        return  # what is wrong with it is among the differences
    length = {"steps": 1, "decay": None}
    if now.steps < then.steps or then.model_copy(update=length) != now.model_copy(update=length):
        return
    for step in range(_step(folder)):
        if rate_share(then, step) != rate_share(now, step):
            more = f"optimiser.steps={now.steps} with optimiser.decay={then.steps} stays at the floor from there on"
            new = f"model.checkpoint={folder / FINAL} under another --out begins a training from its result"
            raise UsageError(
                f"{folder} was begun with optimiser.steps={then.steps}; with {now.steps} the schedule {then.schedule} "
                f"has another learning rate at step {step + 1}, which is done",
                more if then.floor and then.decay is None else new,
            )


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
    before, after = _placeless(_filled(then["recipe"])), _placeless(now.recipe.model_dump(mode="json"))
    # The same weights may have been moved; where they were not looked at, the place stands for them.
    free = (*FREE, *(_PLACES if compared else ()), *(_LENGTH if _grew(before, after) else ()))
    keys = [key for key in sorted(before.keys() | after.keys()) if not any(_is_in(key, name) for name in free)]
    found = [(f"recipe.{key}", before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)]
    if now.data is not None:
        known, hashes = _flat(then.get("data")), now.data
        names = sorted(known.keys() | hashes.keys())
        found += [(f"data.{n}", known.get(n), hashes.get(n)) for n in names if known.get(n) != hashes.get(n)]
    if compared and start != now.start:
        found.append(("start (the weights it starts from)", start, now.start))
    return found


def _grew(before: Mapping[str, object], after: Mapping[str, object]) -> bool:
    """Whether there are at least as many steps as there were; their learning rates were compared already."""
    then, now = before.get("optimiser.steps"), after.get("optimiser.steps")
    return isinstance(then, int) and isinstance(now, int) and now >= then


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


def _placeless(recipe: object) -> dict[str, object]:
    """A recipe's settings; of the files of rewards without the folders, which say nothing of what is in them."""
    found = _flat(recipe)
    rewards = found.get("grpo.rewards")
    if isinstance(rewards, list):
        found["grpo.rewards"] = [{**r, "name": without_folder(str(r.get("name")))} for r in rewards]
    return found


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, object] = {}
    for name, inner in value.items():
        found |= _flat(inner, f"{prefix}.{name}" if prefix else name)
    return found
