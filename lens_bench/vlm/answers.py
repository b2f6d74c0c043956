"""Reading boxes and points out of what a vision-language model says. Every string gives a result; nothing raises."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from lens_bench.lens.boxes import Corners, parse_box, to_image
from lens_bench.records import Box, Size

Point: TypeAlias = tuple[float, float]
# Numbers are pixels of the image as the model saw it, thousandths of its sides, or fractions of them.
Frame: TypeAlias = Literal["pixels", "thousandths", "unit"]
Order: TypeAlias = Literal["xyxy", "yxyx", "xywh"]

FRAMES: tuple[Frame, ...] = ("pixels", "thousandths", "unit")
ORDERS: tuple[Order, ...] = ("xyxy", "yxyx", "xywh")

_NUMBER = r"[-+]?(?:\d{1,12}(?:\.\d{0,12})?|\.\d{1,12})(?:[eE][-+]?\d{1,3})?"
_GAP = r"\s{0,16},\s{0,16}"
_FOUR = re.compile(
    rf"[\[(]\s{{0,16}}({_NUMBER}){_GAP}({_NUMBER}){_GAP}({_NUMBER}){_GAP}({_NUMBER})(?=\s{{0,16}}[\]),])"
)
_PAIR = re.compile(rf"[\[(]\s{{0,16}}({_NUMBER}){_GAP}({_NUMBER})\s{{0,16}}[\])]")


@dataclass(frozen=True, slots=True)
class Target:
    """What an answer points at, in one frame: a box, points on it, or both."""

    box: Corners | None
    points: tuple[Point, ...] = ()


def read_boxes(text: str, order: Order = "xyxy") -> tuple[Corners, ...]:
    """The boxes an answer names, in the order of the text, corners ordered, each once.

    Looked for in the last ``<answer>``, then outside ``<think>``, then everywhere, as ``lens.boxes.parse_box`` does;
    the first of these that has a box counts. Where it has lists of four numbers, all of them are taken; Qwen2-VL's
    pairs ``(x1,y1),(x2,y2)`` give one box.
    """
    for part in parts(text):
        found = [arranged((a, b, c, d), order) for a, b, c, d in _numbers(_FOUR, part)]
        if not found and (pair := parse_box(part)) is not None:
            found = [arranged(pair, "xyxy" if order == "xywh" else order)]
        if found:
            return tuple(dict.fromkeys(found))
    return ()


def read_points(text: str) -> tuple[Point, ...]:
    """The pairs of numbers in brackets that an answer names."""
    return tuple((x, y) for x, y in _numbers(_PAIR, text))


def parts(text: str) -> Iterator[str]:
    """Where to look for an answer, most telling part first; a block that is never closed reaches to the end."""
    lower = text.lower()
    start = lower.rfind("<answer>")
    if start >= 0 and len(lower) == len(text):
        end = lower.find("</answer>", start)
        yield text[start + len("<answer>") : end if end >= 0 else len(text)]
    end = lower.rfind("</think>")
    if end >= 0 and len(lower) == len(text):
        yield text[end + len("</think>") :]
    elif "<think>" not in lower:
        yield text
    yield text


def arranged(numbers: Corners, order: Order) -> Corners:
    """Four numbers in some order as ordered corners (x1 <= x2, y1 <= y2)."""
    a, b, c, d = numbers
    if order == "yxyx":
        a, b, c, d = b, a, d, c
    elif order == "xywh":
        c, d = a + c, b + d
    return min(a, c), min(b, d), max(a, c), max(b, d)


def box_in_image(box: Corners, frame: Frame, seen: Size, original: Size) -> Box | None:
    """A box in pixels of the original image, clipped to it; None where nothing of it lies inside.

    Args:
        box: Ordered corners in the answer's frame.
        frame: The frame.
        seen: Size (height, width) of the image as the model saw it.
        original: Size of the original image.
    """
    if not all(math.isfinite(n) for n in box):
        return None
    if frame == "thousandths":
        return to_image(box, seen, original, "thousandths")
    return to_image(box, (1, 1) if frame == "unit" else seen, original)


def point_in_image(point: Point, frame: Frame, seen: Size, original: Size) -> Point | None:
    """A point in pixels of the original image; None for one outside."""
    height, width = {"pixels": seen, "thousandths": (1000, 1000), "unit": (1, 1)}[frame]
    x, y = point[0] / width * original[1], point[1] / height * original[0]
    return (x, y) if 0 <= x <= original[1] and 0 <= y <= original[0] else None


def _numbers(pattern: re.Pattern[str], text: str) -> Iterator[tuple[float, ...]]:
    for match in pattern.finditer(text):
        numbers = tuple(float(n) for n in match.groups())
        if all(math.isfinite(n) for n in numbers):
            yield numbers
