"""A comparison for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lens_bench.outgoing import escape_markdown
from lens_bench.report.changes import Change, Changes, Group, SampleChange
from lens_bench.report.compare import Comparison, ComparisonSet
from lens_bench.report.figures import interval, p_value, percent, points, title

_UNCORRECTED = "p-values are not corrected for the number of comparisons"
_HEADS = ("A", "B", "B − A", "95 % interval", "p")


def comparison_renderable(found: ComparisonSet) -> RenderableType:
    """Everything about every split, for ``rich``."""
    parts: list[RenderableType] = []
    for comparison in found.comparisons:
        parts += [*(Text(line) for line in _heading(comparison)), _metrics_table(comparison)]
        if comparison.by_tag:
            parts.append(_tags_table(comparison))
        parts += [*_samples_tables(comparison), Text("")]
    parts += [Text(line, style="dim") for line in _footnotes(found)]
    return Stack(*parts)


def comparison_markdown(found: ComparisonSet) -> str:
    """The same as Markdown tables."""
    lines: list[str] = []
    for comparison in found.comparisons:
        heading = _heading(comparison)
        lines += [f"## {escape_markdown(heading[0])}", "", *(f"- {escape_markdown(h)}" for h in heading[1:]), ""]
        lines += markdown_table(("Metric", *_HEADS), [(title(c.metric), *cells(c)) for c in _shown(comparison.overall)])
        if comparison.by_tag:
            rows = tag_rows(comparison.by_tag, comparison.headline)
            lines += [f"### {title(comparison.headline)} by tag", "", *markdown_table(("Tag", "n", *_HEADS), rows)]
        lines += markdown_samples(comparison.samples)
    return "\n".join([*lines, *(f"- {escape_markdown(line)}" for line in _footnotes(found)), ""])


def cells(change: Change) -> tuple[str, ...]:
    """Both values, difference, interval and p-value of a metric, as text."""
    paired = change.paired
    return (
        percent(change.a),
        percent(change.b),
        points(change.delta),
        interval(paired.ci95 if paired else None),
        p_value(paired.p_value if paired else None),
    )


def tag_rows(groups: Sequence[Group], metric: str) -> list[tuple[str, ...]]:
    """One row a tag: name, number of expressions, and ``cells`` of one metric."""
    return [(g.name, str(g.n_samples), *cells(g.change(metric))) for g in groups]


def sample_rows(samples: Sequence[SampleChange]) -> list[tuple[str, ...]]:
    """One row a changed sample: id, both values and the difference."""
    return [(s.sample_id, percent(s.a, 1), percent(s.b, 1), points(s.delta, 1)) for s in samples]


def markdown_samples(changes: Changes) -> list[str]:
    """How many expressions changed, and the extremes, as lines of Markdown."""
    measure = "box IoU" if changes.measure == "box_iou" else "IoU"
    lines = [f"{measure}: {_balance(changes)}", ""]
    for name, samples in (("Largest losses", changes.worst), ("Largest gains", changes.best)):
        if samples:
            lines += [f"### {name}", "", *markdown_table(("Sample", "A", "B", "B − A"), sample_rows(samples))]
    return lines


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table whose first column is text and whose others are numbers, and an empty line."""
    rule = "|".join(("---", *("---:" for _ in heads[1:])))
    body = ["| " + " | ".join(escape_markdown(cell) for cell in row) + " |" for row in rows]
    return ["| " + " | ".join(heads) + " |", f"|{rule}|", *body, ""]


def _heading(comparison: Comparison) -> list[str]:
    lines = [
        f"{comparison.suite} {comparison.split}, protocol {comparison.protocol}",
        f"A: {comparison.a.label} ({comparison.a.path})",
        f"B: {comparison.b.label} ({comparison.b.path})",
    ]
    overall = comparison.overall
    shared = f"{overall.n_samples} expressions of {overall.n_images} images, answered by both"
    if comparison.only_a or comparison.only_b:
        shared += f"; {comparison.only_a} only by A and {comparison.only_b} only by B are left out"
    lines.append(shared)
    paired = overall.change(comparison.headline).paired
    if paired is not None and paired.standard_error > 0:
        found = f"{percent(paired.mde)} points of {title(comparison.headline)}"
        lines.append(f"Smallest difference that such a comparison finds (80 % power): {found}")
    return lines + [f"Note: {note}" for note in comparison.notes]


def _shown(group: Group) -> list[Change]:
    """Metrics that apply to at least one run."""
    return [c for c in group.changes if c.a is not None or c.b is not None]


def _metrics_table(comparison: Comparison) -> Table:
    return rich_table(("Metric", *_HEADS), [(title(c.metric), *cells(c)) for c in _shown(comparison.overall)])


def _tags_table(comparison: Comparison) -> Table:
    name = f"{title(comparison.headline)} by tag"
    return rich_table(("Tag", "n", *_HEADS), tag_rows(comparison.by_tag, comparison.headline), name)


def _samples_tables(comparison: Comparison) -> list[RenderableType]:
    changes = comparison.samples
    measure = "box IoU" if changes.measure == "box_iou" else "IoU"
    parts: list[RenderableType] = [Text(f"{measure}: {_balance(changes)}")]
    for name, samples in (("Largest losses", changes.worst), ("Largest gains", changes.best)):
        if samples:
            parts.append(rich_table(("Sample", "A", "B", "B − A"), sample_rows(samples), name))
    return parts


def rich_table(heads: Sequence[str], rows: Sequence[Sequence[str]], name: str | None = None) -> Table:
    """A table whose first column is text and whose others are numbers. Cells are plain text, never markup."""
    table = Table(title=name, title_justify="left", title_style="bold")
    for index, head in enumerate(heads):
        table.add_column(head, justify="right" if index else "left", no_wrap=index > 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _balance(changes: Changes) -> str:
    return f"{changes.better} better, {changes.worse} worse, {changes.same} the same"


def _footnotes(found: ComparisonSet) -> list[str]:
    lines = [f"Only A was run on {', '.join(found.only_a)}"] if found.only_a else []
    lines += [f"Only B was run on {', '.join(found.only_b)}"] if found.only_b else []
    return [*lines, f"Intervals and p-values: paired, images resampled; {_UNCORRECTED}"]
