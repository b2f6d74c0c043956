"""The leaderboard for a terminal, as something that rich prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lens_bench.report.leaderboard import wording
from lens_bench.report.leaderboard.rows import Leaderboard

# A terminal is narrow: these columns are left to the files.
_MEASURED = (
    "#",
    "Model",
    "{metric} %",
    "95 % interval",
    "Protocol",
    "Weights",
    "Images/s",
    "p50 ms",
    "p99 ms",
    "Requests/s",
    "Hardware",
    "Notes",
)
_PUBLISHED = ("#", "Model", "{metric} %", "Protocol", "Source")
_AVERAGES = ("#", "Model", "Mean of 8 %", "As printed", "Pooled cIoU %", "Protocol", "From")


def rich_table(board: Leaderboard) -> RenderableType:
    """One table per split and kind. Nothing in it is taken for markup."""
    parts: list[RenderableType] = []
    if board.averages:
        rows = [wording.average_cells(r) for r in board.averages]
        parts.append(
            _table(
                "RefCOCO/+/g, eight cells", wording.AVERAGE_HEAD, _AVERAGES, rows, board.metric, _ranked(board.averages)
            )
        )
    for section in wording.sections(board):
        if section.measured:
            rows = [wording.measured_cells(r) for r in section.measured]
            title = f"{section.title}, measured"
            parts.append(_table(title, wording.MEASURED_HEAD, _MEASURED, rows, board.metric, _ranked(section.measured)))
        if section.published:
            rows = [wording.published_cells(r) for r in section.published]
            title = f"{section.title}, published"
            parts.append(
                _table(title, wording.PUBLISHED_HEAD, _PUBLISHED, rows, board.metric, _ranked(section.published))
            )
    if not board.rows and not board.averages:
        parts.append(Text("no result"))
    parts += [Padding(Text(note, style="yellow"), (0, 0, 0, 1)) for note in board.notes]
    return Group(*parts)


def _ranked(rows: Iterable[object]) -> list[bool]:
    return [getattr(row, "rank", None) is not None for row in rows]


def _table(
    title: str,
    names: Sequence[str],
    shown: Sequence[str],
    rows: Sequence[Sequence[str]],
    metric: str,
    ranked: Sequence[bool],
) -> Table:
    table = Table(title=Text(title, style="bold"), box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    titles = wording.head(names, metric)
    kept = [i for i, name in enumerate(names) if name in shown and (i < 3 or any(row[i] for row in rows))]
    for i in kept:
        numeric = names[i] in wording.NUMERIC
        table.add_column(Text(titles[i]), justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    for row, has_rank in zip(rows, ranked, strict=True):
        table.add_row(*(Text(row[i]) for i in kept), style="" if has_rank else "dim")
    return table
