"""`data verify`: everything that can be wrong with a split, in one report."""

from __future__ import annotations

from typing import Any

import pytest

from lens_bench.data.split import Split, open_split
from lens_bench.data.verify import verify_split
from lens_bench.registry import find_suite

SQUARE = [2.0, 2.0, 10.0, 2.0, 10.0, 8.0, 2.0, 8.0]
SHIFTED = [6.0, 2.0, 14.0, 2.0, 14.0, 8.0, 6.0, 8.0]


def _split(tiny: Any) -> Split:
    images = [tiny.image(i) for i in range(1, 7)]
    annotations = [
        tiny.annotation(10, 1),
        tiny.annotation(20, 2, [SQUARE, SHIFTED]),
        tiny.annotation(30, 3, []),
        *(tiny.annotation(i * 10, i) for i in (4, 5, 6)),
    ]
    refs = [tiny.ref(i, i, 10 * i, ["a dog", "the dog"]) for i in range(1, 7)]
    tiny.refer(refs, images, annotations)
    folder = "images/train2014/COCO_train2014_"
    for i in (1, 2, 3):
        tiny.picture(f"{folder}{i:012d}.jpg")
    tiny.picture(f"{folder}{4:012d}.jpg", size=(30, 20))
    broken = tiny.picture(f"{folder}{5:012d}.jpg")
    broken.write_bytes(broken.read_bytes()[:200])
    return open_split(find_suite("refcoco"), "val", tiny.root, allow_partial=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_everything_wrong_is_found_and_named(tiny: Any, workers: int) -> None:
    split = _split(tiny)
    seen: list[tuple[int, int]] = []
    report = verify_split(split, workers=workers, progress=lambda done, total: seen.append((done, total)))
    assert [(f.kind, f.sample_id) for f in report.findings] == [
        ("missing image", "refcoco/unc/val/ref6/sent60"),
        ("size mismatch", "refcoco/unc/val/ref4/sent40"),
        ("broken image", "refcoco/unc/val/ref5/sent50"),
        ("empty annotation", "refcoco/unc/val/ref3/sent30"),
    ]
    assert "is 20x30, its annotation 30x20" in report.findings[1].detail
    assert "000000000005.jpg cannot be decoded" in report.findings[2].detail
    assert (report.overlapping, report.empty, report.no_target) == (1, 1, 0)
    assert report.wrong_counts == ("images", "refs", "expressions")
    assert not report.ok
    assert seen == [(i, 6) for i in range(1, 7)]


def test_the_table_has_expected_and_found(tiny: Any) -> None:
    report = verify_split(_split(tiny))
    rows = dict(report.rows())
    assert rows["expressions"] == "12 of 10834 expected"
    assert rows["missing images"] == "1"
    assert rows["broken images"] == "1"
    assert rows["size mismatches"] == "1"
    assert rows["annotations with overlapping parts"] == "1"
    assert rows["annotations without a pixel"] == "1"
    assert rows["content hash"] == report.content_hash
    assert "refer_seg/refcoco" in rows["layout"]


def test_without_decoding_images_are_only_looked_for(tiny: Any) -> None:
    report = verify_split(_split(tiny), decode=False)
    assert [f.kind for f in report.findings] == ["missing image", "empty annotation"]
    assert dict(report.rows())["broken images"] == "not checked"


def test_a_whole_split_is_ok(tiny: Any) -> None:
    tiny.json("my_suite/annotations.json", {"images": [tiny.image(1)], "annotations": [tiny.annotation(10, 1)]})
    tiny.json("my_suite/expressions.json", [{"expression": "x", "ann_ids": [10]}, {"expression": "y", "image_id": 1}])
    tiny.picture("my_suite/images/COCO_train2014_000000000001.jpg")
    report = verify_split(open_split(find_suite("coco-json"), "all", tiny.root))
    assert report.ok
    assert (report.empty, report.no_target) == (0, 1)
    assert dict(report.rows())["images"] == "1"


def test_a_mask_that_cannot_be_read_is_a_broken_annotation(tiny: Any) -> None:
    record = {"img_name": "COCO_train2014_000000000009.jpg", "segment_id": 31, "sentences": [{"sent": "left ear"}]}
    tiny.json("RefCOCOm/annotations/val.json", [record])
    tiny.picture("train2014/COCO_train2014_000000000009.jpg")
    mask = tiny.picture("RefCOCOm/masks/31.png")
    split = open_split(find_suite("refcocom"), "val", tiny.root)
    mask.write_bytes(mask.read_bytes()[:100])
    report = verify_split(split)
    assert [(f.kind, f.sample_id) for f in report.findings] == [("broken annotation", "refcocom/val/seg31/0")]
