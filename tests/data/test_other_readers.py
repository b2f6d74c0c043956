"""PhraseCut, MUSE and MMR, RefCOCOm, RRSIS-D: each format on made-up files, through its card."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from lens_bench.data.split import Split, open_split
from lens_bench.errors import DataError
from lens_bench.masks import area, decode, encode, merge_truth, rle_to_json
from lens_bench.registry import find_suite

SQUARE = [[2, 2], [10, 2], [10, 8], [2, 8]]
OTHER = [[20, 2], [28, 2], [28, 8], [20, 8]]


def _open(tiny: Any, suite: str, split: str) -> Split:
    return open_split(find_suite(suite), split, tiny.root, allow_partial=True)


# ---------------------------------------------------------------------------------------------- PhraseCut


def _task(number: int, image_id: int = 5, **more: Any) -> dict[str, Any]:
    return {
        "task_id": f"{image_id}__{number}", "image_id": image_id, "ann_ids": [1, 2], "phrase": "black cat",
        "instance_boxes": [[2, 2, 8, 6], [20, 2, 8, 6]], "Polygons": [[SQUARE], [OTHER, [[1, 1], [2, 2]]]],
        "phrase_structure": {"name": "cat", "attributes": ["black"], "type": "attribute"}, **more,
    }  # fmt: skip


def _phrasecut(tiny: Any) -> None:
    tiny.json("VGPhraseCut_v0/image_data_split3000.json", [{"image_id": i, "height": 20, "width": 30} for i in (5, 6)])
    tiny.json("VGPhraseCut_v0/refer_val.json", [_task(1), _task(2, instance_boxes=[[2, 2, 8, 6]], Polygons=[[SQUARE]])])
    tiny.json("VGPhraseCut_v0/refer_miniv.json", [_task(3, 6)])


def test_phrasecut_is_the_union_of_all_instances(tiny: Any) -> None:
    _phrasecut(tiny)
    first, second = _open(tiny, "phrasecut", "val").samples
    assert (first.id, first.key, first.tags) == ("phrasecut/val/5__1", "5__1", ("attribute",))
    assert area(merge_truth(first.truth)[0]) == 96
    assert first.truth.box is None
    assert second.truth.box == (2.0, 2.0, 10.0, 8.0)
    assert first.image is second.image


def test_phrasecuts_whole_validation_set_is_val_and_miniv(tiny: Any) -> None:
    _phrasecut(tiny)
    split = _open(tiny, "phrasecut", "val-miniv")
    assert [s.key for s in split.samples] == ["5__1", "5__2", "6__3"]
    (tiny.root / "VGPhraseCut_v0" / "refer_miniv.json").unlink()
    with pytest.raises(DataError, match=r"no refer_miniv\.json"):
        _open(tiny, "phrasecut", "val-miniv")


@pytest.mark.parametrize("folder", ["VGPhraseCut_v0/images", "visual_genome/VG_100K", "visual_genome/VG_100K_2"])
def test_phrasecuts_images_are_found_in_one_folder_or_in_visual_genomes_two(tiny: Any, folder: str) -> None:
    _phrasecut(tiny)
    tiny.picture(f"{folder}/5.jpg")
    assert _open(tiny, "phrasecut", "val").samples[0].image.exists()


def test_phrasecut_names_an_image_it_has_no_size_of(tiny: Any) -> None:
    _phrasecut(tiny)
    tiny.json("VGPhraseCut_v0/refer_val.json", [_task(1, 99)])
    with pytest.raises(DataError, match=r"task 0 .* names image 99"):
        _open(tiny, "phrasecut", "val")


# ---------------------------------------------------------------------------------------------- MUSE and MMR


def _entry(segmentations: list[list[Any]], **more: Any) -> dict[str, Any]:
    return {
        "height": 20, "width": 30, "image_id": 9, "coco_url": "http://images.cocodataset.org/val2017/000000000009.jpg",
        "questions": [f"question {i}?" for i in range(len(segmentations))],
        "answers": [[{"bbox": [2, 2, 8, 6], "segmentation": s} for s in answer] for answer in segmentations], **more,
    }  # fmt: skip


FLAT = [c for point in SQUARE for c in point]
FLAT_OTHER = [c for point in OTHER for c in point]


def test_muse_unites_the_answers_of_a_question(tiny: Any) -> None:
    tiny.json("muse/muse_val.json", [_entry([[[FLAT]], [[FLAT], [FLAT_OTHER], [FLAT]], []])])
    tiny.picture("coco/val2017/000000000009.jpg")
    one, many, none = _open(tiny, "muse", "val").samples
    assert [s.id for s in (one, many, none)] == ["muse/val/0/0", "muse/val/0/1", "muse/val/0/2"]
    assert [s.tags for s in (one, many, none)] == [("few",), ("many",), ("no-target",)]
    assert [area(merge_truth(s.truth)[0]) for s in (one, many, none)] == [48, 96, 0]
    assert (one.truth.box, many.truth.box) == ((2.0, 2.0, 10.0, 8.0), None)
    assert none.truth.no_target
    assert one.image.exists()


def test_muse_names_without_a_folder_are_of_train2014(tiny: Any) -> None:
    tiny.json("muse/muse_val.json", [_entry([[[FLAT]]], file_name="COCO_train2014_000000000009.jpg")])
    tiny.picture("coco/train2014/COCO_train2014_000000000009.jpg")
    assert _open(tiny, "muse", "val").samples[0].image.exists()


@pytest.mark.parametrize("wrapped", [False, True])
def test_mmr_reads_run_lengths(tiny: Any, wrapped: bool) -> None:
    mask = np.zeros((20, 30), dtype=bool)
    mask[1:4, 2:9] = True
    entries = [_entry([[rle_to_json(encode(mask))]], file_name="train2017/000000000009.jpg")]
    tiny.json("MMR/MMR_test_obj_only.json", {"data": entries} if wrapped else entries)
    tiny.picture("refer_seg/images/mscoco/images/train2017/000000000009.jpg")
    sample = _open(tiny, "mmr", "test-obj").samples[0]
    np.testing.assert_array_equal(decode(merge_truth(sample.truth)[0]), mask)
    assert sample.image.exists()
    assert sample.id == "mmr/test-obj/0/0"


def test_questions_and_answers_must_be_as_many(tiny: Any) -> None:
    tiny.json("muse/muse_val.json", [_entry([[[FLAT]]], questions=["a", "b"])])
    with pytest.raises(DataError, match="has 2 questions and 1 answers"):
        _open(tiny, "muse", "val")


# ---------------------------------------------------------------------------------------------- RefCOCOm


def _refcocom(tiny: Any, folder: str = "refer_seg/RefCOCOm", name: str = "testA.json") -> np.ndarray:
    mask = np.zeros((20, 30), dtype=np.uint8)
    mask[1:4, 2:9] = 255
    record = {"img_name": "COCO_train2014_000000000009.jpg", "segment_id": 31, "sentences": [{"sent": "left ear"}]}
    tiny.json(f"{folder}/annotations/{name}", [record])
    (tiny.root / folder / "masks").mkdir()
    Image.fromarray(mask).save(tiny.root / folder / "masks" / "31.png")
    return mask


@pytest.mark.parametrize("folder", ["refer_seg/RefCOCOm", "Refcocom"])
@pytest.mark.parametrize("name", ["testA.json", "refcocom_testa.json"])
def test_refcocom_reads_masks_from_files(tiny: Any, folder: str, name: str) -> None:
    mask = _refcocom(tiny, folder, name)
    sample = _open(tiny, "refcocom", "testA").samples[0]
    assert sample.id == "refcocom/testA/seg31/0"
    np.testing.assert_array_equal(decode(merge_truth(sample.truth)[0]), mask > 0)


def test_refcocoms_content_hash_follows_the_masks(tiny: Any) -> None:
    mask = _refcocom(tiny)
    before = _open(tiny, "refcocom", "testA").content_hash
    mask[0, 0] = 1
    Image.fromarray(mask).save(tiny.root / "refer_seg/RefCOCOm/masks/31.png")
    assert _open(tiny, "refcocom", "testA").content_hash != before


def test_refcocom_names_what_is_wrong_with_a_mask(tiny: Any) -> None:
    _refcocom(tiny)
    path = tiny.root / "refer_seg/RefCOCOm/masks/31.png"
    sample = _open(tiny, "refcocom", "testA").samples[0]
    Image.fromarray(np.zeros((5, 5), dtype=np.uint8)).save(path)
    with pytest.raises(DataError, match=r"31\.png is 5x5, its image 30x20"):
        merge_truth(sample.truth)
    path.unlink()
    with pytest.raises(DataError, match=r"31\.png is missing"):
        _open(tiny, "refcocom", "testA")


def test_refcocom_says_which_files_there_are(tiny: Any) -> None:
    _refcocom(tiny, name="validation.json")
    with pytest.raises(DataError, match="0 files for split 'val'") as caught:
        _open(tiny, "refcocom", "val")
    assert "validation.json" in caught.value.hint


# ---------------------------------------------------------------------------------------------- RRSIS-D


def test_rrsis_d_is_refer_with_lists_of_run_lengths(tiny: Any) -> None:
    mask = np.zeros((20, 30), dtype=bool)
    mask[1:4, 2:9] = True
    tiny.refer(
        [tiny.ref(1, 7, 70, ["a plane on the left"], split="test")], [tiny.image(7, name="00007.jpg")],
        [tiny.annotation(70, 7, [rle_to_json(encode(mask))])], folder="rrsisd",
    )  # fmt: skip
    tiny.picture("images/rrsisd/JPEGImages/00007.jpg")
    sample = _open(tiny, "rrsis-d", "test").samples[0]
    assert sample.id == "rrsis-d/unc/test/ref1/sent10"
    assert sample.image.exists()
    np.testing.assert_array_equal(decode(merge_truth(sample.truth)[0]), mask)


def test_refcocom_passes_by_what_macos_leaves_and_stays_in_its_folder(tiny: Any) -> None:
    _refcocom(tiny)
    (tiny.root / "refer_seg/RefCOCOm/annotations/._testA.json").write_bytes(b"\x00\x05\x16\x07")
    assert len(_open(tiny, "refcocom", "testA").samples) > 0
    path = tiny.root / "refer_seg/RefCOCOm/annotations/testA.json"
    path.write_text(path.read_text().replace("31", '"' + "x" * 3000 + '"'))
    with pytest.raises(DataError, match="no file can have the name"):
        _open(tiny, "refcocom", "testA")
