"""How the cells of a leaderboard read, the same in Markdown, HTML and the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from itertools import groupby

from lens_bench.report.figures import title
from lens_bench.report.leaderboard.rows import Average, Leaderboard, Row, RowSpeed

MEASURED_HEAD = (
    "#",
    "Model",
    "{metric} %",
    "95 % interval",
    "Protocol",
    "Split content",
    "Weights",
    "Date",
    "Expressions",
    "Images/s",
    "p50 ms",
    "p99 ms",
    "Requests/s",
    "Peak MiB",
    "Hardware",
    "Notes",
)
PUBLISHED_HEAD = ("#", "Model", "{metric} %", "Protocol", "Training", "Source", "Notes")
AVERAGE_HEAD = (
    "#",
    "Model",
    "Mean of 8 %",
    "As printed",
    "Pooled cIoU %",
    "95 % interval",
    "Protocol",
    "From",
    "Notes",
)
# The figures stand right, so that digits stand below one another.
NUMERIC = frozenset(
    {
        "#",
        "{metric} %",
        "Expressions",
        "Images/s",
        "p50 ms",
        "p99 ms",
        "Requests/s",
        "Peak MiB",
        "Mean of 8 %",
        "As printed",
        "Pooled cIoU %",
    }
)
EXPLANATION = (
    "A measured row is ranked only with complete runs of the same split content under the same protocol. "
    "Published rows are ranked only with published rows that state the same protocol, or none: what data and which "
    "weights are behind them cannot be checked. Oracles, runs on part of a split, unverified and disputed numbers are "
    "shown and not ranked. A place is given as place/number ranked. A speed in brackets compares with no other; the "
    "notes say why."
)
AVERAGES_EXPLANATION = (
    "The mean of RefCOCO val, testA, testB, RefCOCO+ val, testA, testB and RefCOCOg (UMD) val, test, as papers print "
    "it, and beside it the cIoU of all their expressions pooled."
)


@dataclass(frozen=True, slots=True)
class Section:
    """One split or one tag of it."""

    title: str
    anchor: str
    measured: tuple[Row, ...]
    published: tuple[Row, ...]


def head(names: Iterable[str], metric: str) -> list[str]:
    """The headings of a table."""
    return [name.replace("{metric}", title(metric)) for name in names]


def sections(board: Leaderboard) -> Iterator[Section]:
    """The rows of a leaderboard, one section a cell, in order."""
    for number, ((suite, split, subset, _), rows) in enumerate(groupby(board.rows, key=lambda r: r.cell)):
        listed = list(rows)
        name = " ".join(p for p in (suite, split, f"({subset})" if subset else "") if p)
        measured = tuple(r for r in listed if r.kind == "measured")
        yield Section(name, f"s{number}", measured, tuple(r for r in listed if r.kind == "published"))


def measured_cells(row: Row) -> list[str]:
    """The cells of ``MEASURED_HEAD``."""
    speed = row.speed
    own = [speed.images_per_s, speed.p50_ms, speed.p99_ms, speed.requests_per_s] if speed else [None] * 4
    doubt = speed is not None and not speed.comparable
    memory = f"{speed.peak_memory_mb:.0f} ({speed.memory_of})" if speed and speed.peak_memory_mb is not None else ""
    profiled = (_profiled(speed),) if speed is not None and speed.profiled else ()
    notes = (*row.notes, *profiled, *(f"speed not comparable: {r}" for r in (speed.reasons if speed and doubt else ())))
    return [
        place(row),
        _named(row),
        percent(row.value),
        interval(row.low, row.high),
        row.protocol,
        row.suite_hash[:8],
        row.weight_digest[:8],
        row.date[:10],
        "" if row.n_samples is None else f"{row.n_samples}",
        *(f"({_figure(v)})" if doubt and v is not None else _figure(v) for v in own),
        memory,
        speed.hardware if speed else "",
        "; ".join(notes),
    ]


def _profiled(speed: RowSpeed) -> str:
    """What the speed columns of a profiled row are."""
    bound = f", requests at {speed.bound}" if speed.bound else ""
    return f"speed: profile (throughput offline, latency single-stream{bound})"


def published_cells(row: Row) -> list[str]:
    """The cells of ``PUBLISHED_HEAD``."""
    notes = (*(("oracle: sees the ground truth",) if row.oracle else ()), *row.notes)
    return [
        place(row),
        row.model,
        row.printed,
        row.protocol or "not stated",
        row.training,
        row.source,
        "; ".join(notes),
    ]


def average_cells(row: Average) -> list[str]:
    """The cells of ``AVERAGE_HEAD``."""
    if row.one_submission:
        origin = f"measured, predictions of {row.source}"
    elif row.kind == "measured":
        origin = f"measured, weights {', '.join(d[:8] for d in row.weight_digests)}"
    else:
        origin = row.source
    marks = (
        *(("oracle: sees the ground truth",) if row.oracle else ()),
        *(("disputed",) if row.disputed else ()),
        *(() if row.verified else ("unverified",)),
    )
    return [
        place(row),
        _named(row),
        percent(row.mean8),
        row.printed,
        percent(row.pooled),
        interval(row.low, row.high),
        row.protocol or "not stated",
        origin,
        "; ".join((*marks, *row.notes)),
    ]


def _named(row: Row | Average) -> str:
    """The model's name, with what sets it apart from others of that name."""
    return f"{row.model} ({row.distinct})" if row.distinct else row.model


def place(row: Row | Average) -> str:
    """``2/5``, or nothing for a row without a rank."""
    return "" if row.rank is None else f"{row.rank}/{row.ranked}"


def percent(fraction: float | None) -> str:
    """One decimal, as papers print; empty for None."""
    if fraction is None:
        return ""
    # Half up, as papers round: 0.6985 is 69.9 although the binary fraction lies just below.
    return str(Decimal(f"{100 * fraction:.6f}").quantize(Decimal("0.1"), ROUND_HALF_UP))


def interval(low: float | None, high: float | None) -> str:
    """``71.0–73.4``, in percent."""
    return "" if low is None or high is None else f"{percent(low)}–{percent(high)}"


def _figure(value: float | None) -> str:
    """Three significant digits without an exponent."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
