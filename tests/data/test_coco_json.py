"""A user's own COCO annotations and expressions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lens_bench.data import coco_json
from lens_bench.data.split import open_split
from lens_bench.errors import DataError
from lens_bench.records import Sample
from lens_bench.registry import find_suite

CSV = "\ufeffexpression,ann_ids,tags,image_id,id\n"


def _coco(tiny: Any, folder: str = "my_suite") -> Path:
    images = [tiny.image(7, name="a.jpg"), tiny.image(8, name="sub/b.jpg")]
    annotations = [tiny.annotation(70, 7), tiny.annotation(71, 7), tiny.annotation(80, 8)]
    return tiny.json(f"{folder}/annotations.json", {"images": images, "annotations": annotations})


def _read(tiny: Any, content: Any, suffix: str = "json") -> list[Sample]:
    annotations = _coco(tiny)
    path = annotations.parent / f"expressions.{suffix}"
    if suffix == "json":
        path.write_text(json.dumps(content))
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    else:
        path.write_text(content, encoding="utf-8")
    files = {"annotations": annotations, f"expressions_{suffix}": path}
    return list(coco_json.read(tiny.source(files, suite="mine", split="all")))


ROWS: list[dict[str, Any]] = [
    {"expression": "the dog", "ann_ids": [70], "tags": ["animal", "small"], "id": "first"},
    {"expression": "both dogs", "ann_ids": [70, 71]},
    {"expression": "a cat", "image_id": 8},
    {"expression": "the other", "ann_ids": [80], "image_id": 8},
]
TABLE = CSV + "the dog,70,animal small,,first\nboth dogs,70 71,,,1\na cat,,,8,2\nthe other,80,,8,3\n"


@pytest.mark.parametrize(("content", "suffix"), [(ROWS, "json"), (ROWS, "jsonl"), (TABLE, "csv")])
def test_the_three_forms_of_a_list_give_the_same(tiny: Any, content: Any, suffix: str) -> None:
    dog, both, cat, other = _read(tiny, content, suffix)
    assert [s.id for s in (dog, both, cat, other)] == ["mine/all/first", "mine/all/1", "mine/all/2", "mine/all/3"]
    assert dog.tags == ("animal", "small")
    assert dog.truth.box == (2.0, 2.0, 10.0, 8.0)
    assert (both.truth.box, len(both.truth.parts)) == (None, 2)
    assert cat.truth.no_target
    assert cat.image_id == "8"
    assert other.image.name.endswith("images/sub/b.jpg")
    assert not other.truth.no_target


@pytest.mark.parametrize("key", ["ann_ids", "ann_id", "annotation_ids", "annotation_id"])
def test_an_annotation_may_be_named_alone(tiny: Any, key: str) -> None:
    assert _read(tiny, [{"expression": "the dog", key: 70}])[0].ref_id == "70"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"expression": "x", "ann_ids": [70, 80]}, "is about images 7, 8"),
        ({"expression": "x", "ann_ids": [70], "image_id": 8}, "is about images 7, 8"),
        ({"expression": "x", "ann_ids": [70, 70]}, "names an annotation twice: 70, 70"),
        ({"expression": "x"}, "is about no image"),
        ({"expression": "x", "image_id": 9}, "names image 9"),
        ({"expression": "x", "ann_ids": [99]}, "names annotation 99"),
        ({"expression": "x", "ann_ids": ["y"]}, "annotation id of .* is not an integer"),
        ({"expression": "x", "ann_ids": [70], "ann_id": 70}, "has both 'ann_ids' and 'ann_id'"),
        ({"expression": 3, "ann_ids": [70]}, "expression of .* is not a text"),
        ({"expresion": "x", "ann_ids": [70]}, "unknown field 'expresion'"),
        ({"ann_ids": [70]}, "has no field 'expression'"),
    ],
)
def test_a_wrong_row_is_named(tiny: Any, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        _read(tiny, [{"expression": "the dog", "ann_ids": [70]}, row])
    assert "entry 1 of" in caught.value.message


def test_a_csv_row_of_another_length_is_named(tiny: Any) -> None:
    with pytest.raises(DataError, match="line 2 does not have as many fields"):
        _read(tiny, "expression,ann_ids\nthe dog, on the left,70\n", "csv")
    with pytest.raises(DataError, match="line 2 does not have as many fields"):
        _read(tiny, "expression,ann_ids\nthe dog\n", "csv")


def test_the_card_finds_it_and_names_repeat_only_once(tiny: Any) -> None:
    folder = _coco(tiny).parent
    path = folder / "expressions.json"
    path.write_text(json.dumps(ROWS))
    tiny.picture("my_suite/images/a.jpg")
    split = open_split(find_suite("coco-json"), "all", tiny.root)
    assert split.counts.expressions == 4
    assert split.samples[0].image.exists()
    path.write_text(json.dumps([ROWS[0], ROWS[0]]))
    with pytest.raises(DataError, match="two expressions have the id coco-json/all/first"):
        open_split(find_suite("coco-json"), "all", tiny.root)


def test_two_lists_or_none_are_refused(tiny: Any) -> None:
    folder = _coco(tiny).parent
    with pytest.raises(DataError, match="must hold one list of expressions, it has: none"):
        open_split(find_suite("coco-json"), "all", tiny.root)
    (folder / "expressions.json").write_text("[]")
    (folder / "expressions.csv").write_text(CSV)
    with pytest.raises(DataError, match=r"it has: expressions\.json, expressions\.csv"):
        open_split(find_suite("coco-json"), "all", tiny.root)


def test_a_split_has_a_folder_of_its_own(tiny: Any) -> None:
    folder = _coco(tiny, "coco-json/val").parent
    (folder / "expressions.json").write_text(json.dumps(ROWS))
    assert open_split(find_suite("coco-json"), "val", tiny.root).samples[0].id == "coco-json/val/first"
