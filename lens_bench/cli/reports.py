"""Options of `leaderboard`, `compare`, `gate`, `report` and `view`: what works from run directories alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lens_bench.cli.options import AsJson, DataRoot, OneProtocol, command
from lens_bench.errors import UsageError

Runs = typer.Argument(metavar="RUN", help="A run directory, or a folder with the runs of one model.")


@command
def compare(
    a: Annotated[Path, typer.Argument(metavar="RUN_A", help="A run directory, or a folder with the runs of a model.")],
    b: Annotated[Path, typer.Argument(metavar="RUN_B", help="The one that is compared with it.")],
    repeats: Annotated[
        bool,
        typer.Option(
            "--repeats",
            help="Each side is a folder with runs of several trainings (seeds) of one method: compare their means.",
        ),
    ] = False,
    protocol: OneProtocol = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the comparison as Markdown, too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two runs on the same samples: every metric's change with its interval, by split and tag."""
    from lens_bench.commands import reports

    reports.compare(a, b, protocol=protocol, repeats=repeats, markdown=markdown, as_json=as_json)


@command
def gate(
    run: Annotated[Path, Runs],
    against: Annotated[Path, typer.Option(help="The reference, e.g. results/gates/X.json.")],
    protocol: OneProtocol = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail, too, where something could not be judged.")] = False,
    update: Annotated[bool, typer.Option("--update", help="Make this run the reference instead.")] = False,
    margin: Annotated[
        float | None, typer.Option(min=0, help="With --update: accepted loss in points (default 0.5, or as before).")
    ] = None,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(help="With --update: limit of new/old for a speed figure, e.g. latency_p50_ms=1.2. Repeatable."),
    ] = None,
    metric: Annotated[str | None, typer.Option(help="With --update: the judged metric (default ciou).")] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="With --update: replace a reference that is better than the run.")
    ] = False,
    junit: Annotated[Path | None, typer.Option(help="Write the verdict as JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the verdict as Markdown.")] = None,
    as_json: AsJson = False,
) -> None:
    """Judge whether a run is worse than a reference: pass, inconclusive, or regression (exit code 3)."""
    from lens_bench.commands import reports

    if update:
        reports.update_gate(
            run, against, protocol=protocol, margin=margin, tolerances=tolerance or [], metric=metric, yes=yes
        )
    elif margin is not None or tolerance or metric or yes:
        raise UsageError("--margin, --tolerance, --metric and --yes change the reference", "use them with --update")
    else:
        reports.gate(run, against, protocol=protocol, strict=strict, junit=junit, markdown=markdown, as_json=as_json)


@command
def leaderboard(
    suite: Annotated[str | None, typer.Option("--suite", "-s", help="Only this suite.")] = None,
    metric: Annotated[str, typer.Option(help="ciou, giou, precision_0.5, box_acc_0.5, ...")] = "ciou",
    include: Annotated[str, typer.Option(help="published, measured or both.")] = "published,measured",
    kind: Annotated[
        str, typer.Option("--format", help="table, csv, md or html; the whole board is also kept as CSV.")
    ] = "table",
    results: Annotated[Path, typer.Option(help="Folder that holds the runs.")] = Path("results/runs"),
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File to write; default: leaderboard[-SELECTION].* beside the runs."),
    ] = None,
) -> None:
    """Rank measured runs, with intervals and speed, beside published numbers with their sources."""
    from lens_bench.commands import reports

    words = [word for word in include.split(",") if word]
    reports.leaderboard(results, suite=suite, metric=metric, include=words, kind=kind, output=output)


@command
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="One run, or two to see the second against it; or trainings: the folder of a stage or of a chain.",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The page, or a folder for several; default: in the run.")
    ] = None,
    plots: Annotated[Path | None, typer.Option(help="Write figures (SVG, PNG) here; takes any number of runs.")] = None,
    data_root: DataRoot = None,
    suite: Annotated[str | None, typer.Option("--suite", "-s", help="The suite card, if another.")] = None,
    pictures: Annotated[int, typer.Option(min=0, help="Samples in each list of the gallery.")] = 24,
    protocol: OneProtocol = None,
) -> None:
    """Write a self-contained page that opens offline: of a run, with metrics, figures, every sample and a gallery; of a
    training, with the curves, rewards and evaluations of its stages.
    """  # noqa: D205 - one paragraph of help
    from lens_bench.commands import reports
    from lens_bench.commands.data import given_root

    root = given_root(data_root)
    reports.report(runs, output=output, plots=plots, data_root=root, suite=suite, pictures=pictures, protocol=protocol)


@command
def view(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with reports.")] = Path("results"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8765,
    protocol: OneProtocol = None,
) -> None:
    """Serve the reports of a folder to this machine's own browser."""
    from lens_bench.commands import reports

    reports.view(folder, port, protocol=protocol)
