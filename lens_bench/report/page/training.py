"""The page of a training: its stages in a table, then each stage's numbers and curves under its name, in order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from lens_bench.atomic import write_text
from lens_bench.errors import DataError
from lens_bench.report.page.plots import picture_uri
from lens_bench.report.page.render import render_training
from lens_bench.report.plots.training import draw_training
from lens_bench.report.training import Course, Measured, StageReport, read_stages
from lens_bench.trained import Trained


@dataclass(frozen=True, slots=True)
class StageView:
    """A stage as the page shows it: cells of the table of stages, rows of its own tables, its curves.

    Attributes:
        cells: Trains, steps, time, loss, reward, evaluation; the empty ones are shown as a dash.
        evaluations: Metric, first, last, best with its step.
        rewards: Name, first and last tenth.
        left_out: Split, reason, count.
        curves: Data URI of an SVG; empty where nothing can be drawn.
        note: Why there are no curves.
    """

    name: str
    cells: tuple[str, ...]
    evaluated_on: str
    evaluations: tuple[tuple[str, ...], ...]
    rewards: tuple[tuple[str, ...], ...]
    left_out: tuple[tuple[str, ...], ...]
    curves: str
    note: str


def write_training_page(trained: Trained, path: Path) -> Path:
    """Write the page of a stage or of all stages of a chain, atomically; it may still train.

    Raises:
        DataError: A log is damaged, or no stage has done a step.
    """
    stages = read_stages(trained)
    if all(stage.log is None for stage in stages):
        raise DataError(f"the training in {trained.folder} has not done a step yet")
    heads = ("Trains", "Steps", "Time", "Loss", "Reward", "Evaluation")
    views = [_view(stage) for stage in stages]
    # A column that no stage has anything in says nothing.
    kept = [i for i in range(len(heads)) if any(view.cells[i] for view in views)]
    context = {"title": trained.folder.resolve().name, "stages": views, "heads": heads, "kept": kept}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render_training(context))
    return path


def _view(stage: StageReport) -> StageView:
    best = stage.evaluations[0] if stage.evaluations else None
    evaluation = f"{best.name} {_value(best, best.last)}" if best else ""
    if best and best.best != best.last:
        evaluation += f", best {_value(best, best.best)} at step {best.best_step:,}"
    return StageView(
        name=stage.name,
        cells=(stage.kind, _steps(stage), _time(stage.seconds), _change(stage.loss), _change(stage.reward), evaluation),
        evaluated_on=stage.evaluated_on,
        evaluations=tuple(
            (m.name, _value(m, m.first), _value(m, m.last), f"{_value(m, m.best)} (step {m.best_step:,})")
            for m in stage.evaluations
        ),
        rewards=tuple((name, f"{c.first:.3f}", f"{c.last:.3f}") for name, c in sorted(stage.rewards.items())),
        left_out=tuple((split, reason, f"{count:,}") for (split, reason), count in sorted(stage.left_out.items())),
        curves=_curves(stage.log) if stage.log is not None else "",
        note="" if stage.log is not None else "No step was done yet.",
    )


def _curves(log: Path) -> str:
    with TemporaryDirectory() as folder:
        return next(picture_uri(path) for path in draw_training(log, Path(folder)) if path.suffix == ".svg")


def _steps(stage: StageReport) -> str:
    if not stage.done:
        return "not begun"
    if stage.is_finished and stage.total in (None, stage.done):
        return f"{stage.done:,}"
    return f"{stage.done:,}" + (f" of {stage.total:,}" if stage.total else ", not finished")


def _time(seconds: float) -> str:
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s" if seconds else ""


def _change(course: Course | None) -> str:
    return f"{course.first:.3f} → {course.last:.3f}" if course is not None else ""


def _value(metric: Measured, value: float) -> str:
    return f"{100 * value:.1f} %" if metric.is_share else f"{value:.3f}"
