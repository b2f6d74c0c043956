"""How the command line talks to people: two consoles, errors, tables of results.

Results go to standard output, everything else to standard error, so that ``--json`` can be piped. Whatever is printed
passes ``Screen``, which shows control characters instead of sending them, interprets no markup and bounds long lines.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from lens_bench.errors import DataError, LensBenchError
from lens_bench.outgoing import MAX_LINES, clean, cut_at, json_text, one_line, shortened


class Screen(Console):
    """A console for text of other people: tags, file names, ids, answers of models, messages of libraries.

    Every string and ``Text`` that is printed, alone or in a table, a bar or a group, is rendered by one of the two
    methods below.
    """

    def __init__(self, *, stderr: bool = False, width: int | None = None) -> None:
        super().__init__(markup=False, emoji=False, stderr=stderr, width=width)

    def render_str(self, text: str, **options: Any) -> Text:
        """A string as safe text."""
        # Before it is highlighted, which takes seconds on 20,000 characters.
        return _safe(super().render_str("\n".join(map(shortened, clean(text).split("\n"))), **options))

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Segments of a renderable, whose texts are made safe first."""
        return super().render(_safe(renderable) if isinstance(renderable, Text) else renderable, options)


def _safe(text: Text) -> Text:
    """The text without characters that a terminal obeys, with bounded lines, and no more than 200 of them."""
    plain = clean(text.plain)
    if plain != text.plain:
        text = text.copy()
        text.plain = plain  # as long as before: styles stay where they are
    lines = text.split("\n", allow_blank=True) if "\n" in plain else [text]
    if len(lines) <= MAX_LINES and all(cut_at(len(line)) is None for line in lines):
        return text
    shown = [_shortened(line) for line in lines[:MAX_LINES]]
    left = len(lines) - MAX_LINES
    joined = Text("\n").join([*shown, Text(f"({left:,} more lines)")] if left > 0 else shown)
    joined.style, joined.justify, joined.overflow = text.style, text.justify, text.overflow
    joined.no_wrap, joined.end = text.no_wrap, text.end
    return joined


def _shortened(line: Text) -> Text:
    cut = cut_at(len(line))
    return line if cut is None else Text.assemble(line[: cut[0]], "\N{HORIZONTAL ELLIPSIS}", line[cut[1] :])


# A pipe has no width: tables are not squeezed there.
out = Screen(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160)
err = Screen(stderr=True)


def print_json(content: object, indent: int | None = None) -> None:
    """JSON to standard output: one line, or several where ``indent`` is given."""
    out.file.write(json_text(content, indent, out.encoding) + "\n")
    out.file.flush()


