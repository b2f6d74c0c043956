"""Putting a leaderboard together."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from lens_bench.errors import UsageError
from lens_bench.report.leaderboard.averages import EIGHT_CELLS, FAMILY, measured_averages, published_averages
from lens_bench.report.leaderboard.measured import Found, collect, flat_metrics, rows_of
from lens_bench.report.leaderboard.ranking import averages_in_order, in_order, rank
from lens_bench.report.leaderboard.rows import KINDS, Leaderboard, Row
from lens_bench.report.namesakes import system_of
from lens_bench.report.published import PublishedRow, read_published

_FAMILY_SUITES = frozenset({FAMILY, *(suite for suite, _ in EIGHT_CELLS)})


def build(
    results: Path,
    published: Path,
    suite: str | None = None,
    metric: str = "ciou",
    include: frozenset[str] = frozenset(KINDS),
) -> Leaderboard:
    """Collect the runs below ``results`` and the rows of ``published``, and rank what may be ranked.

    Args:
        results: Folder that holds run directories at any depth. One that does not exist holds none.
        published: The CSV file of published numbers; read only where it is included.
        suite: Only this suite. The eight-cell averages are shown with any of their suites.
        metric: Flat name of a metric, e.g. ``ciou``, ``giou``, ``box_acc_0.5``, ``precision_0.5``.
        include: ``measured``, ``published`` or both.

    Raises:
        UsageError: ``include`` holds another word; or nothing at all has this suite or metric.
        DataError: The published numbers are missing or malformed.
    """
    if not include or not include <= set(KINDS):
        raise UsageError(
            f"cannot include {', '.join(sorted(include - set(KINDS))) or 'nothing'}", "measured, published"
        )
    found = collect(results) if "measured" in include else Found((), ())
    printed = read_published(published) if "published" in include else ()
    _check_known(suite, metric, found, printed)
    apart, several = found.distinctions, found.per_benchmark
    rows = [
        row
        for run in found.runs
        for row in rows_of(
            run,
            metric,
            results,
            distinct=apart.get(system_of(run.manifest), ""),
            per_benchmark=run.manifest.model in several,
        )
    ]
    rows += [_published_row(p) for p in printed if p.metric == metric]
    averages = published_averages(printed, metric)
    if suite is None or suite in _FAMILY_SUITES:
        averages = measured_averages(found, metric) + averages
    else:
        averages = []
    wanted = [row for row in rows if suite is None or row.suite == suite]
    return Leaderboard(
        metric=metric,
        rows=tuple(in_order(rank(wanted, metric))),
        averages=tuple(averages_in_order(rank(averages, metric))),
        notes=found.notes,
        damaged=found.damaged,
    )


def _published_row(row: PublishedRow) -> Row:
    doubts = ("unverified",) if not row.verified else ()
    return Row(
        kind="published",
        model=row.model,
        suite=row.suite,
        split=row.split,
        subset=row.subset,
        metric=row.metric,
        value=row.value,
        printed=str(row.printed),
        protocol=row.protocol,
        oracle=row.sees_ground_truth,
        disputed=row.disputed,
        verified=row.verified,
        source=row.source,
        training=row.training,
        notes=(*(("disputed",) if row.disputed else ()), *doubts, *((row.note,) if row.note else ())),
    )


def _check_known(suite: str | None, metric: str, found: Found, printed: Iterable[PublishedRow]) -> None:
    """A suite or metric that no row has is a mistake of the user, as long as there are rows at all."""
    published = list(printed)
    if not published and not found.runs:
        return
    suites = {p.suite for p in published} | {r.manifest.suite for r in found.runs}
    if suite is not None and suite not in suites:
        raise UsageError(f"no result is of a suite called {suite!r}", _near(suite, suites))
    metrics = {p.metric for p in published}
    for run in found.runs:
        block = run.summary.get("metrics")
        metrics |= set(flat_metrics(block)) if isinstance(block, dict) else set()
    if metric not in metrics:
        raise UsageError(f"no result has a metric called {metric!r}", _near(metric, metrics))


def _near(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(sorted(known))}"
