"""Text of other people (tags, file names, ids, answers of models, messages of libraries) on its way out.

Such text may hold characters that a terminal obeys instead of showing, or cells that a spreadsheet runs as formulas.
``console.py`` sends everything that it prints through ``clean``, so that no caller has to think of it; ``csv_cell``
does the same for CSV files, ``json_text`` for JSON on standard output.
"""

from __future__ import annotations

import codecs
import json
import re
import sys
from collections.abc import Iterable
from typing import Final, TextIO

# One line of a message or of a table's cell; 20,000 characters of somebody's tag would bury the message.
LINE_LIMIT: Final = 1000
MAX_LINES: Final = 200

# C0 except newline and tab, DEL and C1 (ESC, CSI, OSC, BEL, ...); line and paragraph separators; what changes the
# direction of text or is invisible (soft hyphen, zero-width space, word joiner, byte order mark, tag characters, ...);
# halves of surrogate pairs, which no encoding holds. Zero-width joiners are part of emoji and of Persian words, so only
# those after an ASCII character are meant.
_UNSAFE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
    "|(?<![^\x00-\x7f])[\u200c\u200d]"
)
# Unicode's pictures of the control characters start here; the picture of DEL stands apart.
_PICTURES: Final = 0x2400
_PLAIN: Final = {
    "\N{EN DASH}": "-",
    "\N{EM DASH}": "-",
    "\N{MINUS SIGN}": "-",
    "\N{HORIZONTAL ELLIPSIS}": "...",
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{PLUS-MINUS SIGN}": "+-",
    "\N{MIDDLE DOT}": ".",
    "\N{BULLET}": "*",
    "\N{RIGHTWARDS ARROW}": "->",
    "\N{LESS-THAN OR EQUAL TO}": "<=",
    "\N{GREATER-THAN OR EQUAL TO}": ">=",
    "\N{LEFT SINGLE QUOTATION MARK}": "'",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{LEFT DOUBLE QUOTATION MARK}": '"',
    "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
}


def clean(text: str) -> str:
    """Text in which every character that a terminal would obey is replaced by one that it shows.

    Newlines and tabs stay. The length stays, so that positions in the text (of styles) stay right.
    """
    return _UNSAFE.sub(_picture, text)


def one_line(text: str, limit: int = LINE_LIMIT) -> str:
    """``clean`` text as one line of at most ``limit`` characters."""
    return shortened(clean(" ".join(text.split())), limit)


def shortened(text: str, limit: int = LINE_LIMIT) -> str:
    """Text of at most ``limit`` characters: of a longer one, the middle gives way to an ellipsis."""
    cut = cut_at(len(text), limit)
    return text if cut is None else f"{text[: cut[0]]}\N{HORIZONTAL ELLIPSIS}{text[cut[1] :]}"


def cut_at(length: int, limit: int = LINE_LIMIT) -> tuple[int, int] | None:
    """Where the part begins and ends that ``shortened`` leaves out; None where nothing has to go."""
    if length <= limit:
        return None
    tail = limit // 4
    return limit - 1 - tail, length - tail


def json_text(content: object, indent: int | None = None, encoding: str = "utf-8") -> str:
    """JSON for standard output, in which unsafe characters are escaped as JSON escapes them.

    Args:
        content: What ``json.dumps`` takes; other objects become their ``str``.
        indent: Spaces of a level; None writes one line.
        encoding: Of the stream. All but UTF-8 get ASCII.
    """
    text = json.dumps(content, ensure_ascii=not is_utf8(encoding), indent=indent, default=str)
    # They can only stand in strings. `json.dumps` itself leaves DEL as it is.
    return _UNSAFE.sub(lambda found: "\\u007f" if found[0] == "\x7f" else json.dumps(found[0])[1:-1], text)


# What Markdown or the HTML it lets through would take for markup.
_MARKS: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", **{c: f"\\{c}" for c in "\\`*_[]|#~"}})


def escape_markdown(text: str) -> str:
    """One line of text that Markdown and HTML leave alone: names of models and samples come from other people."""
    return clean(" ".join(text.split())).translate(_MARKS)


def code_markdown(text: str) -> str:
    """One line of text as a code span; a backtick would end it."""
    return f"`{clean(' '.join(text.split())).replace('`', chr(39))}`"


_FORMULA: Final = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def csv_cell(value: object) -> str:
    """A cell of a CSV file that no spreadsheet runs: text that it would take for a formula begins with an apostrophe.

    None is empty, booleans are ``yes`` and ``no``, floats have six significant digits, numbers stay numbers.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return f"'{clean(text)}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else clean(text)


def is_utf8(encoding: str | None) -> bool:
    """Whether an encoding holds every character."""
    try:
        return codecs.lookup(encoding or "utf-8").name == "utf-8"
    except LookupError:
        return False


# ---------------------------------------------------------------------------------------------- streams


class CleanStream:
    """A text stream that is ``clean``: for what warnings, loggers and tracebacks write to standard error.

    ``rich_proxied_file`` is the attribute by which rich finds the stream below: its consoles write their own control
    sequences, and ``console.py`` cleans what goes between them.
    """

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        """Write clean text; a carriage return, with which progress bars go back, stays."""
        self.rich_proxied_file.write("\r".join(clean(part) for part in text.split("\r")))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write clean lines."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> object:
        return getattr(self.rich_proxied_file, name)


def protect_streams() -> None:
    """Make standard output hold every character whatever its encoding, and standard error ``clean`` as well."""
    codecs.register_error(_HANDLER, _spelled_out)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=_HANDLER)
    if sys.stderr is not None and not isinstance(sys.stderr, CleanStream):
        sys.stderr = CleanStream(sys.stderr)


_HANDLER: Final = "lens_bench_plain"


def _spelled_out(error: UnicodeError) -> tuple[str, int]:
    """A codec's error handler: what the encoding lacks as ASCII that means the same, or escaped."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in found), error.end


def _picture(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x20:
        return chr(_PICTURES + code)
    return "\N{SYMBOL FOR DELETE}" if code == 0x7F else "\N{REPLACEMENT CHARACTER}"
