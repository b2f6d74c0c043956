"""Somebody's predictions, read from a file and joined with the expressions of a split.

The file is JSON Lines or one JSON array of rows. A row names its expression by ``sample_id``, or by the suite's own
key (``idx``, ``sent_id`` or ``key``: see ``records.Query.key``), and answers with a mask (an RLE under ``mask``,
``segmentation`` or ``rle``), with a box (``box`` or ``predicted_box``, [x1, y1, x2, y2] in pixels; other forms are in
``box_format.py``), or with both. A null is "no answer". ``status``, ``error``, ``text``, ``score`` and
``tokens`` may be there too. The ``predictions.jsonl`` of a run is such a file. Times are not read, because
this run did not measure them.
"""

from __future__ import annotations

import ast
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

from lens_bench.data.jsonio import shown
from lens_bench.errors import DataError
from lens_bench.masks import rle_from_json
from lens_bench.records import Box, ImageTask, Prediction, Query, Rle, Size, Status, Tokens
from lens_bench.run.box_format import BoxFormat, corners, doubts, in_pixels, words
from lens_bench.run.json_rows import json_rows

KEY_FIELDS = ("sample_id", "idx", "sent_id", "key")
MASK_FIELDS = ("mask", "segmentation", "rle")
BOX_FIELDS = ("box", "predicted_box")
STATUSES: tuple[Status, ...] = ("ok", "no_mask", "error")
_SHOWN = 3

JsonRow: TypeAlias = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the file.

    Attributes:
        line: Where it starts in the file, from 1.
        field: The field that names the expression: ``sample_id``, or one of the suites' own keys.
        name: The value of that field.
        answer: The prediction, with an empty ``sample_id`` until it is joined.
    """

    line: int
    field: str
    name: str
    answer: Prediction

    def __str__(self) -> str:
        return f"{self.field} {self.name} (line {self.line})"


@dataclass(frozen=True, slots=True)
class PredictionsFile:
    """A file, read and checked row by row, but not yet against a suite."""

    path: Path
    rows: tuple[Row, ...]
    sha256: str
    box_format: BoxFormat = "xyxy"


@dataclass(frozen=True, slots=True)
class Joined:
    """A prediction for every query of a split.

    Attributes:
        predictions: By sample id, in the order of the queries. Those without a row have the status ``no_mask``.
        joined: Queries with a row.
        missing: Queries without one.
        boxes_only: Rows that answer with a box and no mask.
        doubts: Signs that boxes are in another form than they were read in.
    """

    predictions: Mapping[str, Prediction]
    joined: int
    missing: int
    boxes_only: int
    doubts: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.joined} of {self.joined + self.missing} expressions have a row"
        return f"{text}, {self.boxes_only} of them with a box only" if self.boxes_only else text


# ---------------------------------------------------------------------------------------------- reading


def read_predictions(path: Path, box_format: BoxFormat = "xyxy") -> PredictionsFile:
    """Read a predictions file, whose boxes have the given form.

    Raises:
        DataError: The file is missing, is not JSON, or a row is not a prediction; the message names file and line.
            A box with inverted corners is refused too.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"no predictions at {path}: {error.strerror}") from None
    rows = tuple(_row(path, line, obj, box_format) for line, obj in json_rows(path, raw))
    if not rows:
        raise DataError(f"{path} holds no prediction")
    return PredictionsFile(path, rows, hashlib.sha256(raw).hexdigest(), box_format)


# ---------------------------------------------------------------------------------------------- rows


def _row(path: Path, line: int, obj: object, box_format: BoxFormat) -> Row:
    where = f"{path}:{line}"
    if not isinstance(obj, dict):
        raise DataError(f"{where}: a row must be a JSON object, this is a {type(obj).__name__}")
    row = cast("JsonRow", obj)
    field = next((f for f in KEY_FIELDS if row.get(f) is not None), None)
    if field is None:
        raise DataError(f"{where}: the row names no expression", f"it needs one of the fields: {', '.join(KEY_FIELDS)}")
    name = _name(row[field], f"{where}: {field}")
    if not any(f in row for f in (*MASK_FIELDS, *BOX_FIELDS, "status")):
        raise DataError(
            f"{where}: {field} {name} has no answer",
            f"it needs one of the fields: {', '.join((*MASK_FIELDS, *BOX_FIELDS))}; null means that there is none",
        )
    return Row(line, field, name, _answer(row, f"{where}: {field} {name}", box_format))


