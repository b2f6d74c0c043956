"""The forms in which models write boxes and points: patterns, and what they match in a text.

Quantifiers are bounded, or possessive over what is never read a second time, so that no text costs more than its
length.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

Four: TypeAlias = tuple[float, float, float, float]
# Four numbers in the order of the card, two corners, or numbers whose names say what they are.
Form: TypeAlias = Literal["list", "corners", "xyxy", "xywh"]

ASCII: dict[int, str] = {
    **{0xFF01 + n: chr(0x21 + n) for n in range(94)},  # full-width forms
    **dict(
        zip(map(ord, "\u3000\xa0\u3001\u3010\u3011\u3014\u3015\u2212\u2013\u25c1\u25b7"), "  ,[][]--<>", strict=True)
    ),
}
_NUMBER = r"[-+]?(?:[0-9]{1,12}(?:\.[0-9]{0,24})?|\.[0-9]{1,24})(?:[eE][-+]?[0-9]{1,3})?"
_ITEM = rf"(?>[\"']?({_NUMBER})(?:\s{{0,4}}(%))?[\"']?)"
_GAP = r"(?>\s{0,16}[,;]\s{0,16}|\s{1,16})"
_ITEMS = re.compile(_ITEM)
# A list is closed, or goes on with something that is no number; where it is cut off, its length is not known.
_LIST = re.compile(
    rf"[\[(]\s{{0,16}}(?P<items>{_ITEM}(?:{_GAP}{_ITEM})*+)\s{{0,16}}+(?:(?P<close>(?:,\s{{0,16}})?[\])])|(?=,\s{{0,16}}[\"'\[({{A-Za-z]))"
)
_BARE = re.compile(
    rf"(?:<\|?[a-z_]{{0,12}}box[a-z0-9_]{{0,12}}\|?>|box[a-z0-9_]{{0,12}}[\"']?\s{{0,4}}[:=])\s{{0,16}}[\"']?\s{{0,16}}"
    rf"(?P<items>{_ITEM}{_GAP}{_ITEM}{_GAP}{_ITEM}{_GAP}{_ITEM})(?!\s{{0,8}}[,;]?\s{{0,8}}[-+.\"']?[0-9])",
    re.IGNORECASE | re.ASCII,
)
_NAMED = re.compile(
    r"(?<![A-Za-z0-9_])[\"']?(?P<name>[xy][_-]?min|[xy][_-]?max|[xy][0-9]?|left|top|right|bottom|width|height|w|h)[\"']?"
    rf"\s{{0,8}}[:=]\s{{0,8}}(?P<items>{_ITEM})",
    re.IGNORECASE | re.ASCII,
)
_LOCATION = re.compile(r"<\|?loc_([0-9]{1,4})\|?>", re.IGNORECASE | re.ASCII)
# Two numbers side by side, two such tokens of any name, or a number that is named as a coordinate.
SIDE_BY_SIDE = re.compile(
    rf"{_ITEM}(?:\s?px)?{_GAP}[\"']?[-+.]?[0-9]|<\|?[a-z]{{1,12}}_?[0-9]{{1,5}}\|?>\s{{0,4}}<|{_NAMED.pattern}",
    re.IGNORECASE | re.ASCII,
)
_COMMA, _BLANK, _JOIN = re.compile(r"\s*+,\s*+"), re.compile(r"\s*+"), re.compile(r"[\s,;]*+")
# What stands before a list of points: their tag, or their key.
_POINTS_BEFORE = re.compile(
    r"(?:<\|?[a-z_]{0,8}(?:point|polygon|quad)(?!_end)[a-z0-9_]{0,16}\|?(?:>|\s[^<>]{0,24})"
    r"|(?:point|poly|quad|segmentation|contour|outline|vertices)[a-z0-9_ ]{0,8}[\"']?\s{0,4}[:=])[\s\[({\"']{0,12}$",
    re.IGNORECASE | re.ASCII,
)
_LOOK_BACK = 64

_NAMES: tuple[tuple[tuple[str, str, str, str], Form], ...] = (
    (("x1", "y1", "x2", "y2"), "xyxy"),
    (("x0", "y0", "x1", "y1"), "xyxy"),
    (("xmin", "ymin", "xmax", "ymax"), "xyxy"),
    (("left", "top", "right", "bottom"), "xyxy"),
    (("x", "y", "w", "h"), "xywh"),
    (("x", "y", "width", "height"), "xywh"),
    (("left", "top", "width", "height"), "xywh"),
)


class FoundBox(NamedTuple):
    """Four numbers that are a box, with their place in the text."""

    start: int
    numbers: Four
    form: Form
    percent: bool = False


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Numbers with their place; ``percent`` is None where some have the sign and some not."""

    start: int
    end: int
    values: tuple[float, ...]
    percent: bool | None
    round: bool = False
    points: bool = False

    def box(self, form: Form) -> Iterator[FoundBox]:
        if self.percent is not None and not self.points:
            a, b, c, d = self.values[:4]
            yield FoundBox(self.start, (a, b, c, d), form, self.percent)


def found_in(text: str, *, locations: bool) -> tuple[list[FoundBox], tuple[tuple[float, float], ...]]:
    """The boxes of a text in its order, and the pairs of numbers in brackets that are no corners of one.

    Args:
        text: With ``ASCII`` applied.
        locations: Whether numbers are thousandths, so that ``<loc_10>`` tokens can be read.
    """
    lists, pairs = _lists(text)
    boxes = [box for numbers in lists for box in numbers.box("list")]
    corners, points = _corners(text, pairs)
    boxes += corners
    boxes += [box for m in _BARE.finditer(text) if (n := _numbers(m)) is not None for box in n.box("list")]
    boxes += _named(text)
    boxes += _locations(text) if locations else []
    return sorted(boxes, key=lambda box: box.start), points


