"""What `run`, `score` and `merge` do: open, call, show."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.text import Text

from lens_bench import console
from lens_bench.cards import ModelCard, SuiteCard
from lens_bench.commands.data import ensure_made, is_made
from lens_bench.console import note, out, print_json, prints_to_stderr, refuse_damaged
from lens_bench.data.split import split_card
from lens_bench.errors import DataError, LensBenchError, UsageError
from lens_bench.lock import require_folder
from lens_bench.progress import make_progress
from lens_bench.registry import find_model, find_suite
from lens_bench.run.evaluate import Outcome, journalled, run_splits
from lens_bench.run.files import JsonObject, RunFiles, find_runs
from lens_bench.run.merge import find_shards
from lens_bench.run.merge import merge as merge_shards
from lens_bench.run.plan import Plan, Request, make_model, make_plan
from lens_bench.run.rescore import rescore as rescore_run
from lens_bench.run.session import Session
from lens_bench.run.workers.options import Workers
from lens_bench.segmenter import Segmenter

__all__ = ["Request", "answered", "merge", "opened", "rescore", "run", "show", "show_plan", "submission"]


def run(
    suite_name: str,
    splits: Sequence[str],
    model: str | ModelCard,
    request: Request,
    workers: Workers | None = None,
    *,
    dry_run: bool = False,
    as_json: bool = False,
) -> None:
    """Run a model over the named splits of a suite, or over its default ones; in this process, or in workers."""
    suite, names = opened(suite_name, splits, request)
    card = model if isinstance(model, ModelCard) else find_model(model)
    if dry_run:
        show_plan(suite, names, card, request, elsewhere=workers is not None, as_json=as_json)
        return
    finished: list[Outcome] = []
    try:
        with prints_to_stderr():
            finished.extend(answered(suite, names, card, request, workers))
    finally:  # what is finished is shown, whatever became of the rest
        show(finished, as_json=as_json)
    if card.sees_ground_truth:
        note(f"{card.name} sees the ground truth: its figures are bounds, not results")
    if not as_json:
        note(_next_command(finished, request), "next")


def opened(suite_name: str, splits: Sequence[str], request: Request) -> tuple[SuiteCard, list[str]]:
    """The suite, and the names of the splits that are meant; warns of what is to know of them."""
    require_folder(request.out)
    suite = find_suite(suite_name)
    names = list(splits) or list(suite.default_splits)
    for name in names:
        if warning := split_card(suite, name).warning:
            note(f"{suite.name} {name}: {warning}", "warning")
    return suite, names


def answered(
    suite: SuiteCard, names: Sequence[str], card: ModelCard, request: Request, workers: Workers | None
) -> Iterator[Outcome]:
    """Run a model over splits, which are made where they can be; gives each outcome as it is there."""
    for name in names:
        ensure_made(suite, name, request.data_root)
    for outcome in _outcomes(suite, names, card, request, workers):
        if not outcome.answered:
            note(f"{outcome.files.root}: every expression was answered before; scored again")
        yield outcome


def _next_command(finished: Sequence[Outcome], request: Request) -> str:
    """What one does with runs that have just ended."""
    if request.shard is not None:
        return f"`{_command('merge', request.out)}` once all {request.shard[1]} shards are there"
    if any(_failures(outcome.summary) for outcome in finished):
        return "the same command with --retry-errors asks again what failed"
    if len(finished) == 1:
        return f"`{_command('report', finished[0].files.root)}` makes a page of it"
    return f"`{_command('leaderboard', '--results', request.out)}` ranks it beside other runs"


def _command(*words: object) -> str:
    return shlex.join(["lens-bench", *(str(word) for word in words)])


def _failures(summary: JsonObject) -> bool:
    metrics = summary["metrics"]
    return isinstance(metrics, dict) and bool(metrics.get("error_rate"))


def _outcomes(
    suite: SuiteCard, names: Sequence[str], card: ModelCard, request: Request, workers: Workers | None
) -> Iterator[Outcome]:
    make_crew = _crew_maker() if workers else None
    options, segmenter = make_model(card, request, elsewhere=workers is not None)
    with ExitStack() as failing:
        failing.callback(segmenter.close)
        plans = [make_plan(suite, name, card, options, segmenter, request) for name in names]
        session = make_crew(plans, segmenter, workers) if make_crew and workers else None
        if session is None:
            failing.pop_all()  # from here on the loop closes it
    yield from run_splits(plans, segmenter, make_progress(), session)


def _crew_maker() -> Callable[[Sequence[Plan], Segmenter, Workers], Session]:
    """Imports Ray, before anything takes long."""
    from lens_bench.run.workers.start import make_crew

    return make_crew


# As papers write names of models; those of cards are in lower case.
_SUBMISSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]*")


def submission(name: str | None, source: str | None) -> ModelCard:
    """The card under which somebody's predictions file is scored: it has the name and the source that are given.

    Raises:
        UsageError: The name cannot be a model's, since paths are made of it.
    """
    card = find_model("replay")
    if name is None:
        return card.model_copy(update={"source": source or ""})
    if not _SUBMISSION.fullmatch(name):
        raise UsageError(f"--name {name!r} cannot be the name of a model", "letters, digits, and . + _ - between them")
    return card.model_copy(update={"name": name, "title": name, "source": source or ""})


def rescore(
    paths: Sequence[Path],
    protocols: Sequence[str],
    root: Path | None,
    *,
    suite: str | None = None,
    as_json: bool = False,
) -> None:
    """Score runs again: run directories, or folders that hold some. A damaged one does not keep the others from it."""
    runs = [files for path in paths for files in (find_runs(path) or [RunFiles(path).require()])]
    scored: list[tuple[RunFiles, tuple[JsonObject, ...]]] = []
    damaged: list[DataError] = []
    for files in runs:
        try:
            scored.append((files, rescore_run(files, protocols, root, suite=suite, progress=make_progress())))
        except DataError as error:
            if len(runs) == 1:
                raise
            damaged.append(error)
    _results(scored, as_json=as_json)
    refuse_damaged(damaged)


def merge(paths: Sequence[Path], *, as_json: bool = False) -> None:
    """Merge all shards found at or below the paths."""
    _results([merge_shards(shards) for shards in find_shards(paths)], as_json=as_json)


def show(finished: Sequence[Outcome], *, as_json: bool) -> None:
    """Show what runs gave."""
    _results([(o.files, (o.summary, *o.others)) for o in finished], as_json=as_json)


def _results(runs: Sequence[tuple[RunFiles, Sequence[JsonObject]]], *, as_json: bool) -> None:
    """Show the summaries of runs, one for each protocol."""
    if not runs:
        return
    if as_json:
        for files, summaries in runs:
            for summary in summaries:
                print_json({**summary, "run": str(files.root)})
        return
    out.print(console.summary_table(summary for _, summaries in runs for summary in summaries))
    for files, summaries in runs:
        names = ", ".join(str(summary["protocol"]) for summary in summaries)
        kind = "protocol" if len(summaries) == 1 else "protocols"
        out.print(Text(f"{names} {kind}, {files.root}", style="dim"), soft_wrap=True)


def show_plan(
    suite: SuiteCard, names: Sequence[str], card: ModelCard, request: Request, *, elsewhere: bool, as_json: bool
) -> None:
    """Show for each split what would be done and what it takes, then all that is in the way; raises the first of it."""
    from lens_bench.run.preview import preview

    problems: dict[str, LensBenchError] = {}
    for name in names:
        to_make = suite.generated and not is_made(suite, name, request.data_root)
        with prints_to_stderr():
            found = preview(suite, name, card, request, elsewhere=elsewhere, to_make=to_make)
        problems |= {error.message: error for error in found.obstacles}
        rows: list[tuple[str, object]] = [("in the way", error.message) for error in found.obstacles]
        rows += [("data", "not made yet: `run` will generate it")] if to_make and not found.obstacles else []
        rows += _plan_facts(found.plan) if found.plan is not None else []
        facts = [("suite", f"{suite.name} {name}"), ("model", card.name), *rows]
        if as_json:
            listed = [{"message": e.message, "hint": e.hint, "exit_code": e.exit_code} for e in found.obstacles]
            shown = {key: str(value) for key, value in facts if key != "in the way"}
            print_json({**shown, "obstacles": listed})
        else:
            out.print(console.facts(facts))
            out.print()
    first, *others = problems.values() if problems else (None,)
    for error in others:
        console.show_error(error)
    if first is not None:
        raise first


def _plan_facts(plan: Plan) -> list[tuple[str, object]]:
    from lens_bench.run.preview import forecast

    done = journalled(plan)
    files = plan.split.source.files.values()
    return [
        ("data", next(iter(files)).parent if files else plan.request.data_root),
        ("images", plan.split.source.images if plan.card.reads_images else "not needed by this model"),
        ("content", plan.split.content_hash[:12]),
        ("weights", plan.manifest.weight_digest[:12]),
        ("protocol", ", ".join(dict.fromkeys([plan.manifest.protocol, *plan.request.also]))),
        ("device", f"{plan.options.device}, {plan.options.dtype}"),
        ("expressions", f"{len(plan.samples):,} on {plan.manifest.n_images:,} images, {done:,} of them done"),
        ("results", plan.files.root),
        *forecast(plan),
    ]
