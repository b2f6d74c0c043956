"""A page from run directories: read, choose, draw, render, write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lens_bench.atomic import write_text
from lens_bench.errors import DataError, UsageError
from lens_bench.records import Prediction
from lens_bench.report.compare import Comparison, compare_runs
from lens_bench.report.page.choose import Chosen, choose
from lens_bench.report.page.facts import (
    LETTERS,
    differences,
    highlights,
    metric_lines,
    run_facts,
    speed_rows,
    speed_warnings,
    stage_bars,
    tag_lines,
)
from lens_bench.report.page.pictures import Album, make_album
from lens_bench.report.page.plots import InlinePlot, inline_plots
from lens_bench.report.page.protocols import other_protocol_rows
from lens_bench.report.page.render import render
from lens_bench.report.page.rows import Rows, collect_rows, rows_json
from lens_bench.report.page.suite_view import SuiteView, open_suite
from lens_bench.report.runset import ScoredRun, load_run, runs_at, runs_by_split
from lens_bench.run.files import JsonObject, RunFiles
from lens_bench.run.journal import read


@dataclass(frozen=True, slots=True)
class PageOptions:
    """What goes into a page.

    Attributes:
        data_root: Where the suite's annotations and images are looked for; by default where the run found them.
        suite: Name or path of the suite card, where the one of the manifest's name is not it.
        pictures: Samples in each list of the gallery.
        side: Longest side of a picture in pixels.
        max_picture_bytes: Limit of pictures and masks in the file; what is beyond it is left out and counted.
        max_text_bytes: The same for the models' texts, for each run.
        seed: Of the random samples.
        plots: Whether plots are drawn.
        protocol: One that the runs are scored under; by default their own. The page has a row for each of the others.
    """

    data_root: Path | None = None
    suite: str | None = None
    pictures: int = 24
    side: int = 480
    max_picture_bytes: int = 12_000_000
    max_text_bytes: int = 4_000_000
    seed: int = 0
    plots: bool = True
    protocol: str | None = None


@dataclass(frozen=True, slots=True)
class PageInfo:
    """A page that was written.

    Attributes:
        samples: In its table.
        drawn: Of them, with masks; ``pictures`` is the number of different pictures.
        notes: What was left out and why; the page says the same.
        damaged: The errors of scores under other protocols that the page leaves out; it says so.
    """

    path: Path
    samples: int
    drawn: int
    pictures: int
    notes: tuple[str, ...]
    damaged: tuple[DataError, ...]


def report(
    paths: Sequence[Path],
    output: Path | None = None,
    options: PageOptions | None = None,
    left_out: list[DataError] | None = None,
) -> list[PageInfo]:
    """Write the pages that RUN arguments ask for.

    One argument gives a page for every run at or below it; two give a page for every split that both were run on, the
    second against the first.

    Args:
        paths: Run directories, or folders that hold runs.
        output: The file, where there is one page; else a folder. By default each page lies in its run directory, as
            ``report.html`` or ``report-against-<other run>.html``.
        options: See ``PageOptions``.
        left_out: Gets the errors of damaged runs where several pages are asked for, and of scores under other protocols
            that a page leaves out.

    Raises:
        UsageError: A path is no run, the number of paths does not fit, or one file is named for several pages.
        DataError: No page can be written: a run is damaged, or two were not made on the same ground truth.
    """
    damaged: list[DataError] = []
    groups = _groups(paths, damaged)
    if output is not None and output.suffix == ".html" and len(groups) > 1:
        raise UsageError(f"{output} is one file, {len(groups)} pages were asked for", "name a folder, or one run")
    chosen = options or PageOptions()
    pages: list[PageInfo] = []
    for group in groups:
        try:
            pages.append(write_page(group, _target(group, output), chosen))
        except DataError as error:
            damaged.append(error)
    if damaged and (not pages or left_out is None):
        raise damaged[0]
    if left_out is not None:
        left_out += [*damaged, *(error for page in pages for error in page.damaged)]
    return pages


def write_page(runs: Sequence[RunFiles], path: Path, options: PageOptions) -> PageInfo:
    """Write the page of one run, or of two runs of one split, atomically.

    Raises:
        UsageError: Two runs are not of one split, or scored under different protocols.
        DataError: A run is damaged, or the two were not made on the same ground truth.
    """
    loaded = [load_run(files, options.protocol) for files in runs]
    comparison = compare_runs(loaded[0], loaded[1]) if len(loaded) > 1 else None
    view = open_suite(loaded[0], options.data_root, options.suite)
    rows = collect_rows(loaded)
    predictions = [{p.sample_id: p for p in read(run.files.predictions)} for run in loaded]
    lists = choose(rows.sample_ids, rows.values, options.pictures, options.seed)
    album = _album(lists, rows, view, predictions, loaded[0], options)
    table, cut = rows_json(rows, view, predictions, options.max_text_bytes)
    notes = _notes(view, album, cut, comparison)
    expressions = {i: s.expression for i, s in view.samples.items()}
    plots = inline_plots(loaded, expressions) if options.plots else ()
    protocols, unread = other_protocol_rows(loaded)
    said = [*notes, *(f"left out: {error.message}" for error in unread)]
    context = {**_context(loaded, comparison, plots, said), "protocols": protocols}
    text = render(context, _data(loaded, table, lists, album))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return PageInfo(path, len(rows.sample_ids), len(album.items), len(album.pictures), tuple(notes), tuple(unread))


def _groups(paths: Sequence[Path], left_out: list[DataError]) -> list[tuple[RunFiles, ...]]:
    if len(paths) == 1:
        return [(files,) for files in runs_at(paths[0], left_out)]
    if len(paths) != 2:
        raise UsageError(f"a page shows one run or compares two, {len(paths)} were given")
    first, second = runs_by_split(paths[0], left_out), runs_by_split(paths[1], left_out)
    if len(first) == len(second) == 1:  # whatever is wrong with the pair is said by the comparison
        return [(*first.values(), *second.values())]
    shared = [(first[key], second[key]) for key in first if key in second]
    if not shared:
        raise UsageError(f"{paths[0]} and {paths[1]} were not run on the same split", "name runs of one split")
    return [tuple(pair) for pair in shared]


def _target(group: Sequence[RunFiles], output: Path | None) -> Path:
    root = group[-1].root.resolve()  # `.` has no name
    name = "report.html" if len(group) == 1 else f"report-against-{group[0].root.resolve().name}.html"
    if output is None:
        return group[-1].root / name
    if output.suffix == ".html":
        return output
    return output / f"{root.parent.parent.name}-{root.parent.name}-{root.name}-{name}"


def _album(
    lists: Sequence[Chosen],
    rows: Rows,
    view: SuiteView,
    predictions: Sequence[Mapping[str, Prediction]],
    run: ScoredRun,
    options: PageOptions,
) -> Album:
    """Draw the lists in turn, first entries first, so that a limit shortens all of them alike."""
    turns = [row for turn in range(options.pictures) for chosen in lists for row in chosen.rows[turn : turn + 1]]
    samples = {row: view.samples[rows.sample_ids[row]] for row in turns if rows.sample_ids[row] in view.samples}
    return make_album(turns, samples, predictions, run.protocol, side=options.side, max_bytes=options.max_picture_bytes)


def _notes(view: SuiteView, album: Album, cut: int, comparison: Comparison | None) -> list[str]:
    notes = []
    if comparison and (comparison.only_a or comparison.only_b):
        notes.append(f"{comparison.only_a} expressions only in A and {comparison.only_b} only in B are in no metric")
    if view.missing:
        notes.append(f"Pictures, ground truth and expressions are left out: {view.missing}")
    if album.without_picture:
        first = view.image_name(album.without_picture[0])
        notes.append(
            f"{len(album.without_picture)} pictures cannot be read (the first: {first}); "
            "their masks and boxes are drawn on a plain ground"
        )
    if album.left_out:
        notes.append(f"{album.left_out} samples of the gallery are left out to keep this file small")
    if cut:
        notes.append(f"{cut} texts of models are left out to keep this file small; they are in predictions.jsonl")
    return notes


def _context(
    runs: Sequence[ScoredRun], comparison: Comparison | None, plots: Sequence[InlinePlot], notes: Sequence[str]
) -> dict[str, object]:
    first = runs[0]
    tag_metric, tags = tag_lines(runs, comparison)
    metrics = metric_lines(runs, comparison)
    return {
        "where": first.where,
        "heading": _heading(comparison) if comparison else first.manifest.model,
        "letters": LETTERS[: len(runs)],
        "runs": runs,
        "two": comparison is not None,
        "comparison": comparison,
        "notes": notes,
        "metrics": metrics,
        "differences": differences(runs[0], runs[1]) if comparison else [],
        "highlights": highlights(metrics, runs),
        "tag_metric": tag_metric,
        "tags": tags,
        "speed": speed_rows(runs),
        "speed_warnings": speed_warnings(runs),
        "stages": stage_bars(runs),
        "plots": plots,
        "facts": [run_facts(run) for run in runs],
        "protocol": first.protocol,
    }


def _heading(comparison: Comparison) -> str:
    names = comparison.a.model, comparison.b.model
    if names[0] == names[1]:
        names = comparison.a.label, comparison.b.label
    return f"{names[1]} against {names[0]}"


def _data(runs: Sequence[ScoredRun], table: JsonObject, lists: Sequence[Chosen], album: Album) -> JsonObject:
    return {
        "runs": [{"letter": LETTERS[i], "label": run.label} for i, run in enumerate(runs)],
        "samples": table,
        "lists": [{"name": c.name, "title": c.title, "rows": list(c.rows)} for c in lists],
        "items": album.items,
        "pictures": album.pictures,
    }
