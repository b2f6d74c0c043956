"""Reading boxes and points out of what a model says: the one reader of LENS, the trainer and the language models.

Every string has a result, in time linear in its length, and nothing raises. What is read:

- four numbers in one pair of brackets, also quoted, in percent, or with a score (0 to 1) as a fifth:
  ``[10, 20, 30, 40]``;
- two pairs of numbers in brackets, as Qwen2-VL writes corners: ``(10,20),(30,40)``, any number of such boxes;
- four bare numbers in a box tag or behind a key of that name: ``<box>10,20,30,40</box>``, ``bbox: 10 20 30 40``;
- four named numbers: ``{"x1": 10, "y1": 20, "x2": 30, "y2": 40}``, also ``xmin``, ``left``, ``width`` and the like;
- four tokens ``<loc_10>``, which count thousandths of the image, where numbers are thousandths.

Points and polygons are no boxes: other counts of numbers or pairs, and what stands in a tag or behind a key of that
name. Full-width digits, brackets and punctuation are read as their ASCII forms.

An answer is looked for in the last ``<answer>`` (closed or cut off), then outside the thought, then everywhere; the
first of these that holds a box counts. A thought is what stands between ``<think>`` and ``</think>``; without the
opening tag, which some chat templates write into the prompt, it is everything before the closing one. ``thinking``,
``thought`` and ``reasoning`` are such tags too, also between triangles, as Kimi-VL writes them.

Readings that reproduce an authors' own parser belong to the model (``baselines/seg_zero/reading.py``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from lens_bench.answer_forms import ASCII, SIDE_BY_SIDE, found_in
from lens_bench.records import Box, Size

Corners: TypeAlias = tuple[float, float, float, float]
Point: TypeAlias = tuple[float, float]
# Numbers are pixels of the image as the model saw it, thousandths, fractions or hundredths of its sides.
Frame: TypeAlias = Literal["pixels", "thousandths", "unit", "percent"]
Order: TypeAlias = Literal["xyxy", "yxyx", "xywh"]

UNREAD = "the answer holds numbers, but no box was read out of it"
"""``Prediction.error`` of such an answer, beside a status other than ``error``: see ``why_no_box``."""

FRAMES: tuple[Frame, ...] = ("pixels", "thousandths", "unit")  # those that a card can name
ORDERS: tuple[Order, ...] = ("xyxy", "yxyx", "xywh")


@dataclass(frozen=True, slots=True)
class SaidBox:
    """A box as an answer names it: ordered corners (x1 <= x2, y1 <= y2) and the frame that they are in."""

    corners: Corners
    frame: Frame


@dataclass(frozen=True, slots=True)
class Reading:
    """What an answer names, in the order of the text: boxes, each once, and the pairs of numbers that are no corners.

    Points are in the frame that was asked for.
    """

    boxes: tuple[SaidBox, ...] = ()
    points: tuple[Point, ...] = ()


def read_answer(text: str, frame: Frame = "pixels", order: Order = "xyxy") -> Reading:
    """Read the boxes and points that an answer names.

    Args:
        text: Anything.
        frame: What numbers without a unit are. Percent are percent in any frame.
        order: Of four numbers. Pairs are (x, y), or (y, x) with ``yxyx``; named numbers say themselves what they are.
    """
    reading = Reading()
    for part in _parts(text.translate(ASCII)):
        reading = _read(part, frame, order)
        if reading.boxes:
            break
    return reading


def first_box(text: str, frame: Frame = "pixels") -> SaidBox | None:
    """The first box that an answer names; None where it names none."""
    boxes = read_answer(text, frame).boxes
    return boxes[0] if boxes else None


def why_no_box(text: str) -> str | None:
    """``UNREAD`` for a text of which no box was made although it names numbers: reader and model do not fit."""
    return UNREAD if names_numbers(text) else None


def names_numbers(text: str) -> bool:
    """Whether an answer, its thought left out, holds two numbers side by side, or numbers named as coordinates."""
    return any(SIDE_BY_SIDE.search(part) for part in list(_parts(text.translate(ASCII)))[:-1])


# ---------------------------------------------------------------------------------------------- where to look

_TAG = re.compile(r"<(/?)(?:(think|thinking|thought|reasoning)|answer)>", re.IGNORECASE | re.ASCII)


def _parts(text: str) -> Iterator[str]:
    """The last answer, where there is one; the text outside the thought; the whole text.

    Tags are found in the text itself: lower case can have another length, which would shift every position.
    """
    tags = [("think" if m[2] else "answer", bool(m[1]), m.start(), m.end()) for m in _TAG.finditer(text)]
    opened = [end for name, closes, _, end in tags if name == "answer" and not closes]
    if opened:
        closed = (start for name, closes, start, _ in tags if name == "answer" and closes and start >= opened[-1])
        yield text[opened[-1] : next(closed, len(text))]
    kept: list[str] = []
    at, thinking = 0, False
    for name, closes, start, end in tags:
        if name != "think":
            continue
        if closes:
            if not thinking:
                kept = []  # the opening tag is not part of the text
            at, thinking = end, False
        elif not thinking:
            kept.append(text[at:start])
            thinking = True
    yield "".join(kept if thinking else [*kept, text[at:]])
    yield text


def _read(text: str, frame: Frame, order: Order) -> Reading:
    boxes, points = found_in(text, locations=frame == "thousandths")
    said = []
    for box in boxes:
        if box.form == "corners":
            corners = arranged(box.numbers, "xyxy" if order == "xywh" else order)
        else:
            corners = arranged(box.numbers, order if box.form == "list" else box.form)
        if all(map(math.isfinite, corners)):
            said.append(SaidBox(corners, "percent" if box.percent else frame))
    return Reading(tuple(dict.fromkeys(said)), points)


def arranged(numbers: Corners, order: Order) -> Corners:
    """Four numbers in some order as ordered corners (x1 <= x2, y1 <= y2)."""
    a, b, c, d = numbers
    if order == "yxyx":
        a, b, c, d = b, a, d, c
    elif order == "xywh":
        c, d = a + c, b + d
    return min(a, c), min(b, d), max(a, c), max(b, d)


# ---------------------------------------------------------------------------------------------- frames


def box_in_image(box: SaidBox, seen: Size, original: Size) -> Box | None:
    """A box in pixels of the original image, clipped to it; None where nothing of it lies inside.

    Args:
        box: As an answer names it.
        seen: Size (height, width) of the image as the model saw it.
        original: Size of the original image.
    """
    height, width = original
    frame_height, frame_width = _sides(box.frame, seen)
    x1, x2 = (min(max(x * (width / frame_width), 0.0), float(width)) for x in box.corners[0::2])
    y1, y2 = (min(max(y * (height / frame_height), 0.0), float(height)) for y in box.corners[1::2])
    return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None


def point_in_image(point: Point, frame: Frame, seen: Size, original: Size) -> Point | None:
    """A point in pixels of the original image; None for one outside."""
    height, width = _sides(frame, seen)
    x, y = point[0] / width * original[1], point[1] / height * original[0]
    return (x, y) if 0 <= x <= original[1] and 0 <= y <= original[0] else None


def whole_numbers(box: Box, original: Size, seen: Size, frame: Frame) -> tuple[int, int, int, int]:
    """The four whole numbers a perfect answer would name for a box of the original image (training targets)."""
    height, width = original
    frame_height, frame_width = _sides(frame, seen)
    return (
        round(box[0] / width * frame_width),
        round(box[1] / height * frame_height),
        round(box[2] / width * frame_width),
        round(box[3] / height * frame_height),
    )


def _sides(frame: Frame, seen: Size) -> Size:
    """Height and width of the image in a frame."""
    sizes: dict[Frame, Size] = {"pixels": seen, "thousandths": (1000, 1000), "unit": (1, 1), "percent": (100, 100)}
    return sizes[frame]
