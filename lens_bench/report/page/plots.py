"""The plots of a page, as pictures inside it that cannot run anything."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from lens_bench.report.plots.dependence import draw_length, draw_size
from lens_bench.report.plots.groups import groups_of
from lens_bench.report.plots.quality import draw_histogram, draw_precision
from lens_bench.report.runset import ScoredRun


@dataclass(frozen=True, slots=True)
class InlinePlot:
    """One plot: ``source`` is a data URI of an SVG, ``alt`` says in words what it shows."""

    title: str
    alt: str
    source: str


def inline_plots(runs: Sequence[ScoredRun], expressions: Mapping[str, str]) -> tuple[InlinePlot, ...]:
    """The plots of runs of one split that they have data for.

    Args:
        runs: One or two.
        expressions: By sample id; empty where the suite is not at hand, and then no plot is about them.
    """
    (group,) = groups_of(runs)
    names = " and ".join(run.label for run in runs)
    unmeasured: list[str] = []  # images of unknown size; the axis of the plot says what it covers
    found = []
    with TemporaryDirectory() as folder:
        where = Path(folder)
        for title, alt, paths in (
            ("Precision by threshold", "Share of expressions at or above each IoU", draw_precision(group, where)),
            ("Distribution of IoU", "Histogram of the IoU of expressions", draw_histogram(group, where)),
            ("IoU by size of the object", "Mean IoU by share of the image", draw_size(group, where, unmeasured)),
            (
                "IoU by length of the expression",
                "Mean IoU by number of words",
                draw_length(group, where, expressions) if expressions else [],
            ),
        ):
            found += [
                InlinePlot(title, f"{alt}: {names}", picture_uri(path)) for path in paths if path.suffix == ".svg"
            ]
    return tuple(found)


def picture_uri(path: Path) -> str:
    """A data URI of an SVG file."""
    return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
