"""What a training came to, stage by stage: steps, losses, rewards, evaluations, and what was left out, with reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lens_bench.errors import DataError
from lens_bench.parsing import parse_json
from lens_bench.report.plots.training import read_log
from lens_bench.scoring.table import Floats
from lens_bench.trained import BEGUN, FINAL, LEFT_OUT, LOG, Trained

_KINDS = {"sam": "masks of things", "vision": "names of things", "supervised": "perfect answers", "grpo": "GRPO"}
_TITLES = {"giou": "gIoU", "ciou": "cIoU", "mask_iou": "mask IoU", "box_iou": "box IoU"}


@dataclass(frozen=True, slots=True)
class Course:
    """How a quantity went: means over the first and the last tenth of its values, which differ from step to step."""

    first: float
    last: float


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric of the evaluations: its first, last and best value, and the step of the best one.

    ``is_share``: fractions; losses and distances are not.
    """

    name: str
    first: float
    last: float
    best: float
    best_step: int
    is_share: bool


@dataclass(frozen=True, slots=True)
class StageReport:
    """One stage.

    Attributes:
        name: Of its folder.
        kind: What it trains, in words; empty where that is not written down.
        done: Steps in the log; ``total``: of the recipe, None where it is not written down.
        is_finished: Whether its result is there.
        seconds: That the steps took.
        loss: None where the log has none; ``reward``: the total of a stage with rewards.
        rewards: Every single reward by name.
        evaluations: In the order of ``_TITLES``, others behind.
        evaluated_on: Split and number of samples.
        left_out: How many expressions by split and reason.
        log: Where the curves come from; None for a stage without a step.
    """

    name: str
    kind: str
    done: int
    total: int | None
    is_finished: bool
    seconds: float
    loss: Course | None
    reward: Course | None
    rewards: Mapping[str, Course]
    evaluations: tuple[Measured, ...]
    evaluated_on: str
    left_out: Mapping[tuple[str, str], int]
    log: Path | None


def read_stages(trained: Trained) -> list[StageReport]:
    """The stages of a training, in order; those that were not begun have no steps.

    Raises:
        DataError: A log or a file beside it is damaged.
    """
    return [_stage(folder) for folder in trained.stages]


def _stage(folder: Path) -> StageReport:
    recipe = _section(_object(folder / BEGUN), "recipe")
    steps = _section(recipe, "optimiser").get("steps")
    log = folder / LOG
    # A log is there from the start and is empty until the first step is done.
    series = read_log(log) if log.is_file() and log.stat().st_size else {}
    rewards = {key.partition("/")[2]: _course(*found) for key, found in series.items() if key.startswith("reward/")}
    measured = [_measured(key, *found) for key, found in series.items() if key.startswith("eval/")]
    order = list(_TITLES.values())
    measured.sort(key=lambda m: (order.index(m.name) if m.name in order else len(order), m.name))
    on = _section(recipe, "evaluation")
    return StageReport(
        name=folder.resolve().name,
        kind=_kind(recipe),
        done=int(max((found[0][-1] for found in series.values()), default=0)),
        total=steps if isinstance(steps, int) else None,
        is_finished=(folder / FINAL).is_dir(),
        seconds=float(np.nansum(series["seconds"][1])) if "seconds" in series else 0.0,
        loss=_course(*series["loss"]) if "loss" in series else None,
        reward=rewards.pop("total", None),
        rewards=rewards,
        evaluations=tuple(measured),
        evaluated_on=f"{on['split']}, {on['samples']} samples" if {"split", "samples"} <= on.keys() else "",
        left_out=_left_out(folder / LEFT_OUT),
        log=log if series else None,
    )


def _kind(recipe: Mapping[str, object]) -> str:
    stage = str(recipe.get("stage", ""))
    if stage == "supervised" and _section(recipe, "text").get("weight") == 0:
        return "masks after perfect answers"
    return _KINDS.get(stage, stage)


def _course(steps: Floats, values: Floats) -> Course:
    known = values[~np.isnan(values)]
    few = max(1, len(known) // 10)
    return Course(float(known[:few].mean()), float(known[-few:].mean()))


def _measured(key: str, steps: Floats, values: Floats) -> Measured:
    name = key.removeprefix("eval/")
    known = ~np.isnan(values)
    at, found = steps[known], values[known]
    is_share = not name.startswith("loss") and not name.endswith("_px")
    best = int(found.argmax() if is_share and name != "failed" else found.argmin())
    title = _TITLES.get(name, name.replace("_", " "))
    return Measured(title, float(found[0]), float(found[-1]), float(found[best]), int(at[best]), is_share)


def _left_out(path: Path) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for split, reasons in _object(path).items():
        for reason in (reasons if isinstance(reasons, dict) else {}).values():
            found[split, str(reason).partition(":")[0]] += 1
    return found


def _object(path: Path) -> dict[str, object]:
    """A JSON object; empty where the file is missing."""
    try:
        content = parse_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    return content if isinstance(content, dict) else {}


def _section(fields: Mapping[str, object], name: str) -> dict[str, object]:
    found = fields.get(name)
    return found if isinstance(found, dict) else {}
