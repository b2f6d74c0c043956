"""REFER sets: every trap of the format, on made-up files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from lens_bench.data import refer
from lens_bench.data.split import open_split
from lens_bench.errors import DataError
from lens_bench.masks import area, decode, merge_parts
from lens_bench.records import Polygon, Rle, Sample
from lens_bench.registry import find_suite

SIZE = (20, 30)


def _read(tiny: Any, refs: object, images: list[object], annotations: list[object], **changes: Any) -> list[Sample]:
    return list(refer.read(tiny.source(tiny.refer(refs, images, annotations), **changes)))


def _one(tiny: Any, segmentation: object) -> Sample:
    refs = [tiny.ref(1, 7, 70, ["a dog"])]
    return _read(tiny, refs, [tiny.image(7)], [tiny.annotation(70, 7, segmentation)])[0]


def test_every_sentence_is_a_sample_and_shares_its_refs_ground_truth(tiny: Any) -> None:
    refs = [tiny.ref(12, 7, 70, ["left dog", "dog on the left"]), tiny.ref(13, 7, 70, ["the dog"])]
    samples = _read(tiny, refs, [tiny.image(7)], [tiny.annotation(70, 7)])
    assert [s.id.removeprefix("tiny/unc/val/") for s in samples] == ["ref12/sent120", "ref12/sent121", "ref13/sent130"]
    assert [s.key for s in samples] == ["120", "121", "130"]
    assert [s.ref_id for s in samples] == ["12", "12", "13"]
    assert samples[0].expression == "left dog"
    assert samples[0].raw == "Left dog!"
    assert samples[0].image_id == "7"
    assert samples[0].truth is samples[1].truth is samples[2].truth
    assert samples[0].image is samples[2].image
    assert samples[0].truth.size == SIZE
    assert samples[0].truth.box == (2.0, 2.0, 10.0, 8.0)


def test_the_image_is_found_by_id_and_never_by_the_refs_suffixed_file_name(tiny: Any) -> None:
    tiny.picture("images/COCO_train2014_000000000007.jpg")
    tiny.picture("images/COCO_train2014_000000000007_1.jpg", size=(5, 5))
    sample = _one(tiny, None)
    assert sample.image.name.endswith("images/COCO_train2014_000000000007.jpg")
    assert sample.image.read().shape == (20, 30, 3)


def test_a_field_of_sentences_becomes_a_tag(tiny: Any) -> None:
    ref = tiny.ref(1, 7, 70, ["a dog", "the dog"])
    ref["sentences"][0]["kind"] = "attribute"
    tables = ([tiny.image(7)], [tiny.annotation(70, 7)])
    assert [s.tags for s in _read(tiny, [ref], *tables, options={"tag_field": "kind"})] == [("attribute",), ()]
    assert [s.tags for s in _read(tiny, [ref], *tables)] == [(), ()]


def test_splits_are_matched_exactly(tiny: Any) -> None:
    refs = [tiny.ref(i, 7, 70, ["a dog"], split=s) for i, s in enumerate(["train", "val", "testA", "testB", "test"])]
    for index, split in enumerate(["train", "val", "testA", "testB", "test"]):
        samples = _read(tiny, refs, [tiny.image(7)], [tiny.annotation(70, 7)], options={"split": split})
        assert [s.ref_id for s in samples] == [str(index)]
    with pytest.raises(DataError, match="no ref of split 'testC'"):
        _read(tiny, refs, [tiny.image(7)], [tiny.annotation(70, 7)], options={"split": "testC"})


MASK = np.zeros(SIZE, dtype=np.uint8)
MASK[3:9, 4:12] = 1
COMPRESSED = coco.encode(np.asfortranarray(MASK))
UNCOMPRESSED = [int(n) for n in np.diff(np.flatnonzero(np.diff(np.r_[2, MASK.T.ravel(), 2]) != 0))]


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        pytest.param({"size": [20, 30], "counts": COMPRESSED["counts"].decode()}, MASK, id="compressed RLE"),
        pytest.param({"size": [20, 30], "counts": UNCOMPRESSED}, MASK, id="uncompressed RLE (iscrowd)"),
        pytest.param([{"size": [20, 30], "counts": COMPRESSED["counts"].decode()}], MASK, id="list of RLE"),
        pytest.param([{"size": [20, 30], "counts": UNCOMPRESSED}], MASK, id="list of uncompressed RLE"),
        pytest.param([], np.zeros(SIZE), id="empty segmentation"),
        pytest.param([[4, 3, 12, 3, 12, 9, 4, 9]], MASK, id="polygon of integers"),
        pytest.param([[4, 3, 8, 3, 8, 9, 4, 9], [8, 3, 12, 3, 12, 9, 8, 9]], MASK, id="two polygons"),
    ],
)
def test_forms_of_a_segmentation(tiny: Any, segmentation: object, expected: np.ndarray) -> None:
    truth = _one(tiny, segmentation).truth
    union, _ = merge_parts(truth.parts, truth.size)
    np.testing.assert_array_equal(decode(union), expected.astype(bool))


def test_coordinates_outside_the_image_are_clipped_as_coco_does(tiny: Any) -> None:
    polygon = [-5.5, -3.25, 12.0, -3.25, 12.0, 25.5, -5.5, 25.5]
    truth = _one(tiny, [polygon]).truth
    assert truth.parts == (Polygon(tuple(polygon)),)
    assert area(merge_parts(truth.parts, truth.size)[0]) == 12 * 20


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [20, 31], "counts": [620]}, "an RLE of 31x20 on an image of 30x20"),
        ({"size": [20, 30], "counts": [599]}, "covers 599 pixels"),
        ([[1, 2, 3]], "odd number of coordinates"),
        ([[4, 3, 12, 3, 12, 9, 4, 9], [1, 1, 2, 2]], "annotation 70 of .* has a polygon of 4 numbers"),
        ([[4, 3, 8, 6]], "annotation 70 of .* has a polygon of 4 numbers"),
        ([[4, 3], [12, 3], [12, 9], [4, 9]], "annotation 70 of .* has a polygon of 2 numbers"),
        ([[]], "annotation 70 of .* has a polygon of 0 numbers"),
        ([[[4, 3], [12, 3], [12, 9]]], r"coordinate \[4, 3\]"),
        ([[0.1, 0.1, 0.9, 0.1, 0.9, 1.0], [0, 0, 0.5, 0, 0.5, 0.5]], "all between 0 and 1"),
        ([[1, 2, 3, "x", 5, 6]], "coordinate 'x'"),
        ([[1, 2, 3, 1e12, 5, 6]], "coordinate 1000000000000.0"),
        ("polygon", "segmentation of annotation 70"),
    ],
)
def test_a_damaged_annotation_is_refused_by_name(tiny: Any, segmentation: object, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        _one(tiny, segmentation)
    assert "annotation 70" in caught.value.message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 8}, "names image 8|is about image 8"),
        ({"ann_id": 71}, "names annotation 71"),
        ({"sentences": [{"sent_id": 1}]}, "sentence 1 of ref 1 .* has no field 'sent'"),
        ({"sentences": None}, "sentences of ref 1 .* is not a list"),
        ({"ref_id": "x"}, "ref_id of a ref .* is not an integer"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(tiny: Any, change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _read(tiny, [{**tiny.ref(1, 7, 70, ["a dog"]), **change}], [tiny.image(7)], [tiny.annotation(70, 7)])


def test_only_what_the_split_needs_is_kept(tiny: Any) -> None:
    from lens_bench.data.instances import load_instances

    annotations = [tiny.annotation(i, i % 5) for i in range(50)]
    files = tiny.refer([], [tiny.image(i) for i in range(5)], annotations)
    found = load_instances(files["instances"], {1, 2}, {11, 12})
    assert set(found.images) == {1, 2}
    assert set(found.annotations) == {11, 12}


def test_a_python_2_file_with_accents_is_read(tiny: Any) -> None:
    files = tiny.refer([tiny.ref(1, 7, 70, ["a dog"])], [tiny.image(7)], [tiny.annotation(70, 7)])
    # What Python 2 writes for {"sent": "caf\xe9"} (Latin-1) and "na\xc3\xafve" (UTF-8), protocol 0.
    sentence = b"(dp1\nS'sent_id'\nI5\nsS'sent'\nS'caf\\xe9'\nsS'raw'\nS'na\\xc3\\xafve'\ns"
    ref = b"(dp0\nS'ref_id'\nI1\nsS'ann_id'\nI70\nsS'image_id'\nI7\nsS'split'\nS'val'\nsS'sentences'\n(l" + sentence
    files["refs"].write_bytes(b"(l" + ref + b"asa.")
    sample = next(iter(refer.read(tiny.source(files))))
    assert (sample.expression, sample.raw) == ("café", "naïve")


def test_instances_that_are_not_json_are_named(tiny: Any) -> None:
    files = tiny.refer([tiny.ref(1, 7, 70, ["a dog"])], [tiny.image(7)], [tiny.annotation(70, 7)])
    files["instances"].write_text('{"images": [')
    with pytest.raises(DataError, match=r"instances\.json is not valid JSON"):
        list(refer.read(tiny.source(files)))


# ---------------------------------------------------------------------------------------------- through the cards

LAYOUTS = [
    ("refer_seg/{0}", "refer_seg/images/mscoco/images/train2014"),  # LISA, LENS
    ("{0}", "images/mscoco/images/train2014"),  # the data folder of the refer repository
    ("{0}", "images/train2014"),  # ReLA
    ("Refer_Segm/{0}", "coco_2014/train2014"),  # GLaMM
    ("{0}", "coco/train2014"),
    ("{0}", "train2014"),
]


@pytest.mark.parametrize(("folder", "images"), LAYOUTS)
@pytest.mark.parametrize("name", ["refcoco", "refcoco+", "refcocog"])
def test_known_layouts_are_found(tiny: Any, name: str, folder: str, images: str) -> None:
    card = find_suite(name)
    by = str(card.options["split_by"])
    tiny.refer(
        [tiny.ref(1, 7, 70, ["a dog"])], [tiny.image(7)], [tiny.annotation(70, 7)],
        folder=folder.format(name), name=f"refs({by}).p",
    )  # fmt: skip
    tiny.picture(f"{images}/COCO_train2014_000000000007.jpg")
    split = open_split(card, "val", tiny.root, allow_partial=True)
    assert split.samples[0].id == f"{name}/{by}/val/ref1/sent10"
    assert split.samples[0].image.exists()
    assert split.source.files["refs"].parent == tiny.root / folder.format(name)


def test_googles_split_is_a_split_of_its_own_and_warns(tiny: Any) -> None:
    tiny.refer(
        [tiny.ref(1, 7, 70, ["a dog"])], [tiny.image(7)], [tiny.annotation(70, 7)],
        folder="refer_seg/refcocog", name="refs(google).p",
    )  # fmt: skip
    split = open_split(find_suite("refcocog"), "google-val", tiny.root, allow_partial=True)
    assert split.samples[0].id == "refcocog/google/val/ref1/sent10"
    assert "also in google-train" in split.warning


def test_a_wrong_count_is_an_error_that_says_both_numbers(tiny: Any) -> None:
    tiny.refer([tiny.ref(1, 7, 70, ["a dog", "it"])], [tiny.image(7)], [tiny.annotation(70, 7)])
    with pytest.raises(DataError) as caught:
        open_split(find_suite("refcoco"), "val", tiny.root)
    assert caught.value.message == (
        "refcoco val: 1500 images expected, 1 found; 3811 refs expected, 1 found; 10834 expressions expected, 2 found"
    )
    assert "--allow-partial" in caught.value.hint
    assert caught.value.exit_code == 4
    assert open_split(find_suite("refcoco"), "val", tiny.root, allow_partial=True).counts.expressions == 2


def test_a_figure_that_was_not_verified_says_so(tiny: Any) -> None:
    tiny.refer([tiny.ref(1, 7, 70, ["a dog"])], [tiny.image(7)], [tiny.annotation(70, 7)], folder="refcoco+")
    with pytest.raises(DataError, match=r"10758 expressions expected .*not verified.*, 1 found"):
        open_split(find_suite("refcoco+"), "val", tiny.root)


def test_missing_files_are_an_error_before_anything_is_read(tiny: Any) -> None:
    with pytest.raises(DataError, match=r"refcoco val was not found: no .*refer_seg/refcoco/refs\(unc\)\.p") as caught:
        open_split(find_suite("refcoco"), "val", tiny.root)
    assert "lens-bench show refcoco" in caught.value.hint


def test_layout_does_not_change_the_content(tiny: Any) -> None:
    hashes = set()
    for folder in ("refcoco", "refer_seg/refcoco"):
        tiny.refer([tiny.ref(1, 7, 70, ["a dog"])], [tiny.image(7)], [tiny.annotation(70, 7)], folder=folder)
        hashes.add(open_split(find_suite("refcoco"), "val", tiny.root, allow_partial=True).content_hash)
    assert len(hashes) == 1


def test_rle_parts_are_checked_records(tiny: Any) -> None:
    part = _one(tiny, {"size": [20, 30], "counts": UNCOMPRESSED}).truth.parts[0]
    assert isinstance(part, Rle)
    assert part.counts == COMPRESSED["counts"]