def _numbers(match: re.Match[str]) -> _Numbers | None:
    """The items of a match; None where one is not finite."""
    items = _ITEMS.findall(match["items"])
    values = tuple(float(number) for number, _ in items)
    signs = {sign for _, sign in items}
    percent = None if len(signs) > 1 else "%" in signs
    opened = match.string[match.start()] == "("
    return _Numbers(match.start(), match.end(), values, percent, opened) if all(map(math.isfinite, values)) else None


def _lists(text: str) -> tuple[list[_Numbers], list[_Numbers]]:
    """Lists of four, or of four and a score; and pairs. Those behind a word for points are marked."""
    fours, pairs = [], []
    last: _Numbers | None = None
    for match in _LIST.finditer(text):
        numbers = _numbers(match)
        if numbers is None:
            continue
        after = last is not None and last.points and _JOIN.fullmatch(text, last.end, numbers.start) is not None
        if after or _POINTS_BEFORE.search(text[max(0, numbers.start - _LOOK_BACK) : numbers.start]):
            numbers = _Numbers(numbers.start, numbers.end, numbers.values, numbers.percent, numbers.round, points=True)
        last = numbers
        count, closed = len(numbers.values), match["close"] is not None
        if count == 2 and closed:
            pairs.append(numbers)
        elif count == 4 or (count == 5 and closed and 0 <= numbers.values[4] <= 1):
            fours.append(numbers)
    return fours, pairs


def _corners(text: str, pairs: Sequence[_Numbers]) -> tuple[list[FoundBox], tuple[tuple[float, float], ...]]:
    """The corners that pairs are, and the pairs that are points.

    Pairs belong together where a comma joins them, or where two stand alone beside each other.
    """
    boxes: list[FoundBox] = []
    points: list[tuple[float, float]] = []
    for row in _chained(pairs, text, _JOIN):
        groups = _chained(row, text, _COMMA)
        if len(groups) == len(row) == 2 and _BLANK.fullmatch(text, row[0].end, row[1].start):
            groups = [row]
        for group in groups:
            if _are_corners(group):
                boxes += [box for first, second in _twos(group) for box in _joined(first, second).box("corners")]
            else:
                points += [(n.values[0], n.values[1]) for n in group if not n.percent]
    return boxes, tuple(points)


def _are_corners(group: Sequence[_Numbers]) -> bool:
    """Two pairs are a box. More are boxes where every second one lies right below the one before.

    The corners of a convex polygon, taken in turn, do not: its opposite sides run in opposite directions. Only pairs in
    round brackets are read so, as Qwen2-VL writes them; square brackets in a row are a list of points.
    """
    if any(n.points for n in group) or len(group) % 2:
        return False
    falls = all(a.values[0] < b.values[0] and a.values[1] < b.values[1] for a, b in _twos(group))
    return len(group) == 2 or (falls and all(n.round for n in group))


def _twos(group: Sequence[_Numbers]) -> list[tuple[_Numbers, _Numbers]]:
    return list(zip(group[::2], group[1::2], strict=True))


def _joined(first: _Numbers, second: _Numbers) -> _Numbers:
    percent = first.percent if first.percent == second.percent else None
    return _Numbers(first.start, second.end, first.values + second.values, percent)


def _chained(found: Sequence[_Numbers], text: str, join: re.Pattern[str]) -> list[list[_Numbers]]:
    """Neighbours with nothing but ``join`` between them, together."""
    rows: list[list[_Numbers]] = []
    for numbers in found:
        if rows and join.fullmatch(text, rows[-1][-1].end, numbers.start):
            rows[-1].append(numbers)
        else:
            rows.append([numbers])
    return rows


def _named(text: str) -> list[FoundBox]:
    names: dict[int, str] = {}
    found: list[_Numbers] = []
    for match in _NAMED.finditer(text):
        numbers = _numbers(match)
        if numbers is not None:
            names[numbers.start] = re.sub("[_-]", "", match["name"].lower())
            found.append(numbers)
    boxes: list[FoundBox] = []
    for row in _chained(found, text, _JOIN):
        of_points = any(names[n.start][-1] in "3456789" for n in row)
        if of_points or _POINTS_BEFORE.search(text[max(0, row[0].start - _LOOK_BACK) : row[0].start]):
            continue
        at = 0
        while at + 4 <= len(row):
            four = {names[n.start]: n for n in row[at : at + 4]}
            said = next(((order, form) for order, form in _NAMES if set(order) == set(four)), None)
            signs = {n.percent for n in four.values()}
            if said is None or len(signs) > 1:
                at += 1
                continue
            a, b, c, d = (four[name].values[0] for name in said[0])
            boxes.append(FoundBox(row[at].start, (a, b, c, d), said[1], True in signs))
            at += 4
    return boxes


def _locations(text: str) -> list[FoundBox]:
    """Four tokens in a row; more are a polygon."""
    tokens = [_Numbers(m.start(), m.end(), (float(m.group(1)),), False) for m in _LOCATION.finditer(text)]
    boxes: list[FoundBox] = []
    for row in _chained(tokens, text, _BLANK):
        if len(row) == 4:
            a, b, c, d = (n.values[0] for n in row)
            boxes.append(FoundBox(row[0].start, (a, b, c, d), "list"))
    return boxes
