"""The curriculum: rewards of the start, measured once, say how often a unit is drawn."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lens_bench.atomic import write_text
from lens_bench.errors import DataError
from lens_bench.parsing import parse_json
from lens_bench.train.data import Draw, failure_weights
from lens_bench.train.draws import stream
from lens_bench.train.policy import Policy
from lens_bench.train.progress import Progress
from lens_bench.train.workshop import Objective, Workshop

MEASURED = "measured.json"


def unit_weights(
    shop: Workshop, objective: Objective, out: Path, progress: Progress, between: Callable[[], None]
) -> NDArray[np.float64] | None:
    """Weights of the units, measured before any update and from then on read from the stage's folder.

    None where the recipe has no curriculum. ``between`` is called between the batches that are measured, and may raise.
    """
    curriculum, path = shop.recipe.data.curriculum, out / MEASURED
    if curriculum is None or not isinstance(objective, Policy):
        return None
    if not path.is_file():
        _measure(shop, objective, path, progress, between)
        shop.accelerator.wait_for_everyone()
    return failure_weights(measured_rewards(path), len(shop.data.units), curriculum.floor, curriculum.power)


def measured_rewards(path: Path) -> dict[int, float]:
    """Measured rewards by the number of the unit. Raises ``DataError`` where the file is not what was written."""
    try:
        content = parse_json(path.read_bytes(), nan=False)
        if not isinstance(content, dict):
            raise ValueError("it is not an object")
        return {int(index): float(value) for index, value in content.items()}
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{path} does not hold measured rewards: {error}", "remove it to measure them again") from None


def _measure(shop: Workshop, policy: Policy, path: Path, progress: Progress, between: Callable[[], None]) -> None:
    units, recipe, curriculum = shop.data.units, shop.recipe, shop.recipe.data.curriculum
    count = 0 if curriculum is None else curriculum.measure
    chosen = stream(recipe.seed, "measure").permutation(len(units))[:count]
    draws = [Draw(-1 - n, int(i), units[i].items[:1]) for n, i in enumerate(chosen)]
    progress.start(f"{recipe.name}: measuring rewards", len(draws), 0)
    measured: dict[int, float] = {}
    try:
        for begin in range(0, len(draws), recipe.batch.units):
            between()
            part = draws[begin : begin + recipe.batch.units]
            found = zip(part, policy.measure(part), strict=True)
            measured |= {draw.unit: value for draw, value in found if not math.isnan(value)}
            for _ in part:
                progress.step({})
    finally:
        progress.stop()
    shop.meter.means(shop.accelerator)
    if shop.accelerator.is_main_process:
        write_text(path, json.dumps(measured))
