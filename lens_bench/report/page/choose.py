"""Which samples a page shows with their pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chosen:
    """A list of the gallery: ``rows`` are numbers into the page's samples, the most telling first."""

    name: str
    title: str
    rows: tuple[int, ...]


def choose(
    sample_ids: Sequence[str], values: Sequence[Sequence[float | None]], count: int, seed: int
) -> tuple[Chosen, ...]:
    """Worst, best and random samples of the last run and, for two runs, those that changed most.

    Ties (there are many at 0) are broken by a hash of the id, so that they do not all come from the first images, and
    the choice depends on the samples and the seed alone.

    Args:
        sample_ids: Of every row.
        values: For every run, the IoU of every row; None where there is none.
        count: Length of each list.
        seed: Of the random list and of the ties.
    """
    last = values[-1]
    lots = [hashlib.sha256(f"{seed}\x00{sample_id}".encode()).digest() for sample_id in sample_ids]
    known = {row: value for row, value in enumerate(last) if value is not None}

    def ranked(key: Callable[[int], float], rows: Sequence[int]) -> tuple[int, ...]:
        return tuple(sorted(rows, key=lambda row: (key(row), lots[row]))[:count])

    lists = [
        Chosen("worst", "Worst", ranked(lambda row: known[row], list(known))),
        Chosen("best", "Best", ranked(lambda row: -known[row], list(known))),
        Chosen("random", "Random", ranked(lambda _: 0.0, range(len(sample_ids)))),
    ]
    if len(values) > 1:
        moved = {row: abs(v - before) for row, v in known.items() if (before := values[0][row]) not in (None, v)}
        lists.insert(0, Chosen("changed", "Most changed", ranked(lambda row: -moved[row], list(moved))))
    return tuple(chosen for chosen in lists if chosen.rows)
