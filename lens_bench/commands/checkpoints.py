"""What `run --every-checkpoint` does: a run for each model of a training, and the curve over its steps."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lens_bench.atomic import write_text
from lens_bench.cards import ModelCard
from lens_bench.commands.run import answered, opened, show, show_plan
from lens_bench.console import note, prints_to_stderr
from lens_bench.errors import UsageError
from lens_bench.outgoing import csv_cell
from lens_bench.registry import find_model
from lens_bench.run.evaluate import Outcome
from lens_bench.run.plan import Request
from lens_bench.run.workers.options import Workers
from lens_bench.train.durable import require_intact, steps_done
from lens_bench.trained import BEST, CURVE, FINAL, checkpoints, open_trained, step_of


@dataclass(frozen=True, slots=True)
class Saved:
    """A model of a training, and the number of steps that it was trained for."""

    folder: Path
    step: int


def every_checkpoint(
    suite_name: str,
    splits: Sequence[str],
    folder: Path,
    request: Request,
    workers: Workers | None = None,
    *,
    dry_run: bool = False,
    as_json: bool = False,
) -> None:
    """Run every model of a training over a suite; what earlier calls answered is not asked again.

    Args:
        suite_name: Of the suite.
        splits: Of it; none: its default ones.
        folder: Of the training.
        request: Of each run.
        workers: Where models answer; None: in this process.
        dry_run: Show for each what would be done.
        as_json: Print summaries as JSON.

    Raises:
        UsageError: The folder holds no checkpoints, or a shard is asked for.
        CheckpointError: A checkpoint is damaged. What was answered before is kept.
    """
    if request.shard is not None:
        raise UsageError("--every-checkpoint draws whole runs, not shards", "--workers divides the work of each run")
    models = saved_models(folder)
    suite, names = opened(suite_name, splits, request)
    if dry_run:
        for saved in models:
            show_plan(suite, names, _card(saved), request, elsewhere=workers is not None, as_json=as_json)
        return
    found: dict[str, list[tuple[Saved, Outcome]]] = defaultdict(list)
    finished: list[Outcome] = []
    try:
        for saved in models:
            if not saved.folder.is_dir():
                note(f"{saved.folder} is gone: the training that writes here has newer checkpoints", "warning")
                continue
            require_intact(saved.folder)
            with prints_to_stderr():
                for name, outcome in zip(names, answered(suite, names, _card(saved), request, workers), strict=True):
                    finished.append(outcome)
                    found[name].append((saved, outcome))
    finally:
        show(finished if as_json else [_without_tags(outcome) for outcome in finished], as_json=as_json)
    for name, runs in found.items():
        _draw(folder, f"{suite.name} {name}", runs)


def saved_models(folder: Path) -> list[Saved]:
    """The models of a stage by step: checkpoints, the result and the best one.

    Where several are of one step, the result stands for them, else the checkpoint.

    Raises:
        UsageError: There is none.
    """
    found: dict[int, Saved] = {}
    kept = checkpoints(folder)
    for path in (folder / BEST, *kept, folder / FINAL):
        step = step_of(path) if path in kept else steps_done(path)
        if step is not None and (path / "model.yaml").is_file():
            found[step] = Saved(path, step)
    if not found:
        trained = open_trained(folder)
        stages = trained.stages if trained is not None and trained.is_chain else ()
        hint = f"its stages: {', '.join(map(str, stages))}" if stages else "name the folder of `lens-bench train --out`"
        raise UsageError(f"{folder} holds no checkpoints of a training", hint)
    return [found[step] for step in sorted(found)]


def _card(saved: Saved) -> ModelCard:
    """The card of a model, with the step in its name, which is the name of its run."""
    card = find_model(str(saved.folder.resolve()))
    return card.model_copy(
        update={"name": f"{card.name}-step-{saved.step:08d}", "title": f"{card.title}, step {saved.step:,}"}
    )


def _without_tags(outcome: Outcome) -> Outcome:
    """For a table with a row for each step."""
    return replace(outcome, summary={**outcome.summary, "by_tag": {}})


def _draw(folder: Path, what: str, runs: Sequence[tuple[Saved, Outcome]]) -> None:
    """Write the curve of a split as SVG, PNG and CSV into the folder of the training."""
    from lens_bench.report.plots.steps import StepScore, draw_steps

    scores = [StepScore(saved.step, outcome.summary) for saved, outcome in runs]
    summary = runs[0][1].summary
    remark = f"{what}, {summary['n_samples']:,} expressions, protocol {summary['protocol']}"
    name = f"{CURVE}-{what.replace(' ', '-')}"
    paths = draw_steps(scores, folder, name, remark)
    write_text(folder / f"{name}.csv", _table(runs))
    note(f"{folder / name}.csv" + (", .svg and .png" if paths else ""), "curve")


def _table(runs: Sequence[tuple[Saved, Outcome]]) -> str:
    """Every metric of every step with its interval, fractions."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("step", "model", "metric", "value", "low", "high", "run"))
    for saved, outcome in runs:
        metrics, intervals = outcome.summary["metrics"], outcome.summary["ci95"]
        if not isinstance(metrics, Mapping) or not isinstance(intervals, Mapping):
            continue
        run = str(outcome.files.root)
        for metric, value in metrics.items():
            if isinstance(value, int | float):
                low, high = intervals.get(metric) or ("", "")
                rows.writerow((saved.step, csv_cell(saved.folder.name), metric, value, low, high, csv_cell(run)))
    return text.getvalue()
