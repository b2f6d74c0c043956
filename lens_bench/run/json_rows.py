"""The rows of a JSON Lines file or of one JSON array, each with the line it starts on."""

from __future__ import annotations

from collections.abc import Iterator
from json import JSONDecoder
from pathlib import Path

from lens_bench.errors import DataError
from lens_bench.parsing import parse_json

_HINT = "expected JSON Lines or one JSON array, in UTF-8"


def json_rows(path: Path, raw: bytes) -> Iterator[tuple[int, object]]:
    """Parse the content of a file; yields ``(line, value)``, lines counted from 1. Blank lines are skipped.

    Args:
        path: For messages only.
        raw: The bytes of the file; a byte order mark is accepted.

    Raises:
        DataError: Not UTF-8 or not JSON; the message names file and line.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{raw.count(bytes([10]), 0, error.start) + 1}: not UTF-8", _HINT) from None
    return _elements(path, text) if text.lstrip()[:1] == "[" else _lines(path, text)


def _lines(path: Path, text: str) -> Iterator[tuple[int, object]]:
    # Not splitlines(): a caption may hold U+2028, which is no line break in JSON Lines.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, parse_json(line)
        except ValueError as error:
            raise _malformed(path, number, error) from None


def _elements(path: Path, text: str) -> Iterator[tuple[int, object]]:
    decoder = JSONDecoder()
    position = _skip(text, text.index("[") + 1)
    line, counted = 1, 0
    more = text[position : position + 1] != "]"
    while more:
        position = _skip(text, position)
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise _malformed(path, line, error) from None
        yield line, value
        position = _skip(text, position)
        more = text[position : position + 1] == ","
        if not more and text[position : position + 1] != "]":
            raise DataError(f"{path}:{line}: malformed JSON: no ',' or ']' after the element that starts here", _HINT)
        position += more
    if text[position + 1 :].strip():
        raise DataError(f"{path}: malformed JSON: there is text after the end of the array", _HINT)


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _malformed(path: Path, line: int, error: ValueError | RecursionError) -> DataError:
    """A ``ValueError`` that is no ``JSONDecodeError`` is about an integer with too many digits."""
    reason = "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", str(error))
    return DataError(f"{path}:{line}: malformed JSON: {reason}", _HINT)
