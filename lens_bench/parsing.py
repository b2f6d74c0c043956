"""JSON, YAML and CSV parsed with one kind of failure each.

The parsers of the standard library and of PyYAML also fail with ``RecursionError`` (nesting), with plain
``ValueError`` (an integer of more than 4,300 digits, a date such as 2024-13-45) or with ``csv.Error`` (a field of more
than 131,072 characters). A caller that names only the usual exception ends in a traceback on such a file, so every
reader of the package calls these functions instead.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NoReturn, cast

import yaml

from lens_bench.errors import DataError

# No file that the package reads nests deeper than about 12 levels. The limit keeps what walks a value recursively
# (`repr`, `json.dumps`, pydantic) far from Python's own limit of about 1,000 frames.
MAX_DEPTH: Final = 100
# Aliases let a YAML file of 300 bytes stand for 10**9 values.
MAX_YAML_VALUES: Final = 1_000_000
# Larger files are annotation files, whose values are read one by one; walking all of them would cost seconds.
_CHECKED_BYTES: Final = 4 << 20
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse_json(content: str | bytes | bytearray, *, nan: bool = True) -> object:
    """Parse JSON; every failure is a ``ValueError``.

    Args:
        content: Text, or bytes in UTF-8, UTF-16 or UTF-32.
        nan: Whether NaN and infinities, which Python writes and JSON does not have, are read.

    Raises:
        ValueError: Malformed text, broken bytes, an integer of more than 4,300 digits, or deep nesting.
    """
    try:
        value = cast("object", json.loads(content) if nan else _STRICT.decode(_text(content)))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if len(content) <= _CHECKED_BYTES and _deeper(value, MAX_DEPTH):
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON value")


_STRICT = json.JSONDecoder(parse_constant=_refuse)


def _text(content: str | bytes | bytearray) -> str:
    return content if isinstance(content, str) else content.decode(json.detect_encoding(content))


def parse_yaml(content: str) -> object:
    """Parse YAML with plain tags only; every failure is a ``ValueError`` of one line.

    Raises:
        ValueError: Malformed text, a value that its type does not admit (a date such as 2024-13-45), deep nesting, or
            aliases that stand for more than a million values or for themselves.
    """
    try:
        _check_yaml_depth(content)
        value: object = yaml.load(content, Loader=_LOADER)  # noqa: S506 - the C safe loader
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (yaml.YAMLError, ValueError, OverflowError, TypeError, AttributeError, KeyError, IndexError) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None
    if _expanded(value, {}, MAX_DEPTH) > MAX_YAML_VALUES:
        raise ValueError("aliases stand for too many values, or for themselves")
    return value


def _check_yaml_depth(content: str) -> None:
    """Refuse deep nesting before anything recurses into it: libyaml's own recursion ends in a crash."""
    depth = 0
    for event in yaml.parse(content, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def csv_rows(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, list[str]]]:
    """Yield ``(line number from 1, fields)`` of a CSV file, header included.

    Raises:
        FileNotFoundError: The file is missing.
        DataError: It cannot be read, holds other bytes than the encoding's, or a field is too long.
    """
    try:
        raw = path.read_bytes()
        text = raw.decode(encoding)
    except FileNotFoundError:
        raise
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8", "save the file as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        for fields in reader:
            yield reader.line_num, fields
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}", "expected comma-separated values") from None


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return [*value, *value.values()] if any(isinstance(key, tuple) for key in value) else value.values()
    return value if isinstance(value, list | tuple | set) else ()


def _deeper(value: object, limit: int) -> bool:
    """Whether lists and objects are nested more than ``limit`` levels deep."""
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _expanded(value: object, known: dict[int, int], depth: int) -> int:
    """How many values a value holds when aliases are written out; a huge number beyond ``depth`` and for a cycle."""
    if not isinstance(value, dict | list | tuple | set):
        return 1
    if depth == 0:
        return MAX_YAML_VALUES + 1
    found = known.get(id(value))
    if found is None:
        found = 1 + sum(_expanded(inner, known, depth - 1) for inner in _children(value))
        known[id(value)] = found
    return found