def _answer(row: JsonRow, where: str, box_format: BoxFormat) -> Prediction:
    raw_mask, raw_box = _only(row, MASK_FIELDS, where), _only(row, BOX_FIELDS, where)
    mask = None if raw_mask is None else _mask(raw_mask, where)
    box = None if raw_box is None else _box(raw_box, where, box_format)
    given = row.get("status")
    status: Status = "no_mask" if mask is None and box is None else "ok"
    if given is not None:
        if given not in STATUSES:
            raise DataError(f"{where}: unknown status {shown(given)}", f"one of: {', '.join(STATUSES)}")
        if (given == "ok" and status == "no_mask") or (given != "ok" and mask is not None):
            raise DataError(f"{where}: status {shown(given)} " + ("with a mask" if mask else "without a mask or box"))
        status = given
    return Prediction(
        sample_id="",
        status=status,
        mask=mask,
        box=box,
        score=_score(row.get("score"), where),
        text=_text(row.get("text"), f"{where}: text"),
        tokens=_tokens(row.get("tokens"), where),
        error=_text(row.get("error"), f"{where}: error"),
    )


def _only(row: JsonRow, fields: Sequence[str], where: str) -> object:
    given = [f for f in fields if row.get(f) is not None]
    if len(given) > 1:
        raise DataError(f"{where}: both `{given[0]}` and `{given[1]}` are given", "leave only the predicted one")
    return row[given[0]] if given else None


