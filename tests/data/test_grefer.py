"""gRefCOCO and Ref-ZOM: several targets, one, none."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from lens_bench.data import grefer, ref_zom
from lens_bench.data.split import open_split
from lens_bench.errors import DataError
from lens_bench.masks import area, merge_parts
from lens_bench.records import Polygon, Sample
from lens_bench.registry import find_suite

OTHER = [20.0, 2.0, 28.0, 2.0, 28.0, 8.0, 20.0, 8.0]
REFS = "grefs(unc).json"


def _tree(tiny: Any) -> tuple[list[Any], list[Any], list[Any]]:
    refs = [
        tiny.ref(1, 7, [70, 71], ["both dogs"]),
        tiny.ref(2, 7, [-1], ["a cat", "the cat"], no_target=True),
        tiny.ref(3, 7, [71], ["the right one"]),
        tiny.ref(4, 7, [72], ["a crowd"]),
        tiny.ref(5, 7, [73], ["a sliver"]),
    ]
    annotations = [
        tiny.annotation(70, 7),
        tiny.annotation(71, 7, [OTHER]),
        tiny.annotation(72, 7, {"size": [20, 30], "counts": [600]}, iscrowd=1),
        tiny.annotation(73, 7, [[1, 1, 2, 2], OTHER]),
    ]
    return refs, [tiny.image(7)], annotations


def _read(tiny: Any, reader: Any = grefer, name: str = REFS, role: str = "refs", **options: Any) -> dict[str, Sample]:
    files = tiny.refer(*_tree(tiny), folder="grefcoco", name=name)
    source = tiny.source({role: files["refs"], "instances": files["instances"]}, options=options)
    return {s.key or "": s for s in reader.read(source)}


def test_several_targets_are_one_ground_truth(tiny: Any) -> None:
    sample = _read(tiny)["10"]
    assert sample.id == "tiny/unc/val/ref1/sent10"
    assert sample.tags == ("multi-target",)
    assert len(sample.truth.parts) == 2
    assert area(merge_parts(sample.truth.parts, (20, 30))[0]) == 2 * 48
    assert sample.truth.box is None
    assert not sample.truth.no_target


def test_minus_one_means_no_target(tiny: Any) -> None:
    samples = _read(tiny)
    for key in ("20", "21"):
        assert samples[key].truth.no_target
        assert samples[key].truth.parts == ()
        assert samples[key].tags == ("no-target",)
        assert samples[key].truth.size == (20, 30)
    assert samples["20"].truth is samples["21"].truth


def test_a_single_target_keeps_its_box(tiny: Any) -> None:
    sample = _read(tiny)["30"]
    assert sample.truth.box == (2.0, 2.0, 10.0, 8.0)
    assert sample.tags == ("single-target",)


def test_crowds_are_skipped_and_slivers_dropped_but_they_stay_targets(tiny: Any) -> None:
    samples = _read(tiny)
    assert samples["40"].truth.parts == ()
    assert not samples["40"].truth.no_target
    assert samples["50"].truth.parts == (Polygon(tuple(OTHER)),)


def test_pickle_and_json_give_the_same(tiny: Any) -> None:
    from_json = _read(tiny)
    from_pickle = _read(tiny, name="grefs(unc).p", role="refs_pickle")
    assert {k: (s.id, s.truth) for k, s in from_json.items()} == {k: (s.id, s.truth) for k, s in from_pickle.items()}


def test_the_pickle_is_read_where_both_are_there(tiny: Any) -> None:
    refs, images, annotations = _tree(tiny)
    tiny.refer(refs[:1], images, annotations, folder="refer_seg/grefcoco", name=REFS)
    tiny.refer(refs, images, annotations, folder="refer_seg/grefcoco", name="grefs(unc).p")
    split = open_split(find_suite("grefcoco"), "val", tiny.root, allow_partial=True)
    assert split.counts.expressions == 6
    assert split.source.images is not None


def test_neither_file_is_an_error_that_names_both(tiny: Any) -> None:
    refs, images, annotations = _tree(tiny)
    tiny.refer(refs, images, annotations, folder="grefcoco", name="other.json")
    with pytest.raises(DataError, match=r"neither grefs\(unc\)\.p nor grefs\(unc\)\.json"):
        open_split(find_suite("grefcoco"), "val", tiny.root)


def test_an_annotation_on_another_image_is_refused(tiny: Any) -> None:
    """Numbers of a merged set may be taken: it would be drawn on the wrong image."""
    refs, images, annotations = _tree(tiny)
    annotations[1]["image_id"] = 8
    files = tiny.refer(refs, [*images, tiny.image(8)], annotations, folder="grefcoco", name=REFS)
    source = tiny.source({"refs": files["refs"], "instances": files["instances"]})
    with pytest.raises(DataError, match=r"ref 1 of .* is about image 7, but its annotation 71 is on image 8"):
        list(grefer.read(source))


def test_an_annotation_that_is_not_there_is_named(tiny: Any) -> None:
    files = tiny.refer([tiny.ref(1, 7, [70, 99], ["x"])], [tiny.image(7)], [tiny.annotation(70, 7)], name=REFS)
    with pytest.raises(DataError, match="names annotation 99"):
        list(grefer.read(tiny.source(files)))


# ---------------------------------------------------------------------------------------------- Ref-ZOM


def _zom(tiny: Any) -> dict[str, Any]:
    refs = [
        tiny.ref(1, 7, [70, 71], ["both"], split="test", source="many"),
        tiny.ref(2, 7, 70, ["one"], split="test", source="one"),
        tiny.ref(3, 7, [71], ["nothing"], split="test", source="zero"),
    ]
    annotations = [tiny.annotation(70, 7), tiny.annotation(71, 7, [OTHER])]
    return tiny.refer(refs, [tiny.image(7)], annotations, folder="ref-zom", name="refs(final).p")


def test_ref_zoms_source_says_what_is_meant_whatever_is_listed(tiny: Any) -> None:
    source = tiny.source(_zom(tiny), options={"split": "test", "split_by": "final"})
    samples = list(ref_zom.read(source))
    assert [s.tags for s in samples] == [("many",), ("one",), ("zero",)]
    assert [s.truth.no_target for s in samples] == [False, False, True]
    assert [len(s.truth.parts) for s in samples] == [2, 1, 0]
    assert samples[0].id == "tiny/final/test/ref1/sent10"


@pytest.mark.parametrize("folder", ["trainval2014", "coco/train2014", "images/train2014"])
def test_ref_zoms_images_are_found_merged_or_by_year(tiny: Any, folder: str) -> None:
    _zom(tiny)
    tiny.picture(f"{folder}/COCO_train2014_000000000007.jpg")
    split = open_split(find_suite("ref-zom"), "test", tiny.root, allow_partial=True)
    assert split.samples[0].image.exists()


def test_a_ref_without_a_source_is_refused(tiny: Any) -> None:
    files = _zom(tiny)
    refs = pickle.loads(files["refs"].read_bytes())
    del refs[0]["source"]
    files["refs"].write_bytes(pickle.dumps(refs, 2))
    with pytest.raises(DataError, match=r"ref 1 .* has no field 'source'"):
        list(ref_zom.read(tiny.source(files, options={"split": "test", "split_by": "final"})))
