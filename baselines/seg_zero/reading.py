"""Reading the answers of Seg-Zero and VisionReasoner: as their own evaluations do, or from any text that names a box.

The authors' rules are reproduced with their quirks: what raises in their code, and is scored as an IoU of 0 there,
gives no prompt here. Nothing raises, whatever the text. How numbers are rounded on their way from the model's square
into the image belongs to a rule too.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from lens_bench.answers import Point, Reading, SaidBox, box_in_image, point_in_image, read_answer
from lens_bench.records import Size
from lens_bench.sam2.prompts import SamPrompt

Reader: TypeAlias = Callable[[str, Size, Size], tuple[SamPrompt, ...]]
Rounding: TypeAlias = Callable[[object, float], float]

_THOUGHT = re.compile(r"<think>([^<]+)</think>")
# Beyond any image, and still exact in the arithmetic behind.
_LARGEST = 1e7


class _UnreadableError(Exception):
    """The authors' code would raise here."""


@dataclass(frozen=True, slots=True)
class _Scale:
    """Factors from the model's square to the original image."""

    x: float
    y: float

    @staticmethod
    def between(seen: Size, original: Size) -> _Scale:
        return _Scale(original[1] / seen[1], original[0] / seen[0])


def seg_zero(text: str, seen: Size, original: Size) -> tuple[SamPrompt, ...]:
    """Seg-Zero's evaluation: the first ``{...}`` of the text as JSON, its first key with ``bbox``, two with ``points``.

    Needs a non-empty thought without ``<``. Numbers become whole before they are scaled and are rounded again after.
    The box is not checked: it may be inverted or leave the image.
    """
    scale = _Scale.between(seen, original)
    try:
        fields = _json(_first_object(text))
        if not isinstance(fields, dict) or not _THOUGHT.search(text):
            return ()
        box = _numbers(next((v for k, v in fields.items() if "bbox" in k.lower()), None), 4, exactly=True)
        pairs = [_numbers(v, 2) for v in [v for k, v in fields.items() if "points" in k.lower()][:2]]
        if len(pairs) < 2:
            return ()
        x1, y1, x2, y2 = _scaled(box, scale, _whole_first)
        points = [_scaled(pair, scale, _whole_first) for pair in pairs]
    except _UnreadableError:
        return ()
    return (SamPrompt((x1, y1, x2, y2), tuple((x, y) for x, y in points)),)


def vision_reasoner(text: str, seen: Size, original: Size) -> tuple[SamPrompt, ...]:
    """VisionReasoner's evaluation: the first ``<answer>`` as a JSON list of ``bbox_2d`` and ``point_2d``.

    No thought is needed: both authors' scripts take a missing one for an empty text. One unreadable object makes the
    whole answer unreadable. Numbers are scaled, then rounded half up. An empty list is an answer too: nothing is meant.
    """
    scale = _Scale.between(seen, original)
    try:
        items = _json(_first_answer(text))
        if not isinstance(items, list):
            return ()
        prompts = []
        for item in items:
            if not isinstance(item, dict):
                return ()
            x1, y1, x2, y2 = _scaled(_numbers(item.get("bbox_2d"), 4), scale, _half_up)
            x, y = _scaled(_numbers(item.get("point_2d"), 2), scale, _half_up)
            prompts.append(SamPrompt((x1, y1, x2, y2), ((x, y),)))
    except _UnreadableError:
        return ()
    return tuple(prompts)


def anything(text: str, seen: Size, original: Size) -> tuple[SamPrompt, ...]:
    """Whatever names a box: no thought needed, single quotes allowed, prose around it too; clipped to the image."""
    prompts = []
    for said, points in _with_points(read_answer(text)):
        box = box_in_image(said, seen, original)
        if box is None:
            continue
        inside = (point_in_image(point, "pixels", seen, original) for point in points)
        prompts.append(SamPrompt(box, tuple(point for point in inside if point is not None)))
    return tuple(prompts)


def _with_points(reading: Reading) -> tuple[tuple[SaidBox, tuple[Point, ...]], ...]:
    """Boxes with their points.

    With one box all points are its own; with several, each has one if there are as many points as boxes, else none.
    """
    boxes, points = reading.boxes, reading.points
    if len(boxes) == 1:
        return ((boxes[0], points),)
    if len(points) != len(boxes):
        return tuple((box, ()) for box in boxes)
    return tuple((box, (point,)) for box, point in zip(boxes, points, strict=True))


# ---------------------------------------------------------------------------------------------- their arithmetic


def _first_object(text: str) -> str:
    """The first match of ``{[^}]+}``, in linear time."""
    start = text.find("{")
    while start >= 0:
        end = text.find("}", start)
        if end < 0:
            break
        if end > start + 1:
            return text[start : end + 1]
        start = text.find("{", end)
    return ""


def _first_answer(text: str) -> str:
    r"""The first match of ``<answer>\s*(.*?)\s*</answer>``, in linear time."""
    _, opened, rest = text.partition("<answer>")
    inside, closed, _ = rest.partition("</answer>")
    return inside.strip() if opened and closed else ""


def _json(text: str) -> object:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        raise _UnreadableError from None
    return value


def _numbers(value: object, count: int, *, exactly: bool = False) -> list[object]:
    """The first entries of a list; their code indexes a text just as well."""
    if not isinstance(value, list | str) or len(value) < count or (exactly and len(value) != count):
        raise _UnreadableError
    return list(value[:count])


def _scaled(values: list[object], scale: _Scale, rounding: Rounding) -> list[float]:
    out = [rounding(value, scale.y if place % 2 else scale.x) for place, value in enumerate(values)]
    if not all(abs(value) <= _LARGEST for value in out):
        raise _UnreadableError
    return out


def _whole_first(value: object, factor: float) -> float:
    """Seg-Zero: Python's ``round(int(value) * factor)``, which truncates, and reads texts of digits."""
    if not isinstance(value, int | float | str):
        raise _UnreadableError
    try:
        return float(round(int(value) * factor))
    except (ValueError, OverflowError):
        raise _UnreadableError from None


def _half_up(value: object, factor: float) -> float:
    """VisionReasoner: Python's ``int(value * factor + 0.5)``."""
    if not isinstance(value, int | float):
        raise _UnreadableError
    try:
        return float(math.trunc(value * factor + 0.5))
    except (ValueError, OverflowError):
        raise _UnreadableError from None
