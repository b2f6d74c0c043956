"""Who may be ranked with whom, and in what order things stand.

A measured row is ranked among complete runs of the same split content under the same protocol, and nowhere else. What
content and which weights are behind a published number cannot be checked, so published rows are ranked only among
published rows that state the same protocol, or that all state none. Not ranked at all, but shown: oracles, incomplete
runs, numbers that were not verified or contradict their own source.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from lens_bench.report.leaderboard.rows import KINDS, Average, Row

Ranked = TypeVar("Ranked", Row, Average)

LOWER_IS_BETTER = frozenset({"no_mask_rate", "error_rate", "unread_rate"})
_SUITES = ("refcoco", "refcoco+", "refcocog", "refcoco-family", "grefcoco", "reasonseg", "gseval")
_SPLITS = ("val", "testA", "testB", "test", "eval", "all")
_SUBSETS = ("", "short", "long", "stuff", "part", "multi", "single")


def rank(rows: Iterable[Ranked], metric: str) -> list[Ranked]:
    """Fill in ``rank`` and ``ranked``: places within each group, equal values sharing a place. Order is kept."""
    sign = -1 if metric in LOWER_IS_BETTER else 1
    values: dict[tuple[str, ...], list[float]] = defaultdict(list)
    listed = list(rows)
    for row in listed:
        if row.rankable:
            values[row.group].append(sign * row.value)
    return [_placed(row, sign * row.value, values[row.group]) if row.rankable else row for row in listed]


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Rows as they stand in the tables: suite, split, subset, kind, group, then best first, those without rank last."""
    return sorted(rows, key=_place)


def averages_in_order(rows: Iterable[Average]) -> list[Average]:
    """Averages as they stand in the tables: measured first, group by group, best first."""
    return sorted(rows, key=lambda r: (KINDS.index(r.kind), r.group if r.kind == "measured" else (), *_merit(r)))


def _placed(row: Ranked, value: float, among: Sequence[float]) -> Ranked:
    return replace(row, rank=1 + sum(v > value for v in among), ranked=len(among))


def _place(row: Row) -> tuple[object, ...]:
    # Published rows of a cell stand together, best first, whatever protocol they state: that is how papers are read.
    group = (row.protocol, row.suite_hash) if row.kind == "measured" else ()
    return (
        _known(row.suite, _SUITES),
        _known(row.split, _SPLITS),
        _known(row.subset, _SUBSETS),
        KINDS.index(row.kind),
        group,
        *_merit(row),
    )


def _merit(row: Row | Average) -> tuple[object, ...]:
    sign = 1 if row.metric in LOWER_IS_BETTER else -1
    return (not row.rankable if row.kind == "measured" else False, sign * row.value, row.model, row.source)


def _known(name: str, order: tuple[str, ...]) -> tuple[int, str]:
    return (order.index(name) if name in order else len(order), name)
