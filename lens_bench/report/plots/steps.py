"""Metrics of a training's checkpoints against the step, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lens_bench.report.figures import title
from lens_bench.report.plots.style import MARKERS, drawing, label_ends, look, new_figure, save

_DRAWN = ("ciou", "giou")
_BOXES = ("box_acc_0.5",)


@dataclass(frozen=True, slots=True)
class StepScore:
    """The summary (``summary.json``) of a run of the model after ``step`` steps."""

    step: int
    summary: Mapping[str, object]

    def value(self, metric: str) -> float | None:
        """In percent; None where the metric does not apply."""
        found = cast("Mapping[str, object]", self.summary["metrics"]).get(metric)
        return 100 * float(found) if isinstance(found, int | float) else None

    def interval(self, metric: str) -> tuple[float, float] | None:
        """Of 95 %, in percent; None where there is none."""
        found = cast("Mapping[str, object]", self.summary["ci95"]).get(metric)
        return (100 * float(found[0]), 100 * float(found[1])) if isinstance(found, list | tuple) else None


def metrics_of(scores: Sequence[StepScore]) -> tuple[str, ...]:
    """What is drawn of runs: cIoU and gIoU, or the accuracy of boxes where there are no masks."""
    known = tuple(m for m in _DRAWN if any(s.value(m) is not None for s in scores))
    return known or tuple(m for m in _BOXES if any(s.value(m) is not None for s in scores))


def draw_steps(scores: Sequence[StepScore], folder: Path, name: str, remark: str) -> list[Path]:
    """Draw the curve; returns the files written, none where no metric applies.

    Args:
        scores: Of one split under one protocol, by step.
        folder: To write to.
        name: Of the files.
        remark: What they were measured on, for the axis.
    """
    metrics = metrics_of(scores)
    if not metrics:
        return []
    with drawing():
        figure = new_figure(2.2)
        axes = figure.add_subplot()
        ends = [_line(axes, scores, metric, number, len(metrics)) for number, metric in enumerate(metrics)]
        axes.set_xlabel(f"step; bars: 95 % interval\n{remark}")
        axes.set_ylabel("%")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.grid()
        axes.margins(x=0.05)
        label_ends(axes, ends)
        return save(figure, folder, name)


def _line(axes: Axes, scores: Sequence[StepScore], metric: str, number: int, of: int) -> tuple[float, float, str, str]:
    """Draw a metric; returns the end of its line, for its name."""
    chosen = look(number)
    known = [(s.step, v, s.interval(metric) or (v, v)) for s in scores if (v := s.value(metric)) is not None]
    # Beside each other, so that no bar hides another.
    span = max(known[-1][0] - known[0][0], 1)
    steps = [step + 0.008 * span * (number - (of - 1) / 2) for step, _, _ in known]
    axes.plot(
        steps,
        [v for _, v, _ in known],
        color=chosen.colour,
        linestyle=chosen.line,
        marker=MARKERS[number],
        markersize=3,
        linewidth=1.0,
    )
    for at, (_, _, (low, high)) in zip(steps, known, strict=True):
        if math.isfinite(low) and math.isfinite(high):
            axes.plot([at, at], [low, high], color=chosen.colour, linewidth=0.8, alpha=0.8)
    return steps[-1], known[-1][1], title(metric), chosen.colour
