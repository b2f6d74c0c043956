"""A comparison of repeated trainings for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.text import Text

from lens_bench.outgoing import escape_markdown
from lens_bench.report.compare_text import markdown_table, rich_table
from lens_bench.report.figures import interval, percent, points, title
from lens_bench.report.repeats import Repeats
from lens_bench.scoring.repeats import RepeatedDelta

_HEADS = ("Metric", "A", "B", "B − A", "95 % interval", "± images", "± trainings")
_FOOTNOTE = (
    "A and B are means over trainings. Intervals: over other images (resampled, the same for all runs) and other "
    "trainings; ± are the standard errors of both"
)


def repeats_renderable(found: Sequence[Repeats]) -> RenderableType:
    """A table a split, for ``rich``."""
    parts: list[RenderableType] = []
    for one in found:
        parts += [*(Text(line) for line in _heading(one)), rich_table(_HEADS, [_row(c) for c in one.changes])]
        parts += [*(Text(line) for line in _values(one)), Text("")]
    return Stack(*parts, Text(_FOOTNOTE, style="dim"))


def repeats_markdown(found: Sequence[Repeats]) -> str:
    """The same as Markdown tables."""
    lines: list[str] = []
    for one in found:
        heading = [escape_markdown(line) for line in _heading(one)]
        lines += [f"## {heading[0]}", "", *(f"- {line}" for line in heading[1:]), ""]
        lines += markdown_table(_HEADS, [_row(change) for change in one.changes])
        lines += [*(f"- {escape_markdown(line)}" for line in _values(one)), ""]
    return "\n".join([*lines, f"- {_FOOTNOTE}", ""])


def _heading(one: Repeats) -> list[str]:
    images = max((change.n_images for change in one.changes), default=0)
    lines = [
        f"{one.suite} {one.split}, protocol {one.protocol}, {one.n_samples} expressions of {images} images",
        f"A, {_count(one.a)}: {', '.join(one.a)}",
        f"B, {_count(one.b)}: {', '.join(one.b)}",
    ]
    alone = [name for name, runs in (("A", one.a), ("B", one.b)) if len(runs) == 1]
    return lines + [f"Note: {name} is one training; what chance had in it is not in the intervals" for name in alone]


def _count(runs: Sequence[str]) -> str:
    return "1 training" if len(runs) == 1 else f"{len(runs)} trainings"


def _row(change: RepeatedDelta) -> tuple[str, ...]:
    a, b = sum(change.a) / len(change.a), sum(change.b) / len(change.b)
    errors = percent(change.image_error), percent(change.training_error)
    return title(change.metric), percent(a), percent(b), points(change.delta), interval(change.ci95), *errors


def _values(one: Repeats) -> list[str]:
    """Every training's value, so that nobody has to believe a mean."""
    return [f"{title(change.metric)}: A {_percents(change.a)}, B {_percents(change.b)}" for change in one.changes]


def _percents(values: Sequence[float]) -> str:
    return " ".join(percent(value) for value in values)
