"""What the same predictions are worth under other protocols: a row of the page for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from lens_bench.errors import DataError
from lens_bench.report.page.facts import Figure
from lens_bench.report.runset import ScoredRun
from lens_bench.run.results import other_protocols, read_results
from lens_bench.scoring.stats import Interval

_SHOWN = ("ciou", "giou", "box_acc_0.5")


@dataclass(frozen=True, slots=True)
class ProtocolRow:
    """One run under one protocol.

    Attributes:
        own: It is the protocol of the run.
        n_samples: Expressions that the protocol counts.
        figures: cIoU, gIoU and box accuracy.
    """

    run: str
    name: str
    about: str
    own: bool
    n_samples: int
    figures: tuple[Figure, ...]


def other_protocol_rows(runs: Sequence[ScoredRun]) -> tuple[list[ProtocolRow], list[DataError]]:
    """A row for every protocol that a run is scored under, its own first; and an error for each that cannot be read.

    No row where no run is scored under more than one.
    """
    rows: list[ProtocolRow] = []
    unread: list[DataError] = []
    for run in runs:
        for name in (None, *other_protocols(run.files, run.manifest)):
            try:
                found = read_results(run.files, run.manifest, name)
            except DataError as error:
                under = f"{run.label} under {name or run.manifest.protocol}"
                unread.append(DataError(f"{under}: {error.message}", error.hint))
                continue
            summary = cast("Mapping[str, Mapping[str, float | None]]", found.summary)
            pairs = cast("Mapping[str, Interval | None]", found.summary["ci95"])
            figures = tuple(Figure(summary["metrics"][k], pairs.get(k)) for k in _SHOWN)
            counted = int(found.table.counted.sum())
            rows.append(
                ProtocolRow(run.label, found.protocol.name, found.protocol.summary, name is None, counted, figures)
            )
    return (rows if len(rows) > len(runs) else []), unread