@contextmanager
def prints_to_stderr() -> Iterator[None]:
    """What models print while they work goes to standard error, also what compiled code prints.

    Standard output is for results: with ``--json`` somebody parses it.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def show_error(error: LensBenchError) -> None:
    """One line of what is wrong, one of what to do."""
    err.print(Text.assemble(("error: ", "bold red"), one_line(error.message)), soft_wrap=True)
    if error.hint:
        err.print(Text.assemble(("hint: ", "bold"), one_line(error.hint)), soft_wrap=True)


def note(message: str, kind: str = "note") -> None:
    """A line to standard error."""
    style = "bold yellow" if kind == "warning" else "bold"
    err.print(Text.assemble((f"{kind}: ", style), one_line(message)), soft_wrap=True)


def refuse_damaged(damaged: Sequence[DataError]) -> None:
    """Name every run that was left out of what was shown, and give the command its exit code.

    Raises:
        DataError: The last of them; the others are warnings before it.
    """
    for error in damaged[:-1]:
        note(f"left out: {error.message}" + (f" ({error.hint})" if error.hint else ""), "warning")
    if damaged:
        raise DataError(f"left out: {damaged[-1].message}", damaged[-1].hint)


# ---------------------------------------------------------------------------------------------- tables


def percent(value: object, digits: int = 2) -> str:
    """A fraction as a percentage; a dash where it does not apply."""
    return f"{100 * value:.{digits}f}" if isinstance(value, int | float) else "–"


def with_interval(value: object, interval: object) -> str:
    """``81.20 [80.4, 82.0]``."""
    if isinstance(interval, Sequence) and len(interval) == 2 and isinstance(value, int | float):
        return f"{percent(value)} [{percent(interval[0], 1)}, {percent(interval[1], 1)}]"
    return percent(value)


def summary_table(summaries: Iterable[Mapping[str, object]]) -> Table:
    """Summaries as rows, each followed by its tags. Figures are percentages; columns that say nothing are left out.

    Runs of several models, and scores under several protocols, have a column that tells them apart; models of one name
    stand there with their digests. Of a run under several protocols only the first row, of its own protocol, is
    followed by tags.
    """
    listed = _told_apart(list(summaries))
    apart = [name for name in ("model", "protocol") if len({str(s[name]) for s in listed}) > 1]
    rows: list[tuple[str, dict[str, str], str]] = []
    before: set[tuple[str, ...]] = set()
    for summary in listed:
        run = tuple(str(summary.get(k)) for k in ("suite", "split", "model", "digest"))
        names = {name: str(summary[name]) for name in apart}
        remark = summary.get("coverage") or ("" if summary["complete"] else "incomplete")
        title = f"{summary['suite']} {summary['split']}" + (f" ({remark})" if remark else "")
        speed = cast("Mapping[str, object] | None", summary.get("perf"))
        rate = speed.get("expressions_per_s") if speed else None
        metrics = cast("Mapping[str, object]", summary["metrics"])
        cells = _cells(summary["n_samples"], metrics, cast("Mapping[str, object]", summary["ci95"]))
        rows.append((title, {**names, **cells, "expr/s": _rate(rate)}, ""))
        if run in before:
            continue
        before.add(run)
        for tag, values in cast("Mapping[str, Mapping[str, object]]", summary["by_tag"]).items():
            cells = _cells(values["n_samples"], values, cast("Mapping[str, object]", values["ci95"]))
            rows.append((f"  {tag}", {**dict.fromkeys(names, ""), **cells, "expr/s": ""}, "dim"))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("suite, split", overflow="fold")
    shown = [
        n for n in (rows[0][1] if rows else {}) if {cells[n] for _, cells, _ in rows} - _SILENT.get(n, {_NONE, ""})
    ]
    for name in shown:
        table.add_column(name, justify="left" if name in apart else "right", no_wrap=name not in apart)
    for title, cells, style in rows:
        table.add_row(title, *(cells[n] for n in shown), style=style)
    return table


def _told_apart(summaries: Sequence[Mapping[str, object]]) -> list[Mapping[str, object]]:
    """The summaries; a model whose name stands for several on one split has the digest of the run added to it."""
    runs: dict[tuple[object, ...], set[object]] = {}
    for s in summaries:
        runs.setdefault((s["suite"], s["split"], s["model"]), set()).add(s.get("digest"))
    several = {model for (_, _, model), digests in runs.items() if len(digests) > 1}
    return [{**s, "model": f"{s['model']}-{s['digest']}"} if s["model"] in several else s for s in summaries]


_NONE = "–"
_SILENT = {"no mask": {_NONE, "0.00"}, "errors": {_NONE, "0.00"}}


def _rate(value: object) -> str:
    if not isinstance(value, int | float):
        return _NONE
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _cells(count: object, metrics: Mapping[str, object], ci: Mapping[str, object]) -> dict[str, str]:
    precision = cast("Mapping[str, object]", metrics["precision"])
    return {
        "n": f"{count:,}",
        "cIoU [95 %]": with_interval(metrics["ciou"], ci.get("ciou")),
        "gIoU": percent(metrics["giou"]),
        "P@0.5": percent(precision.get("0.5")),
        "box acc": percent(metrics["box_acc_0.5"]),
        "N-acc": percent(metrics["n_acc"]),
        "T-acc": percent(metrics["t_acc"]),
        "no mask": percent(metrics["no_mask_rate"]),
        "errors": percent(metrics["error_rate"]),
        "no box read": percent(metrics.get("unread_rate")),
    }


def columns(*headers: str) -> Table:
    """A plain table with these columns."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        table.add_column(header, overflow="fold")
    return table


def facts(rows: Iterable[tuple[str, object]]) -> Table:
    """Names and values, one a row; empty values are left out."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        if value not in (None, "", (), [], {}):
            table.add_row(clean(name), Text(clean(str(value))))
    return table
