"""The reader of boxes and points: a table of answers, and laws that hold for every string."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lens_bench.answers import (
    FRAMES,
    ORDERS,
    UNREAD,
    Frame,
    Order,
    SaidBox,
    arranged,
    box_in_image,
    first_box,
    names_numbers,
    point_in_image,
    read_answer,
    whole_numbers,
    why_no_box,
)

A, B, C = (10, 20, 30, 40), (50, 60, 70, 80), (1, 2, 3, 4)
THOUGHT = [
    ('maybe [1,2,3,4]</think>{"bbox_2d":[10,20,30,40]}', A),  # the opening tag is in the prompt
    ("maybe [1, 2, 3, 4]</THINK> [10, 20, 30, 40]", A),
    ("no <think>[1,2,3,4]</think> but</think> [10,20,30,40]", A),
    ("<think><think>[1,2,3,4]</think>[9,9,9,9]</think> [10,20,30,40]", A),
    ("<think>maybe [9, 9, 99, 99]</think><answer>[1, 2, 3, 4]</answer>", C),
    ("<answer>[1, 2, 3, 4]</answer><think>no, [9, 9, 99, 99]</think>", C),
    ("<think>maybe [9, 9, 99, 99]</think> it is [1, 2, 3, 4]", C),
    ("[1, 2, 3, 4] <think>or [9, 9, 99, 99]</think>", C),
    ("<think>maybe [9, 9, 99, 99]</think> I do not know", (9, 9, 99, 99)),
    ("<think>[9, 9, 99, 99]</think><answer>none</answer>", (9, 9, 99, 99)),
    ("<answer>[9, 9, 99, 99]</answer> wait <answer>[1, 2, 3, 4]</answer>", C),
    ("<think>long thought that is cut off [9, 9, 99, 99]", (9, 9, 99, 99)),
    ("<ANSWER>[1, 2, 3, 4]", C),
    # Letters whose lower case is longer or shorter shift every position behind them.
    ("İ" * 9 + "<think>[9,9,99,99]</think><answer>[10,20,30,40]</answer>", A),
    ("İ" * 30 + "[9,9,99,99]</think>[10,20,30,40]" + "İ" * 30, A),
    ("<thinking>[1,2,3,4]</thinking>[10,20,30,40]", A),
    ("[1,2,3,4]</thought> [10,20,30,40]", A),
    ("\u25c1think\u25b7[1,2,3,4]\u25c1/think\u25b7[10,20,30,40]", A),
    ("<thin\u212a>[10,20,30,40]</think>", A),  # no tag: the Kelvin sign is not a k, so nothing is left behind it
]
FORMS = [
    ('```json\n[{"bbox_2d": [10, 20, 30, 40], "label": "cat"}]\n```', A),
    ('{"bbox_2d": [10.5, 20, 30.25, 40]}', (10.5, 20, 30.25, 40)),
    ("{'bbox': [10,20,30,40], 'points_1': [30,110], 'points_2': [35,180]}", A),
    ("(10, 20, 30, 40)", A),
    ("[10 20 30 40]", A),
    ("[ 10, 20, 30, 40, ]", A),
    ('["10", "20", "30", "40"]', A),
    ("['10','20','30','40']", A),
    ("［10，20，30，40］", A),
    ("（１０，２０），（３０，４０）", A),
    ("【10、20、30、40】", A),
    ("<box>10,20,30,40</box>", A),
    ("<box> 10 20 30 40 </box>", A),
    ("<box>(10,20),(30,40)</box>", A),
    ("<box>[[10, 20, 30, 40]]</box>", A),
    ("<|box_start|>10,20,30,40<|box_end|>", A),
    ('{"bbox": "10, 20, 30, 40"}', A),
    ("Bounding box: 10, 20, 30, 40.", A),
    ('{"x1": 10, "y1": 20, "x2": 30, "y2": 40}', A),
    ('{"y1":"20","x1":"10","y2":"40","x2":"30"}', A),
    ("x1=10 y1=20 x2=30 y2=40", A),
    ('{"xmin": 10, "ymin": 20, "xmax": 30, "ymax": 40}', A),
    ("x_min: 10, y_min: 20, x_max: 30, y_max: 40", A),
    ('{"left": 10, "top": 20, "right": 30, "bottom": 40}', A),
    ('{"x": 10, "y": 20, "width": 20, "height": 20}', A),
    ('{"left": 10, "top": 20, "width": 20, "height": 20}', A),
    ("(1,2),(3,4)", C),
    ("(1, 2) (3, 4)", C),
    ("[1, 2], [3, 4]", C),
    ("[[1, 2], [3, 4]]", C),
    ("<|object_ref_start|>the cat.<|object_ref_end|><|box_start|>(12,34),(56,78)<|box_end|>", (12, 34, 56, 78)),
    ("[30, 40, 10, 20]", A),
    ("[1, 2, 3, 4, 0.9]", C),  # and a score
    ('[1, 2, 3, 4, "cat"]', C),
    ("[[1, 2, 3, 4], [5, 6, 7, 8]]", C),
    ("[-5, +2, 1e1, 4]", (-5, 2, 10, 4)),
    ("[.5, 2., 3, 4]", (0.5, 2, 3, 4)),
    ("[0.1234567890123456, 0.2, 0.3, 0.4]", (0.1234567890123456, 0.2, 0.3, 0.4)),
    ("[1e999, 1, 2, 3] or [1, 2, 3, 4]", C),
]
NO_BOX = [
    "<answer>[1, 2, 3, 4",
    "[1, 2, 3, 4",
    "[1, 2, 3, 4,",  # cut off: a polygon as well as a box
    "[1, 2, 3]",
    "[nan, nan, nan, nan]",
    "[1e999, 1, 2, 3]",
    f"[{'9' * 400}, 1, 2, 3]",
    "(3, 4)",
    "",
    "\u0661\u0662",
    "<think>",
    "<answer>",
    "there is nothing in 4 of 5 cases",
    "[10, 20, 30, 40, 50, 60]",
    "[10, 20, 30, 40, 50, 60, 70, 80]",
    "[[10, 20], [30, 20], [30, 40]]",
    "[10, 20], [30, 20], [30, 40], [10, 40]",
    "(10,20),(30,20),(30,40),(10,40)",
    "(10,20),(30,21),(29,40),(10,40),(5,30),(4,25)",
    '{"points": [[10, 20], [30, 40]]}',
    '{"points": [10, 20, 30, 40]}',
    '{"polygon": [[10, 20, 30, 40], [50, 60, 70, 80]]}',
    '{"point_2d": [10, 20]}',
    "<point>10, 20</point>",
    "<polygon>[10, 20, 30, 40]</polygon>",
    "<|quad_start|>(10,20),(30,40)<|quad_end|>",
    '<points x1="10" y1="20" x2="30" y2="40" alt="it">it</points>',
    '{"x1": 1, "y1": 2, "x2": 3, "y2": 4, "x3": 5, "y3": 6, "x4": 7, "y4": 8}',
    '{"x": 1, "y": 2}',
    "<box>10,20,30,40,50</box>",
    "[10%, 20, 30, 40]",
    "[0.93, 10, 20, 30, 40]",  # a score, but in front
    "[10, 20, 30, 40, 50]",
    "<loc_10><loc_20><loc_30><loc_40>",  # tokens of thousandths, where numbers are pixels
]


@pytest.mark.parametrize(("text", "box"), [*THOUGHT, *FORMS])
def test_what_is_read(text: str, box: tuple[float, float, float, float]) -> None:
    assert first_box(text) == SaidBox(box, "pixels")
    assert (text, box) in THOUGHT or names_numbers(text)


@pytest.mark.parametrize("text", NO_BOX)
def test_what_is_no_box(text: str) -> None:
    assert read_answer(text).boxes == ()


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("<|box_start|>(10,20),(30,40)<|box_end|><|box_start|>(50,60),(70,80)<|box_end|>", (A, B)),
        ("(10,20),(30,40) (50,60),(70,80)", (A, B)),
        ("(10,20),(30,40)\n(50,60),(70,80)", (A, B)),
        ("a cat (10,20),(30,40) and a dog (50,60),(70,80)", (A, B)),
        ("(10,20),(30,40),(50,60),(70,80)", (A, B)),
        ("[[10, 20, 30, 40], [50, 60, 70, 80]]", (A, B)),
        ("<box>10,20,30,40</box><box>50,60,70,80</box>", (A, B)),
        ('[{"x1":10,"y1":20,"x2":30,"y2":40},{"x1":50,"y1":60,"x2":70,"y2":80}]', (A, B)),
        ("[10, 20, 30, 40] or (50,60),(70,80), no, [10, 20, 30, 40]", (A, B)),  # in the order of the text, each once
    ],
)
def test_several_boxes(text: str, boxes: tuple[tuple[float, ...], ...]) -> None:
    assert tuple(b.corners for b in read_answer(text).boxes) == boxes


def test_the_frame_says_how_tokens_are_read_and_percent_say_it_themselves() -> None:
    tokens = "cat<loc_10><loc_20><loc_30><loc_40>dog<loc_50><loc_60><loc_70><loc_80>"
    assert [b.corners for b in read_answer(tokens, "thousandths").boxes] == [A, B]
    assert read_answer("<loc_1><loc_2><loc_3><loc_4><loc_5><loc_6>", "thousandths").boxes == ()
    assert read_answer(tokens, "unit").boxes == read_answer(tokens, "pixels").boxes == ()
    for frame in FRAMES:
        for text in ("[10%, 20%, 30%, 40%]", "(10%,20%),(30%,40%)", "x1: 10%, y1: 20%, x2: 30%, y2: 40%"):
            said = first_box(text, frame)
            assert said == SaidBox(A, "percent")
            assert box_in_image(said, (7, 7), (100, 200)) == pytest.approx((20, 20, 60, 40))


def test_the_order_is_the_cards_where_the_text_does_not_say_it() -> None:
    def read(text: str, order: Order) -> tuple[float, ...]:
        (box,) = read_answer(text, "pixels", order).boxes
        return box.corners

    assert read("[20, 10, 40, 30]", "yxyx") == read("[10, 20, 20, 20]", "xywh") == A
    assert read("(20,10),(40,30)", "yxyx") == read("(10,20),(30,40)", "xywh") == A
    for order in ORDERS:
        assert read('{"x1":10,"y1":20,"x2":30,"y2":40}', order) == A
        assert read('{"x":10,"y":20,"w":20,"h":20}', order) == A


def test_points_are_the_pairs_that_are_no_corners() -> None:
    both = read_answer('{"bbox_2d": [10, 20, 30, 40], "point_2d": [15, 25]}')
    assert both.points == ((15, 25),)
    assert read_answer("(10,20),(30,40) at (15,25)").points == ((15, 25),)
    assert read_answer("(10,20),(30,40)").points == ()
    assert read_answer('{"points": [[1, 2], [3, 4]]}').points == ((1, 2), (3, 4))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("(3, 4)", True),
        ("at 10 20 30 40", True),
        ('{"x": 1, "y": 2}', True),
        ("<loc0123><loc0456><loc0789><loc0999>", True),
        ("<bin_12><bin_34><bin_56><bin_78>", True),
        ("[10px, 20px, 30px, 40px]", True),
        ("[10, 20, 30, 40, 50, 60]", True),
        ("there is nothing in 4 of 5 cases", False),
        ("<think>[1, 2, 3, 4]</think> nothing", False),
        ("[1, 2, 3, 4]</think> nothing", False),
        ("Sure, it is [SEG].", False),
        ("[]", False),
        ("", False),
    ],
)
def test_whether_an_answer_names_numbers(text: str, numbers: bool) -> None:
    assert names_numbers(text) is numbers


def test_an_answer_that_is_not_understood_says_so() -> None:
    assert why_no_box("It is at (21, 21).") == UNREAD
    assert why_no_box("I cannot see it.") is None


# ---------------------------------------------------------------------------------------------- laws

PIECES = st.sampled_from(
    [
        *list("[](){}<>/,.-+eE0123456789 \"':_bxnk%;="), "<think>", "</think>", "<answer>", "</answer>", "bbox_2d", "ſ",
        "İ", "，", "［", "１", "<box>", "</box>", "<loc_10>", "x1", "y1", "x2", "y2", "points", "polygon", "(1,2),",
    ]
)  # fmt: skip
NOISE = st.lists(PIECES, max_size=60).map("".join) | st.text(max_size=60)


@given(NOISE, st.sampled_from(FRAMES), st.sampled_from(ORDERS))
@example("[" * 50 + "1," * 50, "pixels", "xyxy")
@example("[999999999999e300, 1, 999999999999e300, 2]", "pixels", "xywh")
def test_every_text_has_a_result_and_always_the_same(text: str, frame: Frame, order: Order) -> None:
    reading = read_answer(text, frame, order)
    assert reading == read_answer(text, frame, order)
    for said in reading.boxes:
        x1, y1, x2, y2 = said.corners
        assert x1 <= x2 and y1 <= y2 and all(map(math.isfinite, said.corners))
        inside = box_in_image(said, (28, 56), (480, 640))
        assert inside is None or (0 <= inside[0] < inside[2] <= 640 and 0 <= inside[1] < inside[3] <= 480)
    assert all(math.isfinite(v) for point in reading.points for v in point)
    assert first_box(text, frame) == next(iter(read_answer(text, frame).boxes), None)
    names_numbers(text)


LONG = [
    "[", "[1,", "1", "<think>", "(1,1),", "[1 ,  2 ,3", "<answer>", "</think>", "x1=", "x1=1 ", "<loc_1>", "<box>",
    "box: 1 ", "points: [", "[1,2,3,4],", '"', "1 ", " ", "<", "[1," + " " * 40, "(1,2) ", "İ", "e", "%", "[1%,", "{",
]  # fmt: skip


@pytest.mark.parametrize("piece", LONG)
def test_the_cost_grows_with_the_length_alone(piece: str) -> None:
    """A reader that is quadratic in 100,000 characters would not come back within the time of a test run."""
    for text in (piece * (100_000 // len(piece)), "[" + piece * (100_000 // len(piece)) + "x"):
        read_answer(text, "thousandths")
        names_numbers(text)


def test_the_work_is_linear_in_steps() -> None:
    """Boxes of a long text are all read, in order, and none twice."""
    text = " ".join(f"[{n}, 0, {n + 1}, 1]" for n in range(5_000))
    assert [b.corners[0] for b in read_answer(text).boxes] == list(range(5_000))


WHOLE = st.integers(0, 999)


@given(st.lists(st.tuples(WHOLE, WHOLE, WHOLE, WHOLE), min_size=1, max_size=4), st.sampled_from(ORDERS), NOISE)
def test_what_was_written_is_read(numbers: list[tuple[int, int, int, int]], order: Order, thought: str) -> None:
    wanted = tuple(dict.fromkeys(arranged(tuple(map(float, n)), order) for n in numbers))  # type: ignore[arg-type]
    items = [{"bbox_2d": list(n), "label": "it"} for n in numbers]
    thought = thought.replace("<answer>", "")
    for text in (json.dumps(items), f"<think>{thought}</think><answer>{json.dumps(items)}</answer>", str(items)):
        assert tuple(b.corners for b in read_answer(text, "pixels", order).boxes) == wanted


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
        "percent": (100, 100),
        "thousandths": (1000, 1000),
        "pixels": (seen[1], seen[0]),
    }
    for frame, (w, h) in units.items():
        box = box_in_image(SaidBox((x1 * w, y1 * h, x2 * w, y2 * h), frame), seen, original)
        assert box == pytest.approx((x1 * original[1], y1 * original[0], x2 * original[1], y2 * original[0]))
        point = point_in_image((x1 * w, y2 * h), frame, seen, original)
        assert point == pytest.approx((x1 * original[1], y2 * original[0]))


@pytest.mark.parametrize("frame", ["pixels", "thousandths"])
@given(st.tuples(st.floats(0, 600), st.floats(0, 400), st.floats(20, 600), st.floats(20, 400)))
def test_a_perfect_answer_comes_back(frame: Frame, raw: tuple[float, float, float, float]) -> None:
    box = (raw[0] / 2, raw[1] / 2, raw[0] / 2 + raw[2] / 2, raw[1] / 2 + raw[3] / 2)
    original, seen = (400, 600), (392, 588)
    x1, y1, x2, y2 = whole_numbers(box, original, seen, frame)
    back = box_in_image(SaidBox((x1, y1, x2, y2), frame), seen, original)
    assert back is not None
    assert all(abs(a - b) <= 0.52 for a, b in zip(back, box, strict=True))


def test_what_lies_outside_is_nothing() -> None:
    size = (480, 640)
    assert box_in_image(SaidBox((700, 10, 900, 20), "pixels"), size, size) is None
    assert box_in_image(SaidBox((10, 10, 10, 20), "pixels"), size, size) is None
    assert box_in_image(SaidBox((-5, -5, 700, 20), "pixels"), size, size) == (0, 0, 640, 20)
    assert box_in_image(SaidBox((-5, -5, 25, 25), "pixels"), (50, 50), (100, 200)) == (0, 0, 100, 50)
    assert point_in_image((51, 1), "pixels", (50, 50), (100, 100)) is None
