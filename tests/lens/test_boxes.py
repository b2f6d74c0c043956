"""The box reader: a table of answers, and laws that hold for every string."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lens_bench.lens.boxes import from_image, parse_box, to_image

TABLE = [
    ('```json\n[{"bbox_2d": [10, 20, 30, 40], "label": "cat"}]\n```', (10, 20, 30, 40)),
    ('{"bbox_2d": [10.5, 20, 30.25, 40]}', (10.5, 20, 30.25, 40)),
    ("[1, 2, 3, 4]", (1, 2, 3, 4)),
    ("(1,2),(3,4)", (1, 2, 3, 4)),
    ("(1, 2) (3, 4)", (1, 2, 3, 4)),
    ("[1, 2], [3, 4]", (1, 2, 3, 4)),
    ("<|object_ref_start|>the cat.<|object_ref_end|><|box_start|>(12,34),(56,78)<|box_end|>", (12, 34, 56, 78)),
    ("<think>maybe [9, 9, 99, 99]</think><answer>[1, 2, 3, 4]</answer>", (1, 2, 3, 4)),
    ("<answer>[1, 2, 3, 4]</answer><think>no, [9, 9, 99, 99]</think>", (1, 2, 3, 4)),
    ("<think>maybe [9, 9, 99, 99]</think> it is [5, 6, 7, 8]", (5, 6, 7, 8)),
    ("<think>maybe [9, 9, 99, 99]</think> I do not know", (9, 9, 99, 99)),
    ("<think>[9, 9, 99, 99]</think><answer>none</answer>", (9, 9, 99, 99)),
    ("<answer>[1, 1, 2, 2]</answer> wait <answer>[3, 3, 4, 4]</answer>", (3, 3, 4, 4)),
    ("<think>long thought that is cut off [9, 9, 99, 99]", (9, 9, 99, 99)),
    ("<answer>[1, 2, 3, 4", None),
    ("<ANSWER>[1, 2, 3, 4]", (1, 2, 3, 4)),
    ("[30, 40, 10, 20]", (10, 20, 30, 40)),
    ("[1, 2, 3, 4, 5]", (1, 2, 3, 4)),
    ("[[1, 2, 3, 4], [5, 6, 7, 8]]", (1, 2, 3, 4)),
    ("[-5, +2, 1e1, 4]", (-5, 2, 10, 4)),
    ("[.5, 2., 3, 4]", (0.5, 2, 3, 4)),
    ("x1=1 y1=2 x2=3 y2=4", None),
    ("[1, 2, 3]", None),
    ("[nan, nan, nan, nan]", None),
    ("[1e999, 1, 2, 3]", None),
    ("[1e999, 1, 2, 3] or [1, 2, 3, 4]", (1, 2, 3, 4)),
    (f"[{'9' * 400}, 1, 2, 3]", None),
    ("(3, 4)", None),
    ("", None),
    ("\u0661\u0662", None),
    ("<think>", None),
    ("<answer>", None),
]


@pytest.mark.parametrize(("text", "box"), TABLE)
def test_table(text: str, box: tuple[float, float, float, float] | None) -> None:
    assert parse_box(text) == box


PIECES = st.lists(
    st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "[", "]", "(", ")", ",", " ", "1", "-2.5", "1e9"])
    | st.text(max_size=5),
    max_size=60,
).map("".join)


@given(PIECES)
@example("[" * 50 + "1," * 50)
def test_every_string_gives_a_box_or_none(text: str) -> None:
    box = parse_box(text)
    if box is not None:
        assert box[0] <= box[2] and box[1] <= box[3]
        inside = to_image(box, (28, 56), (480, 640))
        if inside is not None:
            assert 0 <= inside[0] < inside[2] <= 640 and 0 <= inside[1] < inside[3] <= 480


NUMBER = st.integers(0, 2000)


@given(st.tuples(NUMBER, NUMBER, NUMBER, NUMBER), PIECES.filter(lambda t: "<answer>" not in t.lower()))
def test_the_answer_wins_whatever_was_thought(box: tuple[int, int, int, int], thought: str) -> None:
    text = f"<think>{thought}</think><answer>{list(box)}</answer>"
    x1, y1, x2, y2 = box
    assert parse_box(text) == (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))


@pytest.mark.parametrize("coordinates", ["pixels", "thousandths"])
@given(
    st.tuples(st.floats(0, 600), st.floats(0, 400), st.floats(20, 600), st.floats(20, 400)),
)
def test_a_perfect_answer_comes_back(coordinates: str, raw: tuple[float, float, float, float]) -> None:
    box = (raw[0] / 2, raw[1] / 2, raw[0] / 2 + raw[2] / 2, raw[1] / 2 + raw[3] / 2)
    original, seen = (400, 600), (392, 588)
    assert coordinates in ("pixels", "thousandths")
    kind = "pixels" if coordinates == "pixels" else "thousandths"
    numbers = from_image(box, original, seen, kind)
    back = to_image((numbers[0], numbers[1], numbers[2], numbers[3]), seen, original, kind)
    assert back is not None
    assert all(abs(a - b) <= 0.52 for a, b in zip(back, box, strict=True))


def test_a_box_outside_the_image_is_none() -> None:
    assert to_image((700, 10, 900, 20), (480, 640), (480, 640)) is None
    assert to_image((10, 10, 10, 20), (480, 640), (480, 640)) is None
    assert to_image((-5, -5, 700, 20), (480, 640), (480, 640)) == (0, 0, 640, 20)


@pytest.mark.parametrize(
    "text", ["[" * 200_000, "[1," * 60_000, "<think>" * 30_000, "[1 ,  2 ,3" * 20_000, "1" * 300_000]
)
def test_long_garbage_costs_no_more_than_a_moment(text: str) -> None:
    start = time.process_time()
    parse_box(text)
    assert time.process_time() - start < 5  # a quadratic reader would take minutes
