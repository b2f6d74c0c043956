"""What the commands that work on finished runs do: leaderboard, compare, gate, report, view. None needs a model."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from lens_bench.atomic import write_text
from lens_bench.console import note, out, print_json, refuse_damaged
from lens_bench.errors import DataError, UsageError
from lens_bench.progress import waiting
from lens_bench.registry import home, suggest
from lens_bench.run.files import RunFiles
from lens_bench.trained import LOG, REPORT, Trained, open_trained

if TYPE_CHECKING:
    from lens_bench.report.leaderboard import Leaderboard

FORMATS = ("table", "csv", "md", "html")


def leaderboard(
    results: Path, *, suite: str | None, metric: str, include: Sequence[str], kind: str, output: Path | None
) -> None:
    """Show the board or write it; the whole board is also kept as ``leaderboard.csv`` beside the runs' folder.

    A selection (a suite, another metric, one kind of row) never replaces the files of the whole board: its own files
    have the selection in their names.
    """
    from lens_bench.report.leaderboard import build, rich_table, write_csv, write_html, write_markdown

    if kind not in FORMATS:
        raise UsageError(f"there is no format {kind!r}", suggest(kind, FORMATS) or f"one of: {', '.join(FORMATS)}")
    if "measured" in include and not results.is_dir():
        note(f"there is no folder {results}, so nothing measured is shown; --results names it")
    board = build(results, home("results") / "published.csv", suite, metric, frozenset(include))
    folder = results.parent if results.name == "runs" else results
    chosen = _selection(suite, metric, include)
    name = "-".join(["leaderboard", *chosen])
    written: dict[Path, Callable[[Leaderboard, Path], None]] = {}
    if not chosen and not (output and kind in ("csv", "table")):
        written[folder / "leaderboard.csv"] = write_csv
    if kind != "table" or output:
        writer = {"md": write_markdown, "html": write_html}.get(kind, write_csv)
        written[output or folder / f"{name}.{kind}"] = writer
    for path, write in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write(board, path)
    if kind == "table":
        out.print(rich_table(board))
    for path in written:
        out.print(Text(str(path), style="dim"), soft_wrap=True)
    refuse_damaged(board.damaged)


def _selection(suite: str | None, metric: str, include: Sequence[str]) -> list[str]:
    """What a board leaves out, as parts of a file name; empty for the whole board."""
    kinds = [] if set(include) == {"measured", "published"} else list(include)
    chosen = [part for part in (suite or "", "" if metric == "ciou" else metric, *kinds) if part]
    return [re.sub(r"[^A-Za-z0-9.+_-]+", "-", part) for part in chosen]


def compare(a: Path, b: Path, *, protocol: str | None, repeats: bool, markdown: Path | None, as_json: bool) -> None:
    """Compare two runs, two models on every split that both were run on, or two methods by several trainings each."""
    if repeats:
        _compare_repeats(a, b, protocol, markdown, as_json)
        return
    from lens_bench.report.compare import compare_paths
    from lens_bench.report.compare_text import comparison_markdown, comparison_renderable

    found = compare_paths(a, b, protocol=protocol)
    if markdown is not None:
        write_text(markdown, comparison_markdown(found))
    if as_json:
        print_json(found.to_json())
    else:
        out.print(comparison_renderable(found))
    refuse_damaged(found.left_out)


def _compare_repeats(a: Path, b: Path, protocol: str | None, markdown: Path | None, as_json: bool) -> None:
    from lens_bench.report.repeats import compare_repeats
    from lens_bench.report.repeats_text import repeats_markdown, repeats_renderable

    found = compare_repeats(a, b, protocol=protocol)
    if markdown is not None:
        write_text(markdown, repeats_markdown(found))
    if as_json:
        print_json({"repeats": [one.to_json() for one in found]})
    else:
        out.print(repeats_renderable(found))


def gate(
    run: Path,
    against: Path,
    *,
    protocol: str | None,
    strict: bool,
    junit: Path | None,
    markdown: Path | None,
    as_json: bool,
) -> None:
    """Judge a run against a reference; raises ``GateError`` where it fails."""
    from lens_bench.report.gate import gate as judge
    from lens_bench.report.gate_reference import read_reference
    from lens_bench.report.gate_text import verdict_junit, verdict_markdown, verdict_renderable

    reference = read_reference(against)
    verdict = judge(_one_run(run, (reference.suite, reference.split)), against, protocol=protocol)
    if junit is not None:
        write_text(junit, verdict_junit(verdict, strict=strict))
    if markdown is not None:
        write_text(markdown, verdict_markdown(verdict))
    if as_json:
        print_json(verdict.to_json())
    else:
        out.print(verdict_renderable(verdict))
    verdict.enforce(strict)


def update_gate(
    run: Path,
    against: Path,
    *,
    protocol: str | None,
    margin: float | None,
    tolerances: Sequence[str],
    metric: str | None,
    yes: bool,
) -> None:
    """Make a run the reference; the margin is given in points (percent). One that lowers it needs ``yes``."""
    from lens_bench.report.figures import percent, title
    from lens_bench.report.gate import update
    from lens_bench.report.gate_reference import read_reference

    limits: dict[str, float] = {}
    for text in tolerances:
        name, _, value = text.partition("=")
        try:
            limits[name] = float(value)
        except ValueError:
            raise UsageError(f"--tolerance {text} is not of the form figure=ratio", "latency_p50_ms=1.2") from None
    against.parent.mkdir(parents=True, exist_ok=True)
    share = None if margin is None else margin / 100
    old = read_reference(against) if against.exists() else None
    reference = update(
        _one_run(run),
        against,
        margin=share,
        tolerances=limits or None,
        metric=metric,
        protocol=protocol,
        allow_lower=yes,
    )
    before = "" if old is None else f", before {title(old.metric)} {percent(old.value)} of {old.model}-{old.digest}"
    out.print(
        f"{against}: {reference.suite} {reference.split}, {title(reference.metric)} {percent(reference.value)} of "
        f"{reference.model}-{reference.digest}{before}, margin {100 * reference.margin:g} points",
        soft_wrap=True,
    )


def report(
    runs: Sequence[Path],
    *,
    output: Path | None,
    plots: Path | None,
    data_root: Path | None,
    suite: str | None,
    pictures: int,
    protocol: str | None,
) -> None:
    """Write the pages of one run or of two against each other, or of trainings; with ``plots`` also figures of any."""
    from lens_bench.report.page.build import PageOptions
    from lens_bench.report.page.build import report as write_pages

    trainings = {path: found for path in runs if (found := _training(path)) is not None}
    runs = [path for path in runs if path not in trainings]
    if trainings:
        _report_trainings(list(trainings.values()), output, plots, alone=not runs)
    damaged: list[DataError] = []
    if plots is not None and runs:
        _draw(runs, plots, data_root, suite, protocol, damaged)
    if not runs or (len(runs) > 2 and plots is not None):
        refuse_damaged(damaged)
        return
    options = PageOptions(data_root=data_root, suite=suite, pictures=pictures, protocol=protocol)
    damaged.clear()  # the pages find the same
    with waiting("writing the page"):
        pages = write_pages(runs, output, options, damaged)
    for page in pages:
        for text in page.notes:
            note(text)
        out.print(Text(str(page.path)), soft_wrap=True)
    refuse_damaged(damaged)


def _training(path: Path) -> Trained | Path | None:
    """The training that a path names, or the log of one that was kept without its folder; None for anything else."""
    if path.is_file():
        return path if path.suffix == ".jsonl" else None
    if (found := open_trained(path)) is not None and not (path / "manifest.json").is_file():
        return found
    return Trained(path, (path,)) if (path / LOG).is_file() else None


def _report_trainings(
    trainings: Sequence[Trained | Path], output: Path | None, plots: Path | None, *, alone: bool
) -> None:
    """Write a page for each training, and with ``plots`` figures of every stage that has done a step."""
    from lens_bench.report.page.training import write_training_page
    from lens_bench.report.plots import draw_training

    folders = [found for found in trainings if isinstance(found, Trained)]
    one_file = output is not None and output.suffix == ".html"
    if one_file and len(folders) + (not alone) > 1:
        raise UsageError(f"{output} is one file, several pages were asked for", "name a folder")
    if plots is None and len(folders) < len(trainings):
        raise UsageError("a log alone has curves and no page", "--plots DIR draws them")
    if plots is not None:
        logs = [log for found in trainings for log in _logs(found)]
        for log in logs:
            name = "training" if len(logs) == 1 else f"training-{log.parent.resolve().name}"
            for path in draw_training(log, plots, name):
                out.print(Text(str(path)), soft_wrap=True)
    for found in folders:
        target = found.folder / REPORT
        if output is not None:
            target = output if one_file else output / f"{found.folder.resolve().name}-report.html"
        out.print(Text(str(write_training_page(found, target))), soft_wrap=True)


def _logs(found: Trained | Path) -> list[Path]:
    """Logs with a step in them."""
    if isinstance(found, Path):
        return [found]
    return [log for stage in found.stages if (log := stage / LOG).is_file() and log.stat().st_size]


def _draw(
    runs: Sequence[Path],
    folder: Path,
    data_root: Path | None,
    suite: str | None,
    protocol: str | None,
    damaged: list[DataError],
) -> None:
    """Draw what can be read; ``damaged`` gets the errors of the rest."""
    from lens_bench.report.page.suite_view import open_suite
    from lens_bench.report.plots import draw
    from lens_bench.report.runset import load_run, runs_at

    found = [files for path in runs for files in runs_at(path, damaged)]
    with waiting("drawing"):
        expressions: dict[str, str] = {}
        sound = []
        for files in found:
            try:
                view = open_suite(load_run(files, protocol), data_root, suite)
            except DataError as error:
                damaged.append(error)
                continue
            sound.append(files)
            expressions |= {i: s.expression for i, s in view.samples.items()}
        if not sound:
            raise damaged[0]
        drawing = draw(sound, folder, expressions, protocol)
    damaged += drawing.damaged
    for text in drawing.left_out:
        note(f"not drawn: {text}")
    for path in drawing.paths:
        out.print(Text(str(path)), soft_wrap=True)


def view(folder: Path, port: int, *, protocol: str | None) -> None:
    """Serve the reports of a folder to this machine until interrupted."""
    from lens_bench.report.view import open_server, serve, url_of

    server = open_server(folder, port, protocol)
    out.print(f"{url_of(server)} (Ctrl-C stops)", soft_wrap=True)
    try:
        serve(server)
    except KeyboardInterrupt:
        note("stopped")


def _one_run(path: Path, where: tuple[str, str] | None = None) -> RunFiles:
    """The run that a path names: itself, or the only one below it (of that suite and split)."""
    from lens_bench.report.runset import runs_by_split

    damaged: list[DataError] = []
    found = runs_by_split(path, damaged)
    if where is not None and where in found:
        return found[where]
    if damaged:  # it may be the one that is meant
        raise damaged[0]
    if len(found) == 1:
        return next(iter(found.values()))
    if where is not None:
        raise DataError(f"{path} has no run on {' '.join(where)}", "the reference is of that suite and split")
    raise UsageError(f"{path} holds {len(found)} runs", "name one run directory")
