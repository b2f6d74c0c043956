"""Data that is damaged or names one thing twice ends in one line with the exit code of data, in every reader."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_bench.data import coco_json, grefer, questions, refer
from lens_bench.data.jsonio import as_int, as_name, as_number, get_str, shown
from lens_bench.data.paths import join
from lens_bench.data.split import open_split
from lens_bench.errors import DataError, UsageError
from lens_bench.heads import load_yaml
from lens_bench.masks import rle_from_json
from lens_bench.registry import find_suite

HUGE = 10**400
LONG = "9" * 5000


# ---------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    "value",
    ["--5", "-", "", " ", LONG, "9" * 19, HUGE, -HUGE, 2**63, True, 1e30, float("nan"), "\u0665\u0665", None, [1]],
)
def test_what_is_no_integer_of_64_bits_is_refused(value: object) -> None:
    with pytest.raises(DataError, match="the id is not an integer"):
        as_int(value, "the id")


@pytest.mark.parametrize(("value", "number"), [("-5", -5), (" 7 ", 7), ("+3", 3), (4.0, 4), (2**63 - 1, 2**63 - 1)])
def test_integers_that_tools_write_otherwise_are_read(value: object, number: int) -> None:
    assert as_int(value, "the id") == number


@pytest.mark.parametrize("value", [HUGE, float("inf"), float("nan"), "1", True, None])
def test_what_is_no_finite_number_is_refused(value: object) -> None:
    with pytest.raises(DataError, match="x is not a number"):
        as_number(value, "x")


@given(st.one_of(st.integers(), st.floats(), st.text(), st.lists(st.integers()), st.none()))
def test_a_name_is_a_text_that_can_be_written_or_an_error(value: object) -> None:
    try:
        as_name(value, "x").encode()
    except DataError:
        return


def test_values_that_python_cannot_write_are_shown() -> None:
    assert "too large" in shown(10**5000)
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    assert "..." in shown(nested)


def test_a_lone_surrogate_in_json_does_not_stop_what_writes_it() -> None:
    assert get_str(json.loads('{"a": "x\\ud800"}'), "a", "x") == "x?"


# ---------------------------------------------------------------------------------------------- fields


def _refer(tiny: Any, image: dict[str, Any] | None = None, annotation: dict[str, Any] | None = None, **ref: Any) -> Any:
    files = tiny.refer(
        [{**tiny.ref(1, 7, 70, ["the dog"]), **ref}],
        [{**tiny.image(7), **(image or {})}],
        [{**tiny.annotation(70, 7), **(annotation or {})}],
    )
    return list(refer.read(tiny.source(files)))


@pytest.mark.parametrize(
    ("image", "annotation", "ref", "message"),
    [
        ({"height": 10**30}, {}, {}, "height of image 7 .* is not an integer"),
        ({"height": 2**40}, {}, {}, "image 7 .* has the size"),
        ({"width": 0}, {}, {}, "image 7 .* has the size"),
        ({"width": "--5"}, {}, {}, "width of image 7 .* is not an integer: '--5'"),
        ({}, {"bbox": [HUGE, 1, 2, 3]}, {}, "box of annotation 70 .* is not a number"),
        ({}, {"bbox": [1, 2, float("nan"), 3]}, {}, "box of annotation 70 .* is not a number"),
        ({}, {"segmentation": [[HUGE] * 6]}, {}, "annotation 70 .* has a polygon with the coordinate"),
        ({}, {"segmentation": {"size": [HUGE, 1], "counts": [1]}}, {}, "annotation 70 .* has the size"),
        ({}, {"segmentation": {"size": [20, 30], "counts": [HUGE]}}, {}, "annotation 70 .* covers more than"),
        ({}, {"segmentation": {"size": [[[1]]], "counts": [1]}}, {}, "annotation 70 .* has the size"),
        ({"file_name": "x" * 5000}, {}, {}, "no file can have the name"),
        ({"file_name": "a\0b"}, {}, {}, "no file can have the name"),
        ({}, {}, {"image_id": "--7"}, "image_id of ref 1 .* is not an integer"),
    ],
)  # fmt: skip
def test_an_impossible_value_is_named(
    tiny: Any, image: dict[str, Any], annotation: dict[str, Any], ref: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        _refer(tiny, image, annotation, **ref)


def test_a_split_that_is_a_structure_is_no_split(tiny: Any) -> None:
    bomb: list[object] = ["val"]
    for _ in range(60):
        bomb = [bomb, bomb]
    with pytest.raises(DataError, match="has no ref of split 'val'"):
        _refer(tiny, split=bomb)


def test_run_lengths_whose_sum_python_cannot_write_are_refused() -> None:
    with pytest.raises(DataError, match="covers more than the 6 pixels"):
        rle_from_json({"size": [2, 3], "counts": [10**4299] * 20})


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        '{"images": ' + "[" * 2000 + "]" * 2000 + "}",
        f'{{"images": {LONG}}}',
        "\ufeff{}",
        '{"a": "\xff"}',
    ],
)
def test_damaged_json_is_named(tiny: Any, content: str) -> None:
    path = tiny.root / "annotations.json"
    path.write_bytes(content.encode("latin1", "replace"))
    with pytest.raises(DataError, match=r"annotations\.json"):
        list(questions.read(tiny.source({"annotations": path})))


def test_a_nested_id_of_an_expression_is_refused(tiny: Any) -> None:
    nested: object = "x"
    for _ in range(50):
        nested = [nested]
    annotations = tiny.json("annotations.json", {"images": [tiny.image(7)], "annotations": [tiny.annotation(70, 7)]})
    rows = tiny.json("expressions.json", [{"expression": "a", "ann_ids": [70], "id": nested}])
    with pytest.raises(DataError, match="id of entry 0"):
        list(coco_json.read(tiny.source({"annotations": annotations, "expressions_json": rows})))


# ---------------------------------------------------------------------------------------------- cards


@pytest.mark.parametrize(
    "value",
    [
        "2024-13-45",
        '!!int ""',
        "!!bool x",
        "!!timestamp x",
        '!!float ""',
        LONG,
        "[" * 10_000,
        "2001-12-14 21:59:43 +99:99",
    ],
)
def test_a_value_that_yaml_cannot_read_is_an_error_of_the_card(tiny: Any, value: str) -> None:
    path = tiny.root / "card.yaml"
    path.write_text(f"name: mine\ntitle: {value}\n")
    with pytest.raises(UsageError, match=r"card\.yaml is not readable YAML"):
        load_yaml(path)


@pytest.mark.parametrize(
    ("suite", "split"),
    [
        ("gseval", "eval"),
        ("refcoco", "val"),
        ("grefcoco", "val"),
        ("phrasecut", "val"),
        ("muse", "val"),
        ("refcocom", "val"),
        ("reasonseg", "val"),
        ("coco-json", "all"),
        ("ref-zom", "test"),
    ],
)
def test_a_card_that_names_none_of_the_files_its_reader_needs_is_an_error_of_the_card(
    tiny: Any, suite: str, split: str
) -> None:
    card = find_suite(suite)
    assert card.files is not None
    bare = card.model_copy(
        update={"files": card.files.model_copy(update={"required": {}, "optional": {}, "roots": (".",)})}
    )
    bare.splits[split].model_copy(update={"roots": ()})
    with pytest.raises(UsageError, match="names no file"):
        open_split(bare, split, tiny.root)


@pytest.mark.parametrize("reader", ["nothing", "a b", ":read", ".x:read", "", "images"])
def test_a_reader_that_is_none_is_an_error_of_the_card(tiny: Any, reader: str) -> None:
    card = find_suite("hub").model_copy(update={"reader": reader})
    (tiny.root / "hub").mkdir()
    with pytest.raises(UsageError, match="cannot be imported"):
        open_split(card, "test", tiny.root)


def test_a_name_too_long_for_a_file_is_refused(tiny: Any) -> None:
    with pytest.raises(DataError, match="no file can have the name"):
        join(tiny.root, "d/" + "x" * 300)


# ---------------------------------------------------------------------------------------------- ids


def test_a_wanted_annotation_or_image_that_is_there_twice_is_refused(tiny: Any) -> None:
    ref = tiny.ref(1, 7, 70, ["the dog"])
    images, annotations = [tiny.image(7), tiny.image(8)], [tiny.annotation(70, 7), tiny.annotation(71, 8)]
    files = tiny.refer([ref], images, [*annotations, tiny.annotation(70, 8)])
    with pytest.raises(DataError, match=r"instances\.json has two entries with the id 70 under 'annotations'"):
        list(refer.read(tiny.source(files)))
    files = tiny.refer([ref], [*images, tiny.image(7, name="b.jpg")], annotations)
    with pytest.raises(DataError, match=r"instances\.json has two entries with the id 7 under 'images'"):
        list(refer.read(tiny.source(files)))
    files = tiny.refer([ref], [*images, tiny.image(8)], [*annotations, tiny.annotation(71, 8)])
    assert len(list(refer.read(tiny.source(files)))) == 1  # nobody asks for those


def test_a_ref_that_is_there_twice_is_refused(tiny: Any) -> None:
    refs = [tiny.ref(1, 7, 70, ["the dog"]), tiny.ref(2, 7, 70, ["a dog"])]
    refs[1]["ref_id"] = 1
    files = tiny.refer(refs, [tiny.image(7)], [tiny.annotation(70, 7)])
    for reader in (refer, grefer):
        with pytest.raises(DataError, match="two refs with the ref_id 1"):
            list(reader.read(tiny.source(files)))
    refs[1]["split"] = "train"
    files = tiny.refer(refs, [tiny.image(7)], [tiny.annotation(70, 7)])
    assert len(list(refer.read(tiny.source(files)))) == 1


def test_a_users_annotations_and_expressions_have_ids_of_their_own(tiny: Any) -> None:
    content = {"images": [tiny.image(7, name="a.jpg")], "annotations": [tiny.annotation(70, 7), tiny.annotation(70, 7)]}
    annotations = tiny.json("my_suite/annotations.json", content)
    tiny.json("my_suite/expressions.json", [{"expression": "a", "ann_ids": [70]}])
    with pytest.raises(DataError, match="two entries with the id 70"):
        open_split(find_suite("coco-json"), "all", tiny.root)
    content["annotations"].pop()
    annotations.write_text(json.dumps(content))
    tiny.json("my_suite/expressions.json", [{"expression": "a", "ann_ids": [70], "id": 5}] * 2)
    with pytest.raises(DataError, match="two expressions have the id coco-json/all/5"):
        open_split(find_suite("coco-json"), "all", tiny.root)


def test_phrasecuts_images_have_ids_of_their_own(tiny: Any) -> None:
    image = {"image_id": 5, "height": 20, "width": 30}
    tiny.json("VGPhraseCut_v0/image_data_split3000.json", [image, {**image, "height": 40}])
    tiny.json("VGPhraseCut_v0/refer_val.json", [])
    with pytest.raises(DataError, match="two images with the image_id 5"):
        open_split(find_suite("phrasecut"), "val", tiny.root)


def test_two_image_files_of_one_name_are_two_images(tiny: Any) -> None:
    square = [[2, 2, 10, 2, 10, 8, 2, 8]]
    entry = {"height": 20, "width": 30, "questions": ["a"], "answers": [[{"segmentation": square}]]}
    tiny.json("muse/muse_val.json", [{**entry, "file_name": f"{folder}/1.jpg"} for folder in ("x", "y")])
    with pytest.raises(DataError, match=r"two images have the id 1\.jpg: .*x/1\.jpg and .*y/1\.jpg"):
        open_split(find_suite("muse"), "val", tiny.root)


def test_a_csv_with_two_columns_of_one_name_is_refused(tiny: Any) -> None:
    annotations = tiny.json("annotations.json", {"images": [tiny.image(7)], "annotations": [tiny.annotation(70, 7)]})
    path = tiny.root / "expressions.csv"
    path.write_text("expression,ann_ids,expression\na,70,b\n")
    with pytest.raises(DataError, match="two columns of one name"):
        list(coco_json.read(tiny.source({"annotations": annotations, "expressions_csv": path})))
