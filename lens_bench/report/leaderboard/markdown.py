"""The leaderboard as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lens_bench.atomic import write_text
from lens_bench.outgoing import escape_markdown
from lens_bench.report.figures import title
from lens_bench.report.leaderboard import wording
from lens_bench.report.leaderboard.rows import Leaderboard


def to_markdown(board: Leaderboard) -> str:
    """One table per split and kind, with the averages first and what was left out last."""
    lines = [f"# Leaderboard: {title(board.metric)}", "", wording.EXPLANATION, ""]
    if board.averages:
        lines += ["## RefCOCO, RefCOCO+ and RefCOCOg together", "", wording.AVERAGES_EXPLANATION, ""]
        lines += _table(wording.AVERAGE_HEAD, board.metric, [wording.average_cells(r) for r in board.averages])
    for section in wording.sections(board):
        lines += [f"## {escape_markdown(section.title)}", ""]
        if section.measured:
            lines += ["Measured", ""]
            lines += _table(wording.MEASURED_HEAD, board.metric, [wording.measured_cells(r) for r in section.measured])
        if section.published:
            lines += ["Published", ""]
            lines += _table(
                wording.PUBLISHED_HEAD, board.metric, [wording.published_cells(r) for r in section.published]
            )
    if not board.rows:
        lines += ["No result.", ""]
    if board.notes:
        lines += ["## Left out", "", *(f"- {escape_markdown(note)}" for note in board.notes), ""]
    return "\n".join(lines)


def write_markdown(board: Leaderboard, path: Path) -> None:
    """Write ``to_markdown`` to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, to_markdown(board))


def _table(names: Sequence[str], metric: str, rows: Sequence[Sequence[str]]) -> list[str]:
    """A table without the columns that are empty in every row."""
    kept = [i for i in range(len(names)) if i < 3 or any(row[i] for row in rows)]
    titles = wording.head(names, metric)
    rule = ["---:" if names[i] in wording.NUMERIC else "---" for i in kept]
    lines = [
        [escape_markdown(titles[i]) for i in kept],
        rule,
        *([escape_markdown(row[i]) for i in kept] for row in rows),
    ]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]
