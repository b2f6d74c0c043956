"""The average that RefCOCO tables print, and what it hides.

Papers print the plain mean of eight cIoU values: RefCOCO val, testA, testB, RefCOCO+ val, testA, testB, RefCOCOg (UMD)
val, test. It weighs a split of 4,889 expressions like one of 10,834. Beside it stands the pooled cIoU of measured runs:
the sum of all intersections over the sum of all unions of the eight splits, with whole images resampled for its
interval.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from lens_bench.errors import DataError
from lens_bench.report.leaderboard.measured import PER_BENCHMARK, Found, Run, flat_metrics
from lens_bench.report.leaderboard.rows import Average
from lens_bench.report.namesakes import system_of
from lens_bench.report.published import PublishedRow
from lens_bench.run.results import read_results
from lens_bench.scoring.protocols import get_protocol
from lens_bench.scoring.ratios import ratios
from lens_bench.scoring.stats import intervals
from lens_bench.scoring.table import ScoreTable

FAMILY = "refcoco-family"
EIGHT_CELLS = (
    ("refcoco", "val"),
    ("refcoco", "testA"),
    ("refcoco", "testB"),
    ("refcoco+", "val"),
    ("refcoco+", "testA"),
    ("refcoco+", "testB"),
    ("refcocog", "val"),
    ("refcocog", "test"),
)
MEAN8 = "_mean8"
_Cell = tuple[str, str]


@dataclass(frozen=True, slots=True)
class PrintedAverage:
    """A printed average beside the mean of its own cells, both fractions.

    Attributes:
        tolerance: What rounding of the cells and of the average can explain.
    """

    row: PublishedRow
    recomputed: float
    tolerance: float

    @property
    def matches(self) -> bool:
        """Whether rounding explains the difference."""
        return abs(self.row.value - self.recomputed) <= self.tolerance + 1e-12


def printed_averages(rows: Iterable[PublishedRow]) -> list[PrintedAverage]:
    """Recompute every printed mean of eight cells from the cells of the same model and source.

    Raises:
        KeyError: An average has no eight cells.
    """
    listed = list(rows)
    cells = _published_cells(listed)
    found = []
    for row in listed:
        if row.suite == FAMILY and row.metric.endswith(MEAN8):
            eight = cells[row.model, row.source, row.metric.removesuffix(MEAN8)]
            own = [eight[cell] for cell in EIGHT_CELLS]
            found.append(PrintedAverage(row, _mean(own), row.rounding + max(c.rounding for c in own)))
    return found


def published_averages(rows: Iterable[PublishedRow], metric: str) -> list[Average]:
    """One average for every model and source that has all eight cells of ``metric``, recomputed from the cells."""
    listed = list(rows)
    printed = {(r.model, r.source): r for r in listed if r.suite == FAMILY and r.metric == metric + MEAN8}
    found = []
    for (model, source, name), cells in _published_cells(listed).items():
        if name != metric or len(cells) < len(EIGHT_CELLS):
            continue
        own = [cells[cell] for cell in EIGHT_CELLS]
        given = printed.get((model, source))
        found.append(
            Average(
                kind="published",
                model=model,
                metric=metric,
                mean8=_mean(own),
                printed=str(given.printed) if given and given.verified else "",
                protocol=own[0].protocol,
                oracle=any(c.sees_ground_truth for c in own),
                disputed=any(c.disputed for c in own),
                verified=all(c.verified for c in own),
                source=source,
                notes=tuple(n for n in (given.note if given and given.verified else own[0].note,) if n),
            )
        )
    return found


def measured_averages(measured: Found, metric: str) -> list[Average]:
    """One average for every model, weights, settings and protocol with all eight cells measured completely.

    A model that has the eight cells only over several checkpoints, one for each split, gets one row that says so and is
    not ranked. Files of predictions are one submission where their name and their source are equal and no split has two
    of them.
    """
    groups: dict[tuple[str, str, str], dict[str, dict[_Cell, Run]]] = defaultdict(lambda: defaultdict(dict))
    apart, per_benchmark = measured.distinctions, measured.per_benchmark
    for run in sorted(measured.runs, key=lambda r: r.manifest.created):  # of two runs of a cell the newer stays
        cell = (run.manifest.suite, run.manifest.split)
        if cell in EIGHT_CELLS and run.whole:
            together = "" if run.manifest.model in measured.repeated else run.submission
            group = groups[run.manifest.model, run.protocol, together or run.variant]
            group["" if together else run.manifest.weight_digest][cell] = run
    found = []
    for by_digest in groups.values():
        single = [cells for cells in by_digest.values() if len(cells) == len(EIGHT_CELLS)]
        if not single and any(r.manifest.model in per_benchmark for c in by_digest.values() for r in c.values()):
            mixture = {cell: run for cells in by_digest.values() for cell, run in cells.items()}
            single = [mixture] if len(mixture) == len(EIGHT_CELLS) else []
        for cells in single:
            distinct = apart.get(system_of(next(iter(cells.values())).manifest), "")
            average = _measured(cells, metric)
            found += [replace(average, distinct=distinct)] if average is not None else []
    return found


def _measured(cells: Mapping[_Cell, Run], metric: str) -> Average | None:
    runs = [cells[cell] for cell in EIGHT_CELLS]
    values = []
    for run in runs:
        block = run.summary["metrics"]
        value = flat_metrics(block).get(metric) if isinstance(block, dict) else None
        if value is None:
            return None
        values.append(value)
    digests = tuple(dict.fromkeys(run.manifest.weight_digest for run in runs))
    files = len(digests) > 1 and not any(run.manifest.timed for run in runs)
    several = f"{len(digests)} predictions files of one submission" if files else PER_BENCHMARK
    average = Average(
        kind="measured",
        model=runs[0].manifest.model,
        metric=metric,
        mean8=sum(values) / len(values),
        protocol=runs[0].protocol,
        suite_hashes=tuple(run.manifest.suite_hash for run in runs),
        weight_digests=digests,
        oracle=any(run.manifest.sees_ground_truth for run in runs),
        source=str(runs[0].manifest.model_card.get("source") or "") if files else "",
        one_submission=files,
        notes=(several,) if len(digests) > 1 else (),
    )
    return _pooled(average, runs) if metric == "ciou" else average


def _pooled(average: Average, runs: Sequence[Run]) -> Average:
    """Add the pooled cIoU: every expression of the eight splits in one pair of sums, images resampled."""
    protocol = get_protocol(average.protocol)
    try:
        every = [read_results(r.files, r.manifest, r.other_protocol).scores for r in runs]
        table = ScoreTable.of(chain.from_iterable(every))
    except DataError as error:
        return replace(average, notes=(*average.notes, f"no pooled cIoU: {error.message}"))
    ratio = ratios(table, protocol)["ciou"]
    interval = intervals(table, protocol, ["ciou"])["ciou"]
    low, high = interval if interval else (None, None)
    return replace(average, pooled=ratio.value if ratio else None, low=low, high=high)


def _published_cells(rows: Iterable[PublishedRow]) -> dict[tuple[str, str, str], dict[_Cell, PublishedRow]]:
    """Cells of the eight by model, source and metric."""
    cells: dict[tuple[str, str, str], dict[_Cell, PublishedRow]] = defaultdict(dict)
    for row in rows:
        if (row.suite, row.split) in EIGHT_CELLS and not row.subset:
            cells[row.model, row.source, row.metric][row.suite, row.split] = row
    return dict(cells)


def _mean(rows: Sequence[PublishedRow]) -> float:
    return sum(row.value for row in rows) / len(rows)
