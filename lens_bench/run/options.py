"""Reading what people type after an option of ``run``."""

from __future__ import annotations

from collections.abc import Sequence

from lens_bench.errors import UsageError
from lens_bench.scoring.protocols import PROTOCOLS, get_protocol

ALL = "all"


def arguments(pairs: Sequence[str]) -> dict[str, str]:
    """``["k=v", ...]`` as a dict; the value may hold further ``=``. Raises ``UsageError``."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--model-arg {pair} is not of the form key=value")
        if key in found:
            raise UsageError(f"--model-arg {key} is given twice")
        found[key] = value
    return found


def batch(text: str) -> int | None:
    """``auto`` as None, else images per call. Raises ``UsageError``."""
    if text == "auto":
        return None
    if not _number(text) or int(text) < 1:
        raise UsageError(f"--batch-size {text} is neither a positive number nor auto")
    return int(text)


def error_limit(text: str) -> int | float:
    """A share as a float (``1%``, ``0.01``) or a number of expressions as an int (``20``). Raises ``UsageError``."""
    if _number(text):
        return int(text)
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UsageError(
            f"--max-errors {text} is neither a share nor a number",
            "for example 1%, 0.05 or 20; 0 aborts on the first failure, 100% never",
        )
    return share


def protocols(names: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    """What ``--protocol`` names: the run's own, None for the suite's, and further ones. ``all`` is every protocol.

    Raises:
        UsageError: There is no such protocol.
    """
    every = list(PROTOCOLS)
    found = dict.fromkeys(name for given in names for name in (every if given == ALL else [get_protocol(given).name]))
    if not names or names[0] == ALL:
        return None, tuple(found)
    own, *also = found
    return own, tuple(also)


def shard_number(text: str) -> tuple[int, int]:
    """Parse ``i/n``; i runs from 1 to n. Raises ``UsageError``."""
    first, _, second = text.partition("/")
    if not (_number(first) and _number(second) and 0 <= int(first) <= int(second) and int(second) > 0):
        raise UsageError(f"--shard {text} is not of the form i/n with i from 1 to n", "for example --shard 2/3")
    index, total = int(first), int(second)
    return index or total, total  # counting from 0 covers the same shards


def _number(text: str) -> bool:
    """Plain digits: ``isdigit`` alone takes superscripts, which ``int`` does not."""
    return text.isascii() and text.isdecimal()
