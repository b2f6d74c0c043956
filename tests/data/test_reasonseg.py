"""ReasonSeg: labelme files as LISA reads them."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lens_bench.data import reasonseg
from lens_bench.data.content import truth_digest
from lens_bench.data.split import open_split
from lens_bench.errors import DataError, UsageError
from lens_bench.masks import area, decode, merge_truth
from lens_bench.records import Sample
from lens_bench.registry import find_suite

FOLDER = "reason_seg/ReasonSeg/test"


def _shape(label: str, x1: float, y1: float, x2: float, y2: float) -> dict[str, Any]:
    return {"label": label, "points": [[x1, y1], [x2, y1], [x2, y2], [x1, y2]], "shape_type": "polygon"}


def _write(tiny: Any, name: str, shapes: list[Any], encoding: str = "utf-8", **more: Any) -> Path:
    record = {"text": ["something to sit on", "the seat"], "is_sentence": False, "shapes": shapes, **more}
    return tiny.json(f"{FOLDER}/{name}.json", record, encoding)


def _read(tiny: Any, **options: Any) -> list[Sample]:
    source = tiny.source(
        {"folder": tiny.root / FOLDER}, exif=True, suite="reasonseg", options={"split": "test", **options}
    )
    return list(reasonseg.read(source))


def _one(tiny: Any, shapes: list[Any], **more: Any) -> Sample:
    tiny.picture(f"{FOLDER}/a.jpg", size=(40, 60))
    _write(tiny, "a", shapes, **more)
    return _read(tiny)[0]


def test_the_first_text_is_evaluated_and_all_on_request(tiny: Any) -> None:
    first = _one(tiny, [_shape("target", 5, 5, 20, 20)])
    assert (first.id, first.expression, first.image_id) == ("reasonseg/test/a/0", "something to sit on", "a")
    assert len(_read(tiny)) == 1
    every = _read(tiny, texts="all")
    assert [s.id for s in every] == ["reasonseg/test/a/0", "reasonseg/test/a/1"]
    assert every[0].truth is every[1].truth
    with pytest.raises(UsageError, match="texts='both'"):
        _read(tiny, texts="both")


@pytest.mark.parametrize(("is_sentence", "tag"), [(False, "short"), (True, "long")])
def test_short_and_long_are_told_apart_by_is_sentence(tiny: Any, is_sentence: bool, tag: str) -> None:
    sample = _one(tiny, [_shape("target", 5, 5, 20, 20)], is_sentence=is_sentence)
    assert sample.tags == (tag,)
    assert sample.is_sentence is is_sentence


def test_border_pixels_belong_to_the_mask(tiny: Any) -> None:
    target, _, _ = merge_truth(_one(tiny, [_shape("target", 5, 5, 20.9, 20.9)]).truth)
    assert area(target) == 16 * 16  # points are truncated, and the outline counts


@pytest.mark.parametrize(
    ("label", "target", "ignored"),
    [
        ("target", 256, 0),
        ("ignore", 0, 256),
        ("Ignore", 0, 256),
        ("please IGNORE this", 0, 256),
        ("flag", 0, 0),
        ("FLAG", 0, 0),
        ("flags", 256, 0),
        ("anything else", 256, 0),
    ],
)
def test_labels(tiny: Any, label: str, target: int, ignored: int) -> None:
    found, _, ignore = merge_truth(_one(tiny, [_shape(label, 5, 5, 20, 20)]).truth)
    assert (area(found), area(ignore)) == (target, ignored)


def test_a_small_shape_is_painted_over_a_large_one_whatever_their_order(tiny: Any) -> None:
    large, small = _shape("target", 5, 5, 30, 30), _shape("ignore", 10, 10, 15, 15)
    for shapes in ([large, small], [small, large]):
        target, _, ignore = merge_truth(_one(tiny, shapes).truth)
        assert (area(target), area(ignore)) == (26 * 26 - 36, 36)
    restored, _, _ = merge_truth(_one(tiny, [small, large, _shape("target", 12, 12, 13, 13)]).truth)
    assert area(restored) == 26 * 26 - 36 + 4


# ---------------------------------------------------------------------------------------------- types of shapes


def _png(mask: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(stream, "png")
    return base64.b64encode(stream.getvalue()).decode()


def _drawn(kind: str, *corners: float) -> np.ndarray:
    image = Image.new("1", (60, 40))
    getattr(ImageDraw.Draw(image), kind)(corners, outline=1, fill=1)
    return np.asarray(image)


@pytest.mark.parametrize("points", [[[5.7, 6.2], [20.4, 18.9]], [[20.4, 18.9], [5.7, 6.2]], [[5.7, 18.9], [20.4, 6.2]]])
def test_a_rectangle_is_drawn_as_labelme_draws_it(tiny: Any, points: list[Any]) -> None:
    sample = _one(tiny, [{"label": "target", "points": points, "shape_type": "rectangle"}])
    expected = _drawn("rectangle", 5.7, 6.2, 20.4, 18.9)
    np.testing.assert_array_equal(decode(merge_truth(sample.truth)[0]), expected)
    assert expected.sum() == 16 * 13


def test_a_circle_is_drawn_as_labelme_draws_it(tiny: Any) -> None:
    sample = _one(tiny, [{"label": "target", "points": [[30, 20], [33, 24]], "shape_type": "circle"}])
    np.testing.assert_array_equal(decode(merge_truth(sample.truth)[0]), _drawn("ellipse", 25, 15, 35, 25))


def test_a_mask_is_put_between_its_corners(tiny: Any) -> None:
    pixels = np.random.default_rng(0).random((6, 9)) > 0.5
    shape = {"label": "target", "points": [[4.0, 3.0], [12.0, 8.0]], "shape_type": "mask", "mask": _png(pixels)}
    sample = _one(tiny, [shape])
    expected = np.zeros((40, 60), dtype=bool)
    expected[3:9, 4:13] = pixels
    np.testing.assert_array_equal(decode(merge_truth(sample.truth)[0]), expected)
    other = _one(tiny, [{**shape, "mask": _png(~pixels)}])
    assert truth_digest(sample.truth) != truth_digest(other.truth)


def test_an_ignored_circle_carves_a_rectangle(tiny: Any) -> None:
    rectangle = {"label": "target", "points": [[10, 10], [50, 30]], "shape_type": "rectangle"}
    circle = {"label": "ignore", "points": [[30, 20], [33, 24]], "shape_type": "circle"}
    target, _, ignore = merge_truth(_one(tiny, [circle, rectangle]).truth)
    assert area(ignore) == _drawn("ellipse", 25, 15, 35, 25).sum()
    assert area(target) == 41 * 21 - area(ignore)


@pytest.mark.parametrize("kind", [{}, {"shape_type": None}, {"shape_type": "polygon"}])
def test_a_shape_without_a_type_is_a_polygon(tiny: Any, kind: dict[str, Any]) -> None:
    shape = {"label": "target", "points": [[5, 5], [20, 5], [20, 20], [5, 20]], **kind}
    assert area(merge_truth(_one(tiny, [shape]).truth)[0]) == 16 * 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape_type": "line"}, "shape 0 of .*a.json has the type 'line'"),
        ({"shape_type": "points"}, "has the type 'points'"),
        ({"shape_type": "linestrip"}, "has the type 'linestrip'"),
        ({"shape_type": 5}, "has the type 5"),
        ({"shape_type": "rectangle", "points": [[1, 1]]}, "is a rectangle of 1 points"),
        ({"shape_type": "circle", "points": [[1, 1], [2, 2], [3, 3]]}, "is a circle of 3 points"),
        ({"shape_type": "mask"}, "no field 'mask'"),
        ({"shape_type": "mask", "mask": "*"}, "is not base64"),
        ({"shape_type": "mask", "mask": "AAAA"}, "cannot be decoded"),
        ({"shape_type": "mask", "mask": _png(np.ones((3, 3)))}, "is 3x3, its corners span 2x2"),
        ({"shape_type": "mask", "points": [[-1, 1], [1, 3]], "mask": _png(np.ones((3, 3)))}, "leaves its image"),
        ({"shape_type": "mask", "points": [[58, 1], [60, 3]], "mask": _png(np.ones((3, 3)))}, "leaves its image"),
    ],
)
def test_a_shape_that_cannot_be_drawn_is_named(tiny: Any, change: dict[str, Any], message: str) -> None:
    shape = {"label": "target", "points": [[1, 1], [2, 2]], **change}
    with pytest.raises(DataError, match=message):
        _one(tiny, [shape])
    _one(tiny, [{**shape, "label": "flag"}])


@pytest.mark.parametrize("image", [True, False])
def test_fractions_of_the_image_are_no_pixels(tiny: Any, image: bool) -> None:
    """They would be truncated to one pixel in the corner, which no model marks."""
    if image:
        tiny.picture(f"{FOLDER}/a.jpg", size=(40, 60))
    shapes = [_shape("target", 0.1, 0.25, 0.5, 0.75), _shape("ignore", 0, 0, 1, 1)]
    _write(tiny, "a", shapes, imageHeight=40, imageWidth=60)
    with pytest.raises(DataError, match=r"a.json has polygons whose coordinates are all between 0 and 1"):
        _read(tiny)
    _write(tiny, "a", [shapes[0], _shape("ignore", 0, 0, 1, 2)], imageHeight=40, imageWidth=60)
    assert len(_read(tiny)) == 1


def test_what_macos_leaves_beside_a_file_is_passed_by(tiny: Any) -> None:
    _one(tiny, [_shape("target", 5, 5, 20, 20)])
    (tiny.root / FOLDER / "._a.json").write_bytes(b"\x00\x05\x16\x07")
    assert len(_read(tiny)) == 1


def test_shapes_far_outside_are_not_taken_for_the_size_of_a_broken_image(tiny: Any) -> None:
    _write(tiny, "a", [_shape("target", 5, 5, 9e5, 9e5)])
    (tiny.root / FOLDER / "a.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="has the size"):
        _read(tiny)


# ---------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("shapes", [[], None])
def test_a_file_without_shapes_is_an_empty_ground_truth_and_stays_a_sample(tiny: Any, shapes: Any) -> None:
    tiny.picture(f"{FOLDER}/a.jpg", size=(40, 60))
    record = {"text": ["x"], "is_sentence": True} | ({} if shapes is None else {"shapes": shapes})
    tiny.json(f"{FOLDER}/a.json", record)
    sample = _read(tiny)[0]
    assert area(merge_truth(sample.truth)[0]) == 0
    assert not sample.truth.no_target
    assert sample.truth.size == (40, 60)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
def test_texts_are_utf_8_or_cp1252_whatever_the_locale(tiny: Any, encoding: str) -> None:
    tiny.picture(f"{FOLDER}/a.jpg")
    _write(tiny, "a", [], encoding, text=["the woman’s café"])
    assert _read(tiny)[0].expression == "the woman’s café"


def test_a_file_in_no_known_encoding_is_named(tiny: Any) -> None:
    (tiny.root / FOLDER).mkdir(parents=True)
    (tiny.root / FOLDER / "a.json").write_bytes(b'{"text": ["\x81\xff"]}')
    with pytest.raises(DataError, match=r"a\.json is neither UTF-8 nor cp1252"):
        _read(tiny)


def test_the_size_is_that_of_the_image_as_it_is_seen(tiny: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tiny.root / FOLDER / "a.jpg"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.zeros((40, 60, 3), dtype=np.uint8)).save(path, exif=exif)
    _write(tiny, "a", [_shape("target", 2, 2, 9, 50)], imageHeight=1, imageWidth=1)
    sample = _read(tiny)[0]
    assert sample.truth.size == (60, 40)
    assert sample.image.read().shape == (60, 40, 3)
    assert decode(merge_truth(sample.truth)[0])[50, 5]


def test_a_missing_image_is_left_to_the_run_where_the_size_is_known(tiny: Any) -> None:
    _write(tiny, "a", [], imageHeight=40, imageWidth=60)
    sample = _read(tiny)[0]
    assert sample.truth.size == (40, 60)
    assert not sample.image.exists()


def test_a_missing_image_of_unknown_size_is_named(tiny: Any) -> None:
    _write(tiny, "a", [])
    with pytest.raises(DataError, match=r"a\.jpg is missing"):
        _read(tiny)


def test_files_are_read_in_the_order_of_their_names(tiny: Any) -> None:
    for name in ("b (2)", "a", "c+d"):
        tiny.picture(f"{FOLDER}/{name}.png")
        _write(tiny, name, [])
    assert [s.image_id for s in _read(tiny)] == ["a", "b (2)", "c+d"]
    assert all(s.image.exists() for s in _read(tiny))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": []}, "has no text"),
        ({"text": [3]}, "text 0 .* is not a text"),
        ({"shapes": [{"points": []}]}, "has no field 'label'"),
        ({"shapes": [{"label": "target", "points": [[1, 2, 3]]}]}, "a point of 3 coordinates"),
        ({"shapes": [{"label": "target", "points": [["a", 2]]}]}, "coordinate 'a'"),
    ],
)
def test_a_malformed_file_is_named(tiny: Any, change: dict[str, Any], message: str) -> None:
    tiny.picture(f"{FOLDER}/a.jpg")
    tiny.json(f"{FOLDER}/a.json", {"text": ["x"], "is_sentence": False, "shapes": [], **change})
    with pytest.raises(DataError, match=message) as caught:
        _read(tiny)
    assert "a.json" in caught.value.message


def test_a_file_without_is_sentence_is_refused(tiny: Any) -> None:
    tiny.picture(f"{FOLDER}/a.jpg")
    (tiny.root / FOLDER / "a.json").write_text(json.dumps({"text": ["x"], "shapes": []}))
    with pytest.raises(DataError, match="has no field 'is_sentence'"):
        _read(tiny)


@pytest.mark.parametrize("root", ["reason_seg/ReasonSeg", "ReasonSeg", "datasets/reason_seg/ReasonSeg", "."])
def test_known_layouts_are_found(tiny: Any, root: str) -> None:
    tiny.picture(f"{root}/val/a.jpg")
    tiny.json(f"{root}/val/a.json", {"text": ["x"], "is_sentence": False, "shapes": []})
    split = open_split(find_suite("reasonseg"), "val", tiny.root, allow_partial=True)
    assert split.samples[0].id == "reasonseg/val/a/0"
    assert split.source.exif
    assert "trained on train and val" in split.warning
