"""Seg-Zero and VisionReasoner: their reading rules, and the whole way through the run loop."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lens_bench.answers import UNREAD
from lens_bench.registry import find_model, import_file, resolve_args
from lens_bench.sam2.prompts import SamPrompt
from lens_bench.vlm.tiny import save_tiny_vlm

from ...vlm.servers import FakeServer, pictures_of, serve, text_of
from .vlm_runs import IMAGES, run

ROOT = Path(__file__).resolve().parents[3]
SEEN, ORIGINAL = (840, 840), (480, 640)
THOUGHT = "<think>It must be this one.</think>"
ONE = THOUGHT + '<answer>{"bbox": [84, 168, 420, 504], "points_1": [210, 210], "points_2": [300, 301]}</answer>'
MANY = (
    THOUGHT
    + '<answer> [{"bbox_2d": [84, 168, 420, 504], "point_2d": [210, 210]}, '
    + '{"bbox_2d": [0, 0, 42, 42], "point_2d": [21, 21]}] </answer>'
)


@pytest.fixture(scope="module")
def reading() -> ModuleType:
    return import_file(ROOT / "baselines" / "seg_zero" / "reading.py")


# ---------------------------------------------------------------------------------------------- a second implementation


def slow_seg_zero(text: str, fx: float, fy: float) -> tuple[list[int], list[list[int]]]:
    """The rule in the plainest words; raises where an answer cannot be read."""
    fields = json.loads(re.search("{[^}]+}", text)[0])  # type: ignore[index]
    re.search("<think>([^<]+)</think>", text)[1]  # type: ignore[index]
    box = next(v for k, v in fields.items() if "bbox" in k.lower())
    first, second, *_ = [v for k, v in fields.items() if "points" in k.lower()]
    if len(box) != 4:
        raise ValueError
    whole = [round(int(box[i]) * (fy if i % 2 else fx)) for i in range(4)]
    return whole, [[round(int(p[0]) * fx), round(int(p[1]) * fy)] for p in (first, second)]


def slow_vision_reasoner(text: str, fx: float, fy: float) -> list[tuple[list[int], list[int]]]:
    """The rule in the plainest words; raises where an answer cannot be read."""
    items = json.loads(re.search(r"<answer>\s*(.*?)\s*</answer>", text, re.DOTALL)[1])  # type: ignore[index]
    out = []
    for item in items:
        box = [int(item["bbox_2d"][i] * (fy if i % 2 else fx) + 0.5) for i in range(4)]
        out.append((box, [int(item["point_2d"][i] * (fy if i else fx) + 0.5) for i in range(2)]))
    return out


VALUE = st.one_of(
    st.integers(-50, 1200),
    st.floats(-50, 1200),
    st.sampled_from(["12", "1.5", "x", None, True, 10**400, float("nan"), float("inf"), [], {}, "1234"]),
)
ROW = st.lists(VALUE, min_size=1, max_size=5) | VALUE
FIELDS = st.dictionaries(
    st.sampled_from(["bbox", "BBox_2d", "points_1", "points_2", "point_2d", "bbox_2d", "label"]), ROW, max_size=5
)
BODY = FIELDS | st.lists(FIELDS | VALUE, max_size=3) | st.text(max_size=20)
SOUND = st.fixed_dictionaries(
    {
        "bbox_2d": st.lists(st.floats(0, 840) | st.integers(0, 840), min_size=4, max_size=4),
        "points_1": st.lists(st.integers(0, 840), min_size=2, max_size=2),
        "points_2": st.lists(st.integers(0, 840), min_size=2, max_size=2),
        "point_2d": st.lists(st.floats(0, 840), min_size=2, max_size=2),
    }
)
ANSWERS = st.tuples(
    st.sampled_from([THOUGHT, "", "<think></think>", "<think>a < b</think>", "<think>{x}</think>"]),
    st.sampled_from(["<answer>", "<answer>\n ", ""]),
    (BODY | SOUND | st.lists(SOUND, max_size=3)).map(json.dumps),
    st.sampled_from(["</answer>", " </answer> so", ""]),
).map("".join)


@given(ANSWERS)
def test_rules_agree_with_the_plain_ones(answer: str) -> None:
    rules = import_file(ROOT / "baselines" / "seg_zero" / "reading.py")
    fx, fy = ORIGINAL[1] / SEEN[1], ORIGINAL[0] / SEEN[0]
    try:
        box, points = slow_seg_zero(answer, fx, fy)
        wanted: tuple[SamPrompt, ...] = (prompt(box, points),)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, StopIteration):
        wanted = ()
    assert rules.seg_zero(answer, SEEN, ORIGINAL) == possible(wanted)
    try:
        wanted = tuple(prompt(box, [point]) for box, point in slow_vision_reasoner(answer, fx, fy))
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, StopIteration):
        wanted = ()
    assert rules.vision_reasoner(answer, SEEN, ORIGINAL) == possible(wanted)


def possible(prompts: tuple[SamPrompt, ...]) -> tuple[SamPrompt, ...]:
    """Nothing where a number is larger than any image."""
    numbers = [abs(v) for p in prompts for v in (*(p.box or ()), *np.ravel(p.points))]
    return () if any(v > 1e7 for v in numbers) else prompts


def prompt(box: list[int], points: list[list[int]]) -> SamPrompt:
    x1, y1, x2, y2 = map(float, box)
    return SamPrompt((x1, y1, x2, y2), tuple((float(x), float(y)) for x, y in points))


@given(st.text(max_size=80) | st.binary(max_size=40).map(lambda b: b.decode("latin-1")) | ANSWERS)
def test_every_text_has_a_result(text: str) -> None:
    rules = import_file(ROOT / "baselines" / "seg_zero" / "reading.py")
    for rule in (rules.seg_zero, rules.vision_reasoner, rules.anything):
        for found in rule(text, SEEN, ORIGINAL):
            assert isinstance(found, SamPrompt) and found.box is not None
            assert np.isfinite(np.array([*found.box, *np.ravel(found.points)])).all()


def test_what_each_rule_makes_of_the_same_answers(reading: ModuleType) -> None:
    one = prompt([64, 96, 320, 288], [[160, 120], [229, 172]])
    assert reading.seg_zero(ONE, SEEN, ORIGINAL) == (one,)
    assert reading.vision_reasoner(ONE, SEEN, ORIGINAL) == ()
    assert reading.vision_reasoner(MANY, SEEN, ORIGINAL) == (
        prompt([64, 96, 320, 288], [[160, 120]]),
        prompt([0, 0, 32, 24], [[16, 12]]),
    )
    # Their scripts default a missing thought to an empty text, and so one with a "<" in it.
    for thought in ("", "<think></think>", "<think>a < b</think>", "so it is this one.</think>"):
        unthought = MANY.replace(THOUGHT, thought)
        assert reading.vision_reasoner(unthought, SEEN, ORIGINAL) == reading.vision_reasoner(MANY, SEEN, ORIGINAL)
        assert reading.seg_zero(ONE.replace(THOUGHT, thought), SEEN, ORIGINAL) == ()
    assert reading.vision_reasoner(THOUGHT + "<answer>[]</answer>", SEEN, ORIGINAL) == ()
    quoted = ONE.replace('"', "'")  # what the question itself shows
    for text in (quoted, ONE.replace(THOUGHT, ""), ONE.replace("</answer>", "")):
        assert len(reading.anything(text, SEEN, ORIGINAL)) == 1
    assert reading.seg_zero(quoted, SEEN, ORIGINAL) == reading.seg_zero(ONE.replace(THOUGHT, ""), SEEN, ORIGINAL) == ()
    first, second = reading.anything(MANY, SEEN, ORIGINAL)
    assert first.points == ((160.0, 120.0),) and second.box == (0.0, 0.0, 32.0, 24.0)
    assert reading.anything("[1, 2, 3, 4], [5, 6, 7, 8] and (9, 9)", SEEN, ORIGINAL)[1].points == ()
    assert reading.anything("[900, 900, 950, 950]", SEEN, ORIGINAL) == ()


@pytest.mark.parametrize(
    "text", ["{" * 100_000, "[" * 100_000, "<answer>" * 20_000, THOUGHT + "<answer>" + "[" * 99_999 + "</answer>"]
)
def test_long_nonsense_ends(reading: ModuleType, text: str) -> None:
    for rule in (reading.seg_zero, reading.vision_reasoner, reading.anything):
        assert rule(text, SEEN, ORIGINAL) == ()


# ---------------------------------------------------------------------------------------------- through the run loop


def test_what_the_authors_ask(shapes: Path, sam2_folder: Path, tmp_path: Path) -> None:
    """The question, the square and its kernel, as a server sees them; boxes come back in the image."""
    with serve(FakeServer(lambda request: ONE)) as server:
        args = {"base_url": server.url, "model": "tiny", "sam": sam2_folder}
        ran = run("seg-zero-7b", shapes, tmp_path, args, engine="endpoint", limit=3)
        (request, *_) = sorted(server.requests, key=text_of)
    assert set(ran.statuses) == {"ok"}
    text = text_of(request)
    assert re.fullmatch(
        r"Please find '[^'A-Z.]+' with bbox and points\.Compare .* matched one\.Output the thinking process in "
        r"<think> </think> and final answer in <answer> </answer> tags\.Output the one bbox .* in JSON format\.i\.e\., "
        r"<think> thinking process here </think><answer>\{'bbox': \[10,100,200,210\], .*\}</answer>",
        text,
    )
    assert [m["role"] for m in request["messages"]] == ["user"] and request["max_tokens"] == 1024
    shown = pictures_of(request["messages"][0])[0]
    original = [np.asarray(Image.open(p).convert("RGB")) for p in sorted(shapes.rglob("*.png"))]
    squares = [np.asarray(Image.fromarray(p).resize((840, 840), Image.Resampling.BILINEAR)) for p in original]
    assert any((shown == square).all() for square in squares)
    for prediction in ran.predictions:
        height, width = prediction["mask"]["size"]
        fx, fy = width / 840, height / 840
        assert prediction["box"] == [round(84 * fx), round(168 * fy), round(420 * fx), round(504 * fy)]


def test_objects_are_joined_and_an_empty_list_is_no_mask(shapes: Path, sam2_folder: Path, tmp_path: Path) -> None:
    said = iter([MANY, THOUGHT + "<answer>[]</answer>", "It is at (21, 21)."])
    with serve(FakeServer(lambda request: next(said))) as server:
        args = {"base_url": server.url, "model": "tiny", "sam": sam2_folder, "concurrency": 1}
        ran = run("visionreasoner-7b", shapes, tmp_path, args, engine="endpoint", limit=3)
    assert sorted(ran.statuses) == ["no_mask", "no_mask", "ok"] and ran.summary["n_samples"] == 3
    assert ran.summary["metrics"]["no_mask_rate"] == pytest.approx(2 / 3)
    assert ran.summary["metrics"]["unread_rate"] == pytest.approx(1 / 3)  # an empty list is read, the point is not
    assert [p["error"] for p in ran.predictions if p["text"].startswith("It")] == [UNREAD]
    (found,) = [p for p in ran.predictions if p["status"] == "ok"]
    assert found["box"] is None and found["text"] == MANY


@pytest.mark.parametrize(
    ("model", "answer"), [("seg-zero-3b", ONE), ("visionreasoner-7b", MANY), ("seg-zero-7b", "nothing to see")]
)
def test_a_tiny_checkpoint_through_the_run_loop(
    model: str, answer: str, shapes: Path, sam2_folder: Path, tmp_path: Path
) -> None:
    folder = save_tiny_vlm(tmp_path / "vlm", answer=answer)
    args: dict[str, Any] = {"checkpoint": folder, "sam": sam2_folder}
    # The whole square: nine hundred tokens of image in front of every expression.
    ran = run(model, shapes, tmp_path / "out", args)
    assert set(ran.statuses) == {"no_mask" if answer.startswith("nothing") else "ok"}
    assert ran.summary["complete"] and ran.summary["n_images"] == IMAGES
    assert all(p["tokens"]["prompt"] > 900 for p in ran.predictions)


def test_cards_differ_where_the_methods_do() -> None:
    cards = {name: resolve_args(find_model(name), {}) for name in ("seg-zero-3b", "seg-zero-7b", "visionreasoner-7b")}
    assert {a["square"] for a in cards.values()} == {840} and {a["max_new_tokens"] for a in cards.values()} == {1024}
    assert {a["sam_hub"] for a in cards.values()} == {"facebook/sam2-hiera-large"}
    assert (
        cards["seg-zero-3b"]["question"] == cards["seg-zero-7b"]["question"] != cards["visionreasoner-7b"]["question"]
    )
    assert cards["visionreasoner-7b"]["strip"] == '."?!' and cards["seg-zero-7b"]["strip"] == "."
    published = {p.model for name in cards for p in find_model(name).published}
    rows = (ROOT / "results" / "published.csv").read_text()
    assert all(f"\n{name}," in rows for name in published) and len(published) == 3
