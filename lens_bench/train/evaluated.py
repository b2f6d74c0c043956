"""What an evaluation during training measured with the weights that lie beside it, in ``evaluation.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lens_bench.atomic import write_text
from lens_bench.lens.model_card import Result
from lens_bench.parsing import parse_json
from lens_bench.train.config import TrainRecipe

EVALUATED = "evaluation.json"
_PREFIX = "eval/"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An evaluation.

    Attributes:
        step: Number of steps done.
        split: ``suite/split``.
        count: Expressions, from the front of the split.
        values: By name, fractions.
    """

    step: int
    split: str
    count: int
    values: Mapping[str, float]

    def write(self, folder: Path) -> None:
        """Write it beside the weights."""
        content = {"step": self.step, "split": self.split, "count": self.count, "values": dict(self.values)}
        write_text(folder / EVALUATED, json.dumps(content, indent=1) + "\n")

    def result(self, dtype: str) -> Result:
        """For the card of weights that are stored in a precision."""
        suite, _, split = self.split.rpartition("/")
        rounded = "" if dtype == "float32" else f" and before the weights were rounded to {dtype}"
        how = f"by the trainer's own evaluation after step {self.step:,}{rounded}"
        return Result(suite, split, self.count, self.values, how)


def evaluated(recipe: TrainRecipe, count: int, step: int, values: Mapping[str, object]) -> Evaluated | None:
    """The evaluation among the numbers of a step; None where there was none."""
    found = _numbers({k.removeprefix(_PREFIX): v for k, v in values.items() if k.startswith(_PREFIX)})
    if recipe.evaluation is None or not found:
        return None
    return Evaluated(step, recipe.evaluation.split, count, found)


def read_evaluated(folder: Path) -> Evaluated | None:
    """What was measured with a folder's weights; None where nothing was, or the file says something else."""
    try:
        content = parse_json((folder / EVALUATED).read_bytes(), nan=False)
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict):
        return None
    step, split, count, values = (content.get(key) for key in ("step", "split", "count", "values"))
    if not (isinstance(step, int) and isinstance(split, str) and isinstance(count, int) and isinstance(values, dict)):
        return None
    return Evaluated(step, split, count, _numbers({str(k): v for k, v in values.items()}))


def _numbers(values: Mapping[str, object]) -> dict[str, float]:
    return {k: float(v) for k, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}
