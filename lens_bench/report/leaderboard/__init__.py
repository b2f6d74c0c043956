"""The leaderboard: measured runs and published numbers, ranked only where they may be compared.

``build`` reads run directories and ``results/published.csv``; ``write_csv``, ``write_markdown`` and ``write_html``
write files, ``rich_table`` returns what a terminal shows.
"""

from __future__ import annotations

from lens_bench.report.leaderboard.build import build
from lens_bench.report.leaderboard.csv_file import write_csv
from lens_bench.report.leaderboard.html import to_html, write_html
from lens_bench.report.leaderboard.markdown import to_markdown, write_markdown
from lens_bench.report.leaderboard.rows import Average, Leaderboard, Row, RowSpeed
from lens_bench.report.leaderboard.terminal import rich_table

__all__ = [
    "Average",
    "Leaderboard",
    "Row",
    "RowSpeed",
    "build",
    "rich_table",
    "to_html",
    "to_markdown",
    "write_csv",
    "write_html",
    "write_markdown",
]
