"""JSON files, read fast and with errors that name the file and the field.

Annotation files hold millions of small objects. Python's cyclic garbage collector walks all of them again and again
while they are being made, which more than doubles the time, so it rests while a file is parsed.
"""

from __future__ import annotations

import gc
import re
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from lens_bench.errors import DataError
from lens_bench.parsing import parse_json

Record: TypeAlias = dict[str, object]

_MOST = 2**63
_LARGEST = 1e300
_DIGITS = re.compile(r"\s*[+-]?[0-9]{1,19}\s*")

RENUMBER = "which of them is meant cannot be told: number the entries of merged files anew"
REFETCH = "the file is incomplete or not what its name says: get it again"


@contextmanager
def no_gc() -> Iterator[None]:
    """Suspend the cyclic garbage collector; restores the state it found."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def load_json(path: Path) -> object:
    """Parse a JSON file. Raises ``DataError`` naming the file where it is missing or malformed."""
    try:
        with no_gc():
            return parse_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}", REFETCH) from None


def load_jsonl(path: Path) -> Iterator[tuple[int, Record]]:
    """Yield ``(line number from 1, object)`` of a JSON Lines file; blank lines are skipped.

    Raises:
        DataError: The file is missing, or a line is not a JSON object.
    """
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    value = parse_json(line)
                except ValueError as error:
                    raise DataError(f"{path} line {number} is not valid JSON: {error}", REFETCH) from None
                yield number, as_record(value, f"{path} line {number}")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


# ---------------------------------------------------------------------------------------------- fields


def as_record(value: object, where: str) -> Record:
    """The value as an object with named fields."""
    if not isinstance(value, dict):
        raise DataError(f"{where} is not an object with fields, but {type(value).__name__}", REFETCH)
    return value


def as_list(value: object, where: str) -> list[object]:
    """The value as a list (tuples, which pickles hold, count)."""
    if isinstance(value, tuple):
        return list(value)
    if not isinstance(value, list):
        raise DataError(f"{where} is not a list, but {type(value).__name__}", REFETCH)
    return value


def as_int(value: object, where: str) -> int:
    """The value as an integer of 64 bits; whole floats and digit strings, which some tools write for ids, count."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _MOST:
        return int(value)
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and -_MOST <= value < _MOST:
        return value
    raise DataError(f"{where} is not an integer: {shown(value)}", REFETCH)


def as_number(value: object, where: str) -> float:
    """The value as a finite number."""
    if isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST:
        return float(value)
    raise DataError(f"{where} is not a number: {shown(value)}", REFETCH)


def as_text(value: object, where: str) -> str:
    """The value as a text that can be written: see ``clean_text``."""
    if not isinstance(value, str):
        raise DataError(f"{where} is not a text, but {type(value).__name__}", REFETCH)
    return clean_text(value)


def as_name(value: object, where: str) -> str:
    """The value as the name of something: a text, or a number as it is written."""
    if isinstance(value, str):
        return clean_text(value)
    return str(as_number(value, where)) if isinstance(value, float) else str(as_int(value, where))


def field(record: Record, key: str, where: str) -> object:
    """A field that must be there."""
    if key not in record:
        raise DataError(f"{where} has no field {key!r}", f"it has: {', '.join(map(shown, list(record)[:12]))}")
    return record[key]


def get_int(record: Record, key: str, where: str) -> int:
    """A field that must be an integer."""
    return as_int(field(record, key, where), f"{key} of {where}")


def get_str(record: Record, key: str, where: str) -> str:
    """A field that must be a string."""
    return as_text(field(record, key, where), f"{key} of {where}")


def get_name(record: Record, key: str, where: str) -> str:
    """A field that names something: a text or a number."""
    return as_name(field(record, key, where), f"{key} of {where}")


def get_list(record: Record, key: str, where: str) -> list[object]:
    """A field that must be a list."""
    return as_list(field(record, key, where), f"{key} of {where}")


def get_record(record: Record, key: str, where: str) -> Record:
    """A field that must be an object."""
    return as_record(field(record, key, where), f"{key} of {where}")


def shown(value: object) -> str:
    """A value for a message: short, and safe for one so deep or so large that ``repr`` would fail."""
    try:
        return reprlib.repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return f"a value of type {type(value).__name__} that is too large to show"


def clean_text(text: str) -> str:
    """Read the bytes of a Python-2 string that are not UTF-8 as Latin-1. Other texts come back unchanged.

    What no encoding can have meant (a lone surrogate) becomes a question mark, so that every text can be written.
    """
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        try:
            return text.encode("utf-8", "surrogateescape").decode("latin1")
        except UnicodeEncodeError:
            return text.encode("utf-8", "replace").decode("utf-8")
    return text
