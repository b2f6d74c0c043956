"""Pickles from the internet, admitted only where they hold plain data.

A pickle is a program: it may import any function and call it. ``refs(*).p`` of the REFER sets are pickles (of Python 2,
protocol 0 or 2) that people take from mirrors. Everything such a program can reach beyond constants goes through
``find_class``, so that is where it is stopped: sets, and the two functions that protocol 2 needs to write ``bytes``,
are admitted; any other name ends the reading before anything is called.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Final

from lens_bench.data.jsonio import no_gc
from lens_bench.errors import DataError


class _Forbidden(Exception):
    """The pickle asked for a name that is not admitted."""


class _Encode:
    """Stands in for ``_codecs.encode``, as far as ``pickle.dumps(b"...", 2)`` uses it.

    An instance without attributes, because a pickle can also set attributes on whatever it gets hold of.
    """

    __slots__ = ()

    def __call__(self, text: object, codec: object = "latin1") -> bytes:
        if not isinstance(text, str) or codec != "latin1":
            raise _Forbidden("_codecs.encode with other arguments than a text and 'latin1'")
        return text.encode("latin1")


class _NoBytes:
    """Stands in for ``bytes``, as far as ``pickle.dumps(b"", 2)`` uses it: called without arguments."""

    __slots__ = ()

    def __call__(self, *args: object) -> bytes:
        if args:
            raise _Forbidden("bytes with arguments")
        return b""


_ADMITTED: Final[dict[tuple[str, str], object]] = {
    **{(module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in (set, frozenset)},
    **{(module, "bytes"): _NoBytes() for module in ("builtins", "__builtin__")},
    ("_codecs", "encode"): _Encode(),
}
_BROKEN = (
    pickle.UnpicklingError, EOFError, AttributeError, TypeError, ValueError, KeyError, IndexError, OverflowError,
    MemoryError, RecursionError,
)  # fmt: skip


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        """Admit a name, or stop. Called for every way in which a pickle can name something importable."""
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise _Forbidden(f"{module}.{name}") from None

    def persistent_load(self, pid: object) -> object:
        """Refuse: plain data has no persistent ids."""
        raise _Forbidden(f"the persistent id {pid!r:.40}")


def load_pickle(path: Path) -> object:
    """Read a pickle of dicts, lists, tuples, sets, texts, bytes, numbers, booleans and None.

    Python-2 ``str`` objects are read as UTF-8; bytes that are not UTF-8 are kept as surrogate escapes, which
    ``clean_text`` turns into Latin-1.

    Raises:
        DataError: The file is missing, damaged, or asks for anything else; the message names what it asked for.
    """
    try:
        with path.open("rb") as file, no_gc():
            content: object = _PlainUnpickler(file, encoding="utf-8", errors="surrogateescape").load()
            return content
    except _Forbidden as error:
        hint = "plain data needs no code; do not open this file with pickle, and get it from a source you trust"
        if "numpy" in str(error):
            hint = "it holds numpy values: save it again with plain numbers (int(x), x.tolist())"
        raise DataError(f"{path} is refused: it asks for {error}", hint) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    except _BROKEN as error:
        raise DataError(f"{path} is not a readable pickle: {error}", "the file is incomplete: get it again") from None


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
