"""What the commands that work on data and runs do: open, call, show."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path

from rich.text import Text

from lens_bench import console
from lens_bench.cards import SuiteCard
from lens_bench.console import note, out
from lens_bench.data.split import default_data_root, open_split, split_card
from lens_bench.errors import DataError, LensBenchError, UsageError
from lens_bench.progress import counting, make_progress
from lens_bench.registry import find_model, find_suite
from lens_bench.run.evaluate import journalled, run_splits
from lens_bench.run.files import RunFiles, find_runs
from lens_bench.run.manifest import read_manifest
from lens_bench.run.merge import find_shards
from lens_bench.run.merge import merge as merge_shards
from lens_bench.run.plan import Plan, Request, make_model, make_plan
from lens_bench.run.rescore import rescore as rescore_run
from lens_bench.scoring.protocols import get_protocol

__all__ = ["Request", "data_audit", "data_make", "data_root", "data_verify", "merge", "rescore", "run"]


def data_root(given: Path | None) -> Path:
    """The data root: as given, else the default."""
    return (given or default_data_root()).expanduser()


# ---------------------------------------------------------------------------------------------- run


def run(
    suite_name: str,
    splits: Sequence[str],
    model: str,
    request: Request,
    *,
    dry_run: bool = False,
    as_json: bool = False,
) -> None:
    """Run a model over the named splits of a suite, or over its default ones."""
    suite, card = find_suite(suite_name), find_model(model)
    names = list(splits) or list(suite.default_splits)
    for name in names:
        if warning := split_card(suite, name).warning:
            note(f"{suite.name} {name}: {warning}", "warning")
    if dry_run:
        _dry_run(suite, names, model, request)
        return
    for name in names:
        ensure_made(suite, name, request.data_root)
    options, segmenter = make_model(card, request)
    with ExitStack() as failing:
        failing.callback(segmenter.close)
        plans = [make_plan(suite, name, card, options, segmenter, request) for name in names]
        failing.pop_all()  # from here on the loop closes it
    summaries = []
    for plan, outcome in zip(plans, run_splits(plans, segmenter, make_progress()), strict=True):
        summaries.append(outcome.summary)
        if not outcome.answered:
            note(f"{plan.manifest.suite} {plan.manifest.split}: every expression was answered before; scored again")
    _results(summaries, [p.files for p in plans], as_json=as_json)
    if card.sees_ground_truth:
        note(f"{card.name} sees the ground truth: its figures are bounds, not results")


def rescore(
    paths: Sequence[Path], protocol: str | None, root: Path, *, suite: str | None = None, as_json: bool = False
) -> None:
    """Score runs again: run directories, or folders that hold some."""
    runs = [files for path in paths for files in (find_runs(path) or [RunFiles(path).require()])]
    summaries = []
    for files in runs:
        chosen = get_protocol(protocol or read_manifest(files).protocol)
        summaries.append(rescore_run(files, chosen, root, suite=suite, progress=make_progress()))
    _results(summaries, runs, as_json=as_json)


def merge(paths: Sequence[Path], *, as_json: bool = False) -> None:
    """Merge all shards found at or below the paths."""
    merged = [merge_shards(shards) for shards in find_shards(paths)]
    _results([summary for _, summary in merged], [files for files, _ in merged], as_json=as_json)


def _results(summaries: Sequence[Mapping[str, object]], runs: Sequence[RunFiles], *, as_json: bool) -> None:
    if as_json:
        for summary, files in zip(summaries, runs, strict=True):
            out.file.write(json.dumps({**summary, "run": str(files.root)}, ensure_ascii=False) + "\n")
        return
    out.print(console.summary_table(summaries))
    for summary, files in zip(summaries, runs, strict=True):
        out.print(Text(f"{summary['protocol']} protocol, {files.root}", style="dim"), soft_wrap=True)


def _dry_run(suite: SuiteCard, names: Sequence[str], model: str, request: Request) -> None:
    """Show for each split what would be done, or what is in the way; raises the first problem at the end."""
    card = find_model(model)
    problems: list[LensBenchError] = []
    for name in names:
        try:
            options, segmenter = make_model(card, request)
            with closing(segmenter):
                rows = _plan_facts(make_plan(suite, name, card, options, segmenter, request))
        except LensBenchError as error:
            generated = (
                isinstance(error, DataError) and suite.generated and not _is_made(suite, name, request.data_root)
            )
            rows = [("missing", "not made yet: `run` will generate it" if generated else error.message)]
            problems += [] if generated else [error]
        out.print(console.facts([("suite", f"{suite.name} {name}"), ("model", card.name), *rows]))
        out.print()
    if problems:
        raise problems[0]


def _plan_facts(plan: Plan) -> list[tuple[str, object]]:
    done = journalled(plan)
    files = plan.split.source.files.values()
    return [
        ("data", next(iter(files)).parent if files else plan.request.data_root),
        ("images", plan.split.source.images if plan.card.reads_images else "not needed by this model"),
        ("content", plan.split.content_hash[:12]),
        ("weights", plan.manifest.weight_digest[:12]),
        ("protocol", plan.manifest.protocol),
        ("device", f"{plan.options.device}, {plan.options.dtype}"),
        ("expressions", f"{len(plan.samples):,} on {plan.manifest.n_images:,} images, {done:,} of them done"),
        ("results", plan.files.root),
    ]


# ---------------------------------------------------------------------------------------------- data


def ensure_made(suite: SuiteCard, split: str, root: Path) -> None:
    """Generate a split of a generated suite where it is not there yet; other suites are left alone."""
    if suite.generated and not _is_made(suite, split, root):
        _make(suite, split, root, workers=2)


def data_make(name: str, splits: Sequence[str], root: Path, workers: int) -> None:
    """Generate the named splits of a generated suite, or all of them."""
    suite = find_suite(name)
    if not suite.generated:
        hint = suite.obtain.text if suite.obtain else ""
        raise UsageError(f"{suite.name} is not generated: its files come from its authors", hint)
    for split in splits or suite.splits:
        split_card(suite, split)
        if _is_made(suite, split, root):
            note(f"{suite.name} {split} is there already")
        else:
            out.print(Text(str(_make(suite, split, root, workers))), soft_wrap=True)


def data_verify(name: str, splits: Sequence[str], root: Path, *, decode: bool, as_json: bool) -> None:
    """Check splits completely; raises ``DataError`` after the tables where something is wrong."""
    from lens_bench.data.verify import verify_split

    suite = find_suite(name)
    wrong: list[str] = []
    for split_name in splits or suite.default_splits:
        split = open_split(suite, split_name, root, allow_partial=True)
        with counting(f"verifying {suite.name} {split_name}") as progress:
            report = verify_split(split, decode=decode, progress=progress)
        if suite.generated and decode:
            _verify_pixels(suite, split_name, root)
        if as_json:
            out.file.write(json.dumps(asdict(report) | {"ok": report.ok}, ensure_ascii=False, default=str) + "\n")
        else:
            out.print(console.facts([("suite", f"{suite.name} {split_name}"), *report.rows()]))
            for finding in report.findings[:_SHOWN]:
                line = f"  {finding.kind}: {finding.sample_id}: {finding.detail}"
                out.print(Text(line, style="red"), soft_wrap=True)
            if len(report.findings) > _SHOWN:
                out.print(f"  and {len(report.findings) - _SHOWN:,} more (--json lists all)")
            out.print()
        wrong += [] if report.ok else [split_name]
    if wrong:
        raise DataError(f"{suite.name} {', '.join(wrong)}: not what the card promises", "see the table above")


def data_audit(names: Sequence[str], root: Path, output: Path | None, *, as_json: bool) -> None:
    """Count shared images between all named splits (``suite`` or ``suite:split``)."""
    from lens_bench.data.audit import audit

    splits = []
    for name in names:
        suite_name, _, split_name = name.partition(":")
        suite = find_suite(suite_name)
        for chosen in [split_name] if split_name else suite.splits:
            ensure_made(suite, chosen, root)
            try:
                splits.append(open_split(suite, chosen, root, allow_partial=True))
            except DataError as error:
                if split_name or chosen in suite.default_splits:
                    raise
                note(f"left out: {error.message}")
    report = audit(splits)
    if output is not None:
        report.write(output)
    if as_json:
        out.file.write(json.dumps(report.to_json(), ensure_ascii=False) + "\n")
        return
    table = console.columns("split", "images", "to drop from it", "shares images with")
    for name, images in report.images.items():
        shared = [f"{o.second} {o.images:,}" for o in report.overlaps if o.first == name and o.images]
        drop = f"{len(report.drop[name]):,}" if name in report.drop else ""
        table.add_row(name, f"{images:,}", drop, ", ".join(shared) or "none")
    out.print(table)
    if output is not None:
        out.print(Text(f"written to {output}", style="dim"), soft_wrap=True)


_SHOWN = 20


def _is_made(suite: SuiteCard, split: str, root: Path) -> bool:
    from lens_bench.data import shapes

    return shapes.is_made(suite.name, split, root)


def _make(suite: SuiteCard, split: str, root: Path, workers: int) -> Path:
    from lens_bench.data import shapes

    with counting(f"generating {suite.name} {split}") as progress:
        return shapes.make(suite.name, split, root, workers=workers, progress=progress)


def _verify_pixels(suite: SuiteCard, split: str, root: Path) -> None:
    from lens_bench.data import shapes

    shapes.verify(suite.name, split, root)
