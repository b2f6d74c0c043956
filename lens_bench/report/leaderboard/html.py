"""The leaderboard as one self-contained page: sortable, light and dark, no request to anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from lens_bench.atomic import write_text
from lens_bench.report.figures import title
from lens_bench.report.leaderboard import wording
from lens_bench.report.leaderboard.rows import Average, Leaderboard, Row


@dataclass(frozen=True, slots=True)
class _Cell:
    """One cell: its text, and what it is sorted by."""

    text: str
    numeric: bool
    key: str


@dataclass(frozen=True, slots=True)
class _Line:
    cells: tuple[_Cell, ...]
    ranked: bool
    hint: str


@dataclass(frozen=True, slots=True)
class _Table:
    titles: tuple[tuple[str, bool], ...]
    lines: tuple[_Line, ...]


def to_html(board: Leaderboard) -> str:
    """The page. Every text of a run or a card is escaped."""
    environment = Environment(
        loader=PackageLoader("lens_bench.report.leaderboard", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    parts = [
        (
            section,
            _table(wording.MEASURED_HEAD, board.metric, [(r, wording.measured_cells(r)) for r in section.measured]),
            _table(wording.PUBLISHED_HEAD, board.metric, [(r, wording.published_cells(r)) for r in section.published]),
        )
        for section in wording.sections(board)
    ]
    return environment.get_template("leaderboard.html.j2").render(
        title=f"Leaderboard: {title(board.metric)}",
        explanation=wording.EXPLANATION,
        averages_explanation=wording.AVERAGES_EXPLANATION,
        averages=_table(wording.AVERAGE_HEAD, board.metric, [(r, wording.average_cells(r)) for r in board.averages]),
        sections=parts,
        notes=board.notes,
    )


def write_html(board: Leaderboard, path: Path) -> None:
    """Write ``to_html`` to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, to_html(board))


def _table(names: Sequence[str], metric: str, rows: Sequence[tuple[Row | Average, list[str]]]) -> _Table | None:
    """None where there is no row. Columns that are empty in every row are left out."""
    if not rows:
        return None
    kept = [i for i in range(len(names)) if i < 3 or any(texts[i] for _, texts in rows)]
    numeric = {i: names[i] in wording.NUMERIC for i in kept}
    titles = wording.head(names, metric)
    lines = tuple(
        _Line(tuple(_cell(texts[i], numeric[i]) for i in kept), row.rank is not None, _hint(row)) for row, texts in rows
    )
    return _Table(tuple((titles[i], numeric[i]) for i in kept), lines)


def _cell(text: str, numeric: bool) -> _Cell:
    return _Cell(text, numeric, _key(text) if numeric else text.lower())


def _key(text: str) -> str:
    """The number that a figure is sorted by: the place of ``2/5``, the figure of ``(12.3)``; empty sorts last."""
    return text.partition("/")[0].strip("()").partition(" ")[0]


def _hint(row: Row | Average) -> str:
    """Shown where the pointer rests: what is too long for a column."""
    if isinstance(row, Average):
        return f"split content {', '.join(h[:8] for h in row.suite_hashes)}" if row.suite_hashes else row.source
    if row.kind == "published":
        return row.source
    hardware = row.speed.hardware if row.speed else ""
    return "; ".join(p for p in (row.path, f"weights {row.weight_digest}", f"content {row.suite_hash}", hardware) if p)
