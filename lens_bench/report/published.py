"""Published numbers: ``results/published.csv``, one row per model, suite, split, subset, metric and source.

The columns:

========== ==========================================================================================================
model      The name a reader would look for; variants of one name are told apart (``LISA-7B (ft ReasonSeg)``).
suite      Our name of the suite. ``refcoco-family`` is RefCOCO, RefCOCO+ and RefCOCOg (UMD) together.
split      Our name of the split; ``all`` for an average over splits.
subset     Tag within the split (``short``, ``part``); empty for the whole of it.
metric     Our name of the metric; ``<metric>_mean8`` is the mean of the eight RefCOCO/+/g cells as given with them.
value      As printed; ``unit`` says what it is.
source     Paper and table, README or issue.
evidence   ``read``: in the authors' repository or an issue; ``paper``: in a paper's text or table; ``secondary``: in
           another text that quotes it; ``recall``: from memory.
verified   ``yes`` where the number was seen in its source or in a table that quotes it.
disputed   ``yes`` where the number contradicts its own source or is another model's; ``note`` says how.
training   What is known of the training data, e.g. ``zero-shot``.
sees_ground_truth ``yes`` for an oracle.
protocol   Our preset that matches the script behind the number, where that is known.
note       What a reader has to know.
========== ==========================================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Literal, TypeAlias, cast

from lens_bench.errors import DataError
from lens_bench.parsing import csv_rows
from lens_bench.scoring.protocols import PROTOCOLS

Evidence: TypeAlias = Literal["read", "paper", "secondary", "recall"]

COLUMNS = (
    "model",
    "suite",
    "split",
    "subset",
    "metric",
    "value",
    "unit",
    "source",
    "evidence",
    "verified",
    "disputed",
    "training",
    "sees_ground_truth",
    "protocol",
    "note",
)
_REQUIRED = ("model", "suite", "split", "metric", "value", "unit", "source", "evidence", "verified")
_EVIDENCE = ("read", "paper", "secondary", "recall")
_FLAGS = {"yes": True, "no": False, "": False}


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One printed number. See the module for the fields.

    Attributes:
        printed: The value as printed, in percent.
        line: Of the file, for messages.
    """

    model: str
    suite: str
    split: str
    subset: str
    metric: str
    printed: Decimal
    source: str
    evidence: Evidence
    verified: bool
    disputed: bool
    training: str
    sees_ground_truth: bool
    protocol: str
    note: str
    line: int

    @property
    def value(self) -> float:
        """The value as a fraction."""
        return float(self.printed / 100)

    @property
    def rounding(self) -> float:
        """Half a unit of the last printed digit, as a fraction: what rounding may have changed."""
        exponent = cast("int", self.printed.as_tuple().exponent)
        return float(Decimal(1).scaleb(exponent) / 200)


def read_published(path: Path) -> tuple[PublishedRow, ...]:
    """Read and check the file.

    Raises:
        DataError: It is missing, lacks a column, or a row is not as described; the message names the line.
    """
    lines = csv_rows(path)
    try:
        _, header = next(lines, (0, []))
    except FileNotFoundError:
        raise DataError(f"no published numbers at {path}", "they are results/published.csv of the repository") from None
    if tuple(header) != COLUMNS:
        raise DataError(f"{path}: the columns are not {', '.join(COLUMNS)}")
    rows = tuple(_row(fields, f"{path}, line {line}", line) for line, fields in lines if fields)
    _refuse_twins(rows, path)
    return rows


def _row(fields: Sequence[str], where: str, line: int) -> PublishedRow:
    if len(fields) != len(COLUMNS):
        raise DataError(f"{where}: {len(fields)} fields, not {len(COLUMNS)}")
    text = dict(zip(COLUMNS, fields, strict=True))
    for key in _REQUIRED:
        if not text[key]:
            raise DataError(f"{where}: {key} is empty")
    if text["unit"] != "percent":
        raise DataError(f"{where}: the unit is {text['unit']!r}", "only percent is used")
    if text["evidence"] not in _EVIDENCE:
        raise DataError(f"{where}: evidence is {text['evidence']!r}", f"one of {', '.join(_EVIDENCE)}")
    if text["evidence"] in ("recall", "secondary") and text["verified"] != "no":
        raise DataError(f"{where}: {text['evidence']} is no verification")
    if text["protocol"] and text["protocol"] not in PROTOCOLS:
        raise DataError(f"{where}: no protocol is called {text['protocol']!r}", f"there are: {', '.join(PROTOCOLS)}")
    return PublishedRow(
        model=text["model"],
        suite=text["suite"],
        split=text["split"],
        subset=text["subset"],
        metric=text["metric"],
        printed=_percent(text["value"], where),
        source=text["source"],
        evidence=cast("Evidence", text["evidence"]),
        verified=_flag(text, "verified", where),
        disputed=_flag(text, "disputed", where),
        training=text["training"],
        sees_ground_truth=_flag(text, "sees_ground_truth", where),
        protocol=text["protocol"],
        note=text["note"],
        line=line,
    )


def _percent(text: str, where: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise DataError(f"{where}: {text!r} is not a number") from None
    if not value.is_finite() or not 0 <= value <= 100:
        raise DataError(f"{where}: {text} is not a percentage")
    return value


def _flag(fields: Mapping[str, str], key: str, where: str) -> bool:
    if fields[key] not in _FLAGS:
        raise DataError(f"{where}: {key} is {fields[key]!r}", "yes, no or empty")
    return _FLAGS[fields[key]]


def _refuse_twins(rows: tuple[PublishedRow, ...], path: Path) -> None:
    seen: dict[tuple[str, ...], int] = {}
    for row in rows:
        key = (row.model, row.suite, row.split, row.subset, row.metric, row.source)
        if key in seen:
            raise DataError(f"{path}: lines {seen[key]} and {row.line} are the same cell of the same source")
        seen[key] = row.line
