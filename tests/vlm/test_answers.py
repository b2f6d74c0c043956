"""Boxes and points out of any text."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_bench.lens.boxes import parse_box
from lens_bench.vlm.answers import (
    FRAMES,
    ORDERS,
    Frame,
    Order,
    arranged,
    box_in_image,
    point_in_image,
    read_boxes,
    read_points,
)

ALPHABET = st.sampled_from([*list("[](){}<>/,.-+eE0123456789 \"':_bxnk"), "<answer>", "</think>", "bbox_2d", "ſ", "İ"])
NOISE = st.lists(ALPHABET, max_size=60).map("".join) | st.text(max_size=60)


@given(NOISE, st.sampled_from(ORDERS))
def test_every_text_has_a_result(text: str, order: Order) -> None:
    for x1, y1, x2, y2 in read_boxes(text, order):
        assert x1 <= x2 and y1 <= y2 and all(map(math.isfinite, (x1, y1, x2, y2)))
    assert all(math.isfinite(v) for point in read_points(text) for v in point)


@given(NOISE)
def test_the_first_box_is_the_one_that_lens_reads(text: str) -> None:
    if "İ" not in text:  # lower-casing changes its length, and with it what the other reader takes for the answer
        assert (read_boxes(text) or (None,))[0] == parse_box(text)


@pytest.mark.parametrize("text", ["[" * 200_000, "[1," * 60_000, "1" * 200_000, "<think>" * 40_000, "(1,1)," * 30_000])
def test_long_nonsense_ends(text: str) -> None:
    assert len(read_boxes(text)) <= 1


WHOLE = st.integers(0, 999)


@given(st.lists(st.tuples(WHOLE, WHOLE, WHOLE, WHOLE), min_size=1, max_size=4), st.sampled_from(ORDERS))
def test_what_was_written_is_read(numbers: list[tuple[int, int, int, int]], order: Order) -> None:
    wanted = tuple(dict.fromkeys(arranged(tuple(map(float, n)), order) for n in numbers))  # type: ignore[arg-type]
    items = [{"bbox_2d": list(n), "label": "it"} for n in numbers]
    for text in (json.dumps(items), f"<think>[1, 2, 3, 4]</think><answer>{json.dumps(items)}</answer>", str(items)):
        assert read_boxes(text, order) == wanted


def test_where_a_box_is_looked_for() -> None:
    assert read_boxes("<think>[1, 2, 3, 4]</think> so [5, 6, 7, 8]") == ((5, 6, 7, 8),)
    assert read_boxes("<think>[1, 2, 3, 4]") == ((1, 2, 3, 4),)
    assert read_boxes("<answer>none</answer> but [5, 6, 7, 8]") == ((5, 6, 7, 8),)
    assert read_boxes("<|box_start|>(10,20),(30,40)<|box_end|>") == ((10, 20, 30, 40),)
    assert read_boxes("(10,20),(30,40)", "yxyx") == ((20, 10, 40, 30),)
    assert read_boxes("there is nothing in 4 of 5 cases") == ()


@given(
    st.tuples(*[st.floats(0.05, 0.95)] * 4),
    st.tuples(st.integers(8, 900), st.integers(8, 900)),
    st.tuples(st.integers(8, 900), st.integers(8, 900)),
)
def test_frames_name_the_same_place(
    shares: tuple[float, float, float, float], seen: tuple[int, int], original: tuple[int, int]
) -> None:
    x1, y1, x2, y2 = arranged(shares, "xyxy")
    if x2 - x1 < 0.01 or y2 - y1 < 0.01:
        return
    units: dict[Frame, tuple[float, float]] = {
        "unit": (1, 1),
        "thousandths": (1000, 1000),
        "pixels": (seen[1], seen[0]),
    }
    for frame in FRAMES:
        w, h = units[frame]
        box = box_in_image((x1 * w, y1 * h, x2 * w, y2 * h), frame, seen, original)
        assert box == pytest.approx((x1 * original[1], y1 * original[0], x2 * original[1], y2 * original[0]))
        point = point_in_image((x1 * w, y2 * h), frame, seen, original)
        assert point == pytest.approx((x1 * original[1], y2 * original[0]))


def test_what_lies_outside_is_nothing() -> None:
    assert box_in_image((60, 10, 90, 20), "pixels", (50, 50), (100, 100)) is None
    assert box_in_image((math.inf, 0, math.inf, 1), "unit", (50, 50), (100, 100)) is None
    assert box_in_image((-5, -5, 25, 25), "pixels", (50, 50), (100, 200)) == (0, 0, 100, 50)
    assert point_in_image((51, 1), "pixels", (50, 50), (100, 100)) is None
