"""The tables of docs/scale.md: a million expressions on 8 GPUs and on 100 nodes of 8, by simulation and by arithmetic.

    python benchmarks/scale/cluster.py

The driving process's times are those of ``measured.json`` (``measure.py`` makes it). A model's time is not known before
it is measured, so there is a row for each of several.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from lens_bench.registry import import_file

HERE = Path(__file__).parent
EXPRESSIONS = 1_000_000
BATCH = 8
LOAD_S = 90.0
IMAGE_SHARE = 0.3  # of a call's time that is for images and not for expressions
SPREAD = 0.3
WORST_CASE_FAILURE_S = 3600.0  # of one worker: far worse than preemptible machines

sim: Any = import_file(HERE / "simulation.py")


def cluster(measured: dict[str, float], workers: int, rate: float, **more: Any) -> Any:
    """A cluster whose workers answer ``rate`` expressions a second each."""
    each = measured["expressions_per_image"]
    return sim.Cluster(
        workers,
        expression_s=(1 - IMAGE_SHARE) / rate,
        image_s=IMAGE_SHARE * each / rate,
        spread=SPREAD,
        load_s=LOAD_S,
        trip_s=measured["trip_ms"] / 1e3,
        driver_s=measured["driver_ms_per_call"] / 1e3,
        journal_s=measured["journal_ms"] / 1e3,
        score_s=measured["score_ms"] / 1e3,
        **more,
    )


def limits(measured: dict[str, float], workers: int, rate: float) -> dict[str, float]:
    """Expressions a second that each part could do alone."""
    each = measured["expressions_per_image"] * BATCH
    return {
        "the GPUs": workers * rate,
        "the driver": 1e3 / (measured["driver_ms_per_call"] / each + measured["journal_ms"]),
        "scoring": 1e3 / measured["score_ms"],
    }


def main() -> None:
    measured = json.loads((HERE / "measured.json").read_text())
    images = sim.drawn(EXPRESSIONS, measured["expressions_per_image"])
    write = sys.stdout.write
    write("| workers | expr/s of one | limit by arithmetic | simulated expr/s | of the limit | GPUs busy | wall |\n")
    write("|--:|--:|:--|--:|--:|--:|--:|\n")
    for workers in (8, 64, 800):
        for rate in (1.0, 4.0, 16.0):
            alone = limits(measured, workers, rate)
            name = min(alone, key=lambda part: alone[part])
            found = sim.simulate(cluster(measured, workers, rate), images, BATCH)
            share, hours = found.expressions_per_s / alone[name], found.wall_s / 3600
            write(
                f"| {workers} | {rate:g} | {alone[name]:,.0f} by {name} | {found.expressions_per_s:,.0f} | {share:.0%} "
                f"| {found.utilisation:.0%} | {hours:.2f} h |\n"
            )
    calm = sim.simulate(cluster(measured, 800, 1.0), images, BATCH)
    rough = sim.simulate(cluster(measured, 800, 1.0, failure_s=WORST_CASE_FAILURE_S), images, BATCH)
    grown = sim.simulate(cluster(measured, 400, 1.0, joins=((LOAD_S + calm.wall_s, 400),)), images, BATCH)
    write(f"\nEvery worker fails once an hour: {rough.lost} lost, wall {rough.wall_s / calm.wall_s - 1:+.1%}.\n")
    write(f"400 workers, joined by 400 after {calm.wall_s / 60:.0f} min: {grown.wall_s / 60:.0f} min in all.\n")


if __name__ == "__main__":
    main()
