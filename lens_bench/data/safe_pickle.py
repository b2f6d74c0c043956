"""Pickles from the internet, read without running them and in time and memory linear in their size.

A pickle is a program for a small stack machine: it may import any function and call it. ``refs(*).p`` of the REFER sets
are pickles (of Python 2, protocol 0 or 2) that people take from mirrors. ``pickle.Unpickler`` can be kept from
importing, but not from what plain data alone can do: a few hundred bytes make it hash a tuple of 2**60 leaves, nine
bytes make it allocate gigabytes for its memo. So there are two readers:

* Where every operation is one of those that REFER's own files consist of (texts, numbers, lists, dicts, each of bounded
  length), ``pickle`` reads the file. A regular expression checks that first.
* Everything else is read, ten times slower, by a machine of our own (``pickle_machine``), which knows only the
  operations that plain data needs.
"""

from __future__ import annotations

import io
import pickle
import re
import struct
from pathlib import Path
from typing import Final, NoReturn

from lens_bench.data.jsonio import no_gc
from lens_bench.errors import DataError
from lens_bench.pickle_machine import Broken, Forbidden, Machine

_MAX_FILE = 2**30  # bytes; the largest refs(*).p has some 40 million


# ---------------------------------------------------------------------------------------------- ordinary files


def _lengths(code: bytes, width: int, least: int = 0, most: int = 255) -> bytes:
    """A pattern of one operation whose argument follows its length."""
    sizes = range(least, most + 1)
    choices = b"|".join(re.escape(n.to_bytes(width, "little")) + b".{%d}" % n for n in sizes)
    return re.escape(code) + b"(?>" + choices + b")"


# Possessive throughout: a position is never tried twice.
_ORDINARY: Final = re.compile(
    b"(?>"
    + b"|".join((
        rb"[\]}(ldaesuN.\x88\x89\x94]",  # containers, constants, memoize
        rb"[qhK].", rb"M..", rb"J....", rb"G.{8}", rb"j....", rb"r...\x00", rb"\x80.", rb"\x95...\x00{5}",
        rb"[pg][0-9]{1,7}\n", rb"[IL]-?[0-9]{1,18}L?\n", rb"F[^\n]{1,40}\n", rb"[SV][^\n]*+\n",
        _lengths(b"U", 1), _lengths(b"X", 4), _lengths(b"\x8c", 1), _lengths(b"T", 4),
        _lengths(b"\x8a", 1, most=7),
    ))
    + b"){1,4096}+",
    re.DOTALL,
)  # fmt: skip


class _NoNames(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        """Never reached, since no operation that names anything is ordinary."""
        raise Forbidden(f"{module}.{name}")


def _is_ordinary(data: bytes) -> bool:
    at = 0
    while at < len(data):
        found = _ORDINARY.match(data, at)
        if found is None:
            return False
        at = found.end()
    return True


def _read(data: bytes) -> object:
    if _is_ordinary(data):
        try:
            content: object = _NoNames(io.BytesIO(data), encoding="utf-8", errors="surrogateescape").load()
            return content
        except (pickle.UnpicklingError, EOFError, LookupError, TypeError, ValueError, OverflowError, AttributeError):
            pass  # damaged: the machine says how
    return Machine(data).run()


# ---------------------------------------------------------------------------------------------- reading


def load_pickle(path: Path) -> object:
    """Read a pickle of dicts, lists, tuples, sets, texts, bytes, numbers, booleans and None.

    Python-2 ``str`` objects are read as UTF-8; bytes that are not UTF-8 are kept as surrogate escapes, which
    ``clean_text`` turns into Latin-1.

    Raises:
        DataError: The file is missing, damaged, or asks for anything else; the message names what it asked for.
    """
    try:
        size = path.stat().st_size
        if size > _MAX_FILE:
            raise DataError(f"{path} is refused: it has {size} bytes, and REFER's files have some ten million")
        with no_gc():
            return _read(path.read_bytes())
    except Forbidden as error:
        hint = "plain data needs no code; do not open this file with pickle, and get it from a source you trust"
        if "numpy" in str(error):
            hint = "it holds numpy values: save it again with plain numbers (int(x), x.tolist())"
        raise DataError(f"{path} is refused: it asks for {_brief(str(error))}", hint) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    except (Broken, LookupError, TypeError, ValueError, struct.error) as error:
        reason = _brief(str(error) or type(error).__name__)
        raise DataError(f"{path} is not a readable pickle: {reason}", "the file is incomplete: get it again") from None


def _brief(text: str) -> str:
    """What a pickle asks for, for a message of one line: its author chose the words."""
    line = " ".join(text.split())
    return line if len(line) <= 100 else f"{line[:97]}..."