def _name(value: object, where: str) -> str:
    """Numbers and their texts are one key; tables often turn integers into floats."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    raise DataError(f"{where}: {shown(value)} is not the name or number of an expression")


def _mask(obj: object, where: str) -> Rle:
    if not isinstance(obj, dict):
        raise DataError(f"{where}: the mask is not an RLE object", 'expected {"size": [height, width], "counts": ...}')
    counts = obj.get("counts")
    if isinstance(counts, str) and counts[:2] in ("b'", 'b"'):
        # str() of a bytes object, quotes and all; neither quote is a character of compressed counts.
        obj = {**obj, "counts": _unquoted(counts, where)}
    if isinstance(counts, list) and not all(type(c) is int for c in counts):
        raise DataError(f"{where}: the mask's run lengths are not all integers")
    size = obj.get("size")
    if isinstance(size, list) and any(type(s) is int and s < 1 for s in size):
        raise DataError(f"{where}: the mask has the size {size}")
    try:
        return rle_from_json(obj)
    except DataError as error:
        raise DataError(f"{where}: {error.message}", error.hint) from None


def _unquoted(counts: str, where: str) -> bytes:
    try:
        value = ast.literal_eval(counts)
    except (ValueError, SyntaxError):
        value = None
    if not isinstance(value, bytes):
        raise DataError(f"{where}: the mask's counts are a broken bytes literal")
    return value


def _box(obj: object, where: str, box_format: BoxFormat) -> Box:
    if not isinstance(obj, list) or len(obj) != 4 or not all(_is_number(v) for v in obj):
        raise DataError(f"{where}: the box {shown(obj)} is not {words(box_format)}")
    return corners((float(obj[0]), float(obj[1]), float(obj[2]), float(obj[3])), box_format, where)


def _is_number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


def _score(value: object, where: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or not _is_number(value):
        raise DataError(f"{where}: the score {shown(value)} is not a number")
    return float(value)


def _text(value: object, where: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise DataError(f"{where} is not a string")
    return value


def _tokens(value: object, where: str) -> Tokens | None:
    if value is None:
        return None
    counts = [value.get(k) for k in ("prompt", "completion")] if isinstance(value, dict) else []
    if not (len(counts) == 2 and all(type(c) is int and c >= 0 for c in counts)):
        raise DataError(f"{where}: the tokens {shown(value)} are not of the form " + '{"prompt": n, "completion": n}')
    return Tokens(cast("int", counts[0]), cast("int", counts[1]))


# ---------------------------------------------------------------------------------------------- joining


def join(file: PredictionsFile, tasks: Sequence[ImageTask]) -> Joined:
    """Find every query's row.

    Args:
        file: What ``read_predictions`` returned.
        tasks: All tasks of the split (pixels are not needed).

    Raises:
        DataError: Rows that name no expression of the split, or one that another row named; a key of the suite that
            several expressions share; a mask of another size than its image. The message names the first few with
            their lines.
    """
    queries = {q.sample_id: (q, t.size) for t in tasks for q in t.queries}
    targets = _targets(file, [q for q, _ in queries.values()])
    found: dict[str, Row] = {}
    doubled: list[Row] = []
    for row, sample_id in zip(file.rows, targets, strict=True):
        if sample_id in found:
            doubled += [row] if doubled else [found[sample_id], row]
        else:
            found[sample_id] = row
    if doubled:
        raise _refuse(file, "name an expression that another row names too", doubled)
    sizes = {i: size for i, (_, size) in queries.items()}
    _check_sizes(file, found, sizes)
    predictions = {i: _prediction(i, found.get(i), file, size) for i, (_, size) in queries.items()}
    boxes = sum(r.answer.mask is None and r.answer.box is not None for r in found.values())
    return Joined(
        predictions,
        joined=len(found),
        missing=len(queries) - len(found),
        boxes_only=boxes,
        doubts=doubts(predictions.values(), sizes),
    )


def _targets(file: PredictionsFile, queries: Sequence[Query]) -> list[str]:
    """The sample id that each row names."""
    ids = {q.sample_id for q in queries}
    by_key: dict[str, str] = {}
    shared: set[str] = set()
    for query in queries:
        if query.key is not None and by_key.setdefault(query.key, query.sample_id) != query.sample_id:
            shared.add(query.key)
    targets = [(r.name if r.name in ids else None) if r.field == "sample_id" else by_key.get(r.name) for r in file.rows]
    unknown = [r for r, t in zip(file.rows, targets, strict=True) if t is None]
    if unknown:
        first = queries[0] if queries else None
        example = (first.key or "", first.sample_id) if first else ("", "")
        raise _refuse(file, "name no expression of this split", unknown, *example)
    vague = [r for r in file.rows if r.field != "sample_id" and r.name in shared]
    if vague:
        raise _refuse(file, "have a key that several expressions of this split share: use sample_id", vague)
    return [t for t in targets if t is not None]


def _check_sizes(file: PredictionsFile, found: Mapping[str, Row], sizes: Mapping[str, Size]) -> None:
    for sample_id, row in found.items():
        mask, size = row.answer.mask, sizes[sample_id]
        if mask is not None and mask.size != size:
            raise DataError(
                f"{file.path}:{row.line}: the mask of {row.field} {row.name} is {mask.size[1]}x{mask.size[0]}, "
                f"its image {size[1]}x{size[0]}",
                "masks are compared at the image's original size; an RLE's size is [height, width]",
            )


def _prediction(sample_id: str, row: Row | None, file: PredictionsFile, size: Size) -> Prediction:
    if row is None:
        return Prediction(sample_id, "no_mask", error=f"no row in {file.path.name}")
    a = row.answer
    box = None if a.box is None else in_pixels(a.box, file.box_format, size)
    return Prediction(sample_id, a.status, a.mask, box, a.score, a.text, a.tokens, error=a.error)


def _refuse(file: PredictionsFile, what: str, rows: Sequence[Row], key: str = "", sample_id: str = "") -> DataError:
    shown = ", ".join(str(r) for r in rows[:_SHOWN])
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    hint = "is it the right suite and split?" if sample_id else "keep one row per expression"
    if sample_id:
        hint += f" A sample_id here is like {sample_id}" + (f", the suite's own key like {key}" if key else "")
    return DataError(f"{file.path}: {len(rows)} rows {what}: {shown}{more}", hint)
