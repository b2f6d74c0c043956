"""Text of other people on its way out: terminals, CSV, JSON, Markdown."""

from __future__ import annotations

import io
import json
import unicodedata
import warnings
from collections.abc import Callable

import pytest
from rich.console import Group
from rich.padding import Padding
from rich.progress import Progress, TextColumn
from rich.text import Text

from lens_bench import console, progress
from lens_bench.errors import DataError
from lens_bench.outgoing import (
    LINE_LIMIT,
    CleanStream,
    clean,
    code_markdown,
    csv_cell,
    escape_markdown,
    json_text,
    one_line,
    shortened,
)
from lens_bench.report.compare_text import rich_table

ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202egnp\u200b\x7f\x00"
HOSTILE = f"{ESCAPES}[bold]b[/bold][link=http://x]l[/link]:smile:"
UNSAFE = set(ESCAPES) - set("[2J]0;owned31mgnp")


# Format characters with a shape of their own: signs of Arabic, Syriac, Kaithi and Egyptian.
VISIBLE = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD, *range(0x13430, 0x13440)}


def test_every_control_and_format_character_is_replaced() -> None:
    for code in range(0x110000):
        character = chr(code)
        kind = unicodedata.category(character)
        if kind in ("Cc", "Cs", "Zl", "Zp", "Cf") and character not in "\n\t" and code not in VISIBLE:
            assert clean(character) != character, hex(code)
        if kind[0] in "LNPS" and code not in (0x115F, 0x1160, 0x3164, 0xFFA0):
            assert clean(character) == character, hex(code)


def test_cleaning_keeps_lengths_languages_and_lines() -> None:
    assert clean("\x1b[31m\x07") == "␛[31m␇"
    assert len(clean(HOSTILE)) == len(HOSTILE)
    for text in ("a\nb\tc", "Şahıs, ёлка, 左の人", "می\u200cخواهم", "👩\u200d👩\u200d👧"):
        assert clean(text) == text
    assert clean("pay\u200dpal") == "pay\N{REPLACEMENT CHARACTER}pal"


def test_long_values_keep_both_ends() -> None:
    text = "tag " + "x" * 20_000 + " is not known"
    shown = one_line(text)
    assert len(shown) == LINE_LIMIT
    assert shown.startswith("tag xxx") and shown.endswith("xxx is not known") and "…" in shown
    assert shortened("y" * LINE_LIMIT) == "y" * LINE_LIMIT
    assert one_line("a\n  b\r\nc\x85d") == "a b c d"


def screen(stderr: bool = False) -> tuple[console.Screen, io.StringIO]:
    made, stream = console.Screen(stderr=stderr, width=400), io.StringIO()
    made.file = stream
    return made, stream


def bar(text: str) -> Progress:
    made = Progress(TextColumn("{task.description}", markup=False))
    made.add_task(text)
    return made


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda text: text,
        Text,
        lambda text: Padding(Text(text), 1),
        lambda text: Group(text, Text(text)),
        lambda text: rich_table(("head", text), [(text, text)], text),
        lambda text: console.facts([("name", text), (text, "value")]),
        lambda text: bar(text).get_renderable(),
    ],
)
def test_nothing_that_is_printed_sends_control_characters(wrapped: Callable[[str], object]) -> None:
    made, stream = screen()
    made.print(wrapped(HOSTILE))
    shown = stream.getvalue()
    assert not set(shown) & UNSAFE
    assert "[bold]b[/bold][link=http://x]l[/link" in shown, "markup is text"
    assert "\N{SMILING FACE WITH OPEN MOUTH AND SMILING EYES}" not in shown
    made, stream = screen()
    made.print(wrapped("z" * 20_000))
    assert stream.getvalue().count("z") <= 4 * LINE_LIMIT


def test_styles_survive_the_cleaning() -> None:
    made, _ = screen()
    text = Text.assemble(("name", "bold"), "\x1b", ("value", "red"))
    segments = [s for s in made.render(text) if s.text.strip()]
    assert [(s.text, str(s.style)) for s in segments] == [("name", "bold"), ("␛", "none"), ("value", "red")]


def test_errors_notes_and_progress_are_one_clean_line(monkeypatch: pytest.MonkeyPatch) -> None:
    made, stream = screen(stderr=True)
    monkeypatch.setattr(console, "err", made)
    monkeypatch.setattr(progress, "err", made)
    console.show_error(DataError(f"{HOSTILE}\nerror: forged {'v' * 20_000}", "hint\x1b[0m\nhint: forged"))
    console.note(f"{HOSTILE}\nnote: forged")
    lines = progress.PlainProgress()
    lines.start(HOSTILE, 2, 0)
    lines.note(f"\x1b{'w' * 20_000}")
    with progress.waiting(HOSTILE):
        pass
    assert not set(stream.getvalue()) & UNSAFE
    printed = stream.getvalue().splitlines()
    assert [line.partition(":")[0] for line in printed if ": " in line][:3] == ["error", "hint", "note"]
    assert len(printed) == 5 and max(map(len, printed)) <= LINE_LIMIT + len("error: ")


def test_warnings_and_loggers_are_cleaned_and_progress_bars_are_not_broken() -> None:
    raw = io.StringIO()
    stream = CleanStream(raw)
    stream.write("50%\r100%\n")
    stream.writelines(["a\x1b]0;x\x07\n"])
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        print(warnings.formatwarning(UserWarning("torch says \x9b2J"), UserWarning, "f.py", 1), file=stream)  # type: ignore[call-overload]
    assert raw.getvalue().startswith("50%\r100%\na␛]0;x␇\n")
    assert not set(raw.getvalue()) & UNSAFE
    assert stream.getvalue() == raw.getvalue(), "everything else is the stream's own"  # type: ignore[operator]


def test_json_escapes_what_a_terminal_obeys() -> None:
    content = {"a": HOSTILE, "b": ["\ud800", "é", "\U000e0041"], "c": 1.5}
    for encoding in ("utf-8", "ascii", "latin-1"):
        text = json_text(content, encoding=encoding)
        assert json.loads(text) == content
        assert not set(text) & UNSAFE
        text.encode(encoding)
    assert json_text({"é": [1]}, indent=1) == '{\n "é": [\n  1\n ]\n}'


@pytest.mark.parametrize("start", list("=+-@\t\r\n＝＋－＠"))
def test_cells_are_no_formulas(start: str) -> None:
    assert csv_cell(f"{start}cmd|' /C calc'!A0").startswith("'")
    assert csv_cell(f"a{start}b")[0] == "a"


def test_numbers_stay_numbers() -> None:
    values = [-0.5, 3, None, True, False, "-0.5", "+1e-3", "-.5", "", "LISA-7B"]
    assert [csv_cell(v) for v in values] == ["-0.5", "3", "", "yes", "no", "-0.5", "+1e-3", "-.5", "", "LISA-7B"]
    assert csv_cell("-1+1") == "'-1+1"
    assert csv_cell("a\x1bb") == "a␛b"


def test_markdown_has_no_markup_of_others() -> None:
    assert escape_markdown("a|b <c>\n*d* \x1b[0m") == "a\\|b &lt;c&gt; \\*d\\* ␛\\[0m"
    assert code_markdown("a`b\nc\x9b") == "`a'b c\N{REPLACEMENT CHARACTER}`"
