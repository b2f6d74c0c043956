"""Reading a box out of an answer, whatever the answer is.

Models write boxes as JSON (``{"bbox_2d": [x1, y1, x2, y2]}``), as bare lists, or as Qwen2-VL's pairs
(``<|box_start|>(x1,y1),(x2,y2)<|box_end|>``). The reader is total: every string gives a box or None, in time linear in
its length. Where it looks, in this order: the last ``<answer>`` (closed or cut off), the text without ``<think>``
blocks, the whole text. The authors' reader takes the first four numbers in brackets anywhere, so that a box in the
reasoning wins over the answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Literal

from lens_bench.records import Box, Size

Corners = tuple[float, float, float, float]

_NUMBER = r"[-+]?(?:\d{1,12}(?:\.\d{0,12})?|\.\d{1,12})(?:[eE][-+]?\d{1,3})?"
_GAP = r"\s{0,16},\s{0,16}"
_OPEN, _CLOSE = r"[\[(]\s{0,16}", r"\s{0,16}[\])]"
_PAIR = rf"{_OPEN}({_NUMBER}){_GAP}({_NUMBER}){_CLOSE}"
_BOX = re.compile(
    rf"{_OPEN}({_NUMBER}){_GAP}({_NUMBER}){_GAP}({_NUMBER}){_GAP}({_NUMBER})(?=\s{{0,16}}[\]),])"
    rf"|{_PAIR}\s{{0,16}},?\s{{0,16}}{_PAIR}"
)


def parse_box(text: str) -> Corners | None:
    """The box an answer names, in the answer's own frame; None where it names none.

    Corners come ordered (x1 <= x2, y1 <= y2), whichever way they were written.
    """
    for part in _parts(text):
        for match in _BOX.finditer(part):
            numbers = [float(n) for n in match.groups() if n is not None]
            if all(math.isfinite(n) for n in numbers):
                x1, y1, x2, y2 = numbers
                return (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
    return None


def _parts(text: str) -> Iterator[str]:
    """Where to look, most telling part first."""
    lower = text.lower()
    start = lower.rfind("<answer>")
    if start >= 0:
        end = lower.find("</answer>", start)
        yield text[start + len("<answer>") : end if end >= 0 else len(text)]
    yield _without_thinking(text, lower)
    yield text


def _without_thinking(text: str, lower: str) -> str:
    """The text outside ``<think>`` blocks; a block that is never closed reaches to the end."""
    kept, at = [], 0
    while (start := lower.find("<think>", at)) >= 0:
        kept.append(text[at:start])
        end = lower.find("</think>", start)
        if end < 0:
            return "".join(kept)
        at = end + len("</think>")
    return "".join([*kept, text[at:]])


def to_image(
    corners: Corners, seen: Size, original: Size, coordinates: Literal["pixels", "thousandths"] = "pixels"
) -> Box | None:
    """Map a box from the answer's frame to the original image and clip it.

    Args:
        corners: As ``parse_box`` gives them.
        seen: Size (height, width) of the image as the model saw it.
        original: Size of the original image.
        coordinates: Whether numbers are pixels of the seen image or thousandths of its sides.

    Returns:
        The box in pixels of the original image, or None where nothing of it lies inside.
    """
    height, width = original
    frame_height, frame_width = seen if coordinates == "pixels" else (1000, 1000)
    x1, x2 = (min(max(x * (width / frame_width), 0.0), float(width)) for x in corners[0::2])
    y1, y2 = (min(max(y * (height / frame_height), 0.0), float(height)) for y in corners[1::2])
    return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None


def from_image(
    box: Box, original: Size, seen: Size, coordinates: Literal["pixels", "thousandths"] = "pixels"
) -> tuple[int, int, int, int]:
    """The four whole numbers a perfect answer would name for a box of the original image (training targets)."""
    height, width = original
    frame_height, frame_width = seen if coordinates == "pixels" else (1000, 1000)
    return (
        round(box[0] / width * frame_width),
        round(box[1] / height * frame_height),
        round(box[2] / width * frame_width),
        round(box[3] / height * frame_height),
    )
