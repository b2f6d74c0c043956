"""All figures of a set of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lens_bench.errors import DataError
from lens_bench.report.plots.accuracy import draw_bars, draw_pareto
from lens_bench.report.plots.dependence import draw_length, draw_size
from lens_bench.report.plots.groups import Group, Shown, groups_of
from lens_bench.report.plots.quality import draw_histogram, draw_precision
from lens_bench.report.plots.stages import draw_stages
from lens_bench.report.runset import ScoredRun, load_run
from lens_bench.run.files import RunFiles
from lens_bench.run.results import other_protocols


@dataclass(frozen=True, slots=True)
class Drawing:
    """What was drawn, and what was not, with the reason.

    Attributes:
        damaged: The errors of scores under other protocols that cannot be believed.
    """

    paths: tuple[Path, ...]
    left_out: tuple[str, ...]
    damaged: tuple[DataError, ...] = ()


def draw_all(runs: Sequence[RunFiles], folder: Path, expressions: Mapping[str, str] | None = None) -> list[Path]:
    """Draw every figure the runs have data for; returns the files written. See ``draw``."""
    return list(draw(runs, folder, expressions).paths)


def draw(
    runs: Sequence[RunFiles],
    folder: Path,
    expressions: Mapping[str, str] | None = None,
    protocol: str | None = None,
) -> Drawing:
    """Draw every figure the runs have data for.

    Args:
        runs: Run directories, of any suites and models. Runs are compared only on the same content and protocol.
        folder: To write to; made where absent.
        expressions: Expression by sample id. A run directory does not hold them, so IoU against expression length is
            drawn only where they are given.
        protocol: One that all runs are scored under. By default each run's own, and the bars are then drawn for every
            other protocol that a run is scored under, too.

    Raises:
        UsageError: A directory is no run.
        DataError: A run's files are missing or damaged.
    """
    chosen = [load_run(files, protocol) for files in runs]
    others, damaged = ([], []) if protocol else _under_other_protocols(chosen)
    groups, every = groups_of(chosen), groups_of([*chosen, *others])
    paths = draw_bars(every, folder)
    if any(_boxes_alone(shown) for group in every for shown in group.members):
        paths += draw_bars(every, folder, "box_acc_0.5")
    left_out: list[str] = []
    for group in groups:
        drawn = {
            "accuracy against throughput": draw_pareto(group, folder),
            "precision over thresholds": draw_precision(group, folder),
            "IoU histogram": draw_histogram(group, folder),
            "IoU against object size": draw_size(group, folder, left_out),
            "IoU against expression length": draw_length(group, folder, expressions) if expressions else [],
        }
        for what, found in drawn.items():
            paths += found
            if not found:
                left_out.append(f"{what}, {group.title}: {_reason(what, group, expressions)}")
    stages = draw_stages(groups, folder)
    if groups and not stages:
        left_out.append("stage times: no run reports them")
    return Drawing((*paths, *stages), tuple(left_out), tuple(damaged))


def _under_other_protocols(runs: Sequence[ScoredRun]) -> tuple[list[ScoredRun], list[DataError]]:
    found: list[ScoredRun] = []
    damaged: list[DataError] = []
    for run in runs:
        for name in other_protocols(run.files, run.manifest):
            try:
                found.append(load_run(run.files, name))
            except DataError as error:
                damaged.append(error)
    return found, damaged


def _boxes_alone(shown: Shown) -> bool:
    metrics = shown.run.summary.get("metrics")
    return isinstance(metrics, dict) and metrics.get("ciou") is None and metrics.get("box_acc_0.5") is not None


def _reason(what: str, group: Group, expressions: Mapping[str, str] | None) -> str:
    if what == "IoU against expression length" and not expressions:
        return "the expressions were not given"
    if all(not len(shown.run.table) for shown in group.members):
        return "nothing was answered"
    if all(_boxes_alone(shown) for shown in group.members):
        return "the models answered with boxes alone"
    if what == "accuracy against throughput":
        return "no run has a speed"
    return "too few expressions"
