"""Overlap of images between splits and sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lens_bench.data.audit import audit, image_identity
from lens_bench.data.images import ImageFile
from lens_bench.data.split import Split, open_split
from lens_bench.records import GroundTruth, Sample
from lens_bench.registry import find_suite


@pytest.mark.parametrize(
    ("name", "identity"),
    [
        ("a/train2014/COCO_train2014_000000581857.jpg", "coco:581857"),
        ("b/COCO_val2014_000000581857.jpg", "coco:581857"),
        ("train2017/000000581857.jpg", "coco:581857"),
        ("unlabeled2017/000000000267.jpg", "coco:267"),
        ("COCO_train2014_000000581857_16.jpg", "coco:581857"),
        ("VG_100K/581857.jpg", "file:581857.jpg"),
        ("a/00007.jpg", "file:00007.jpg"),
        ("b/00007.jpg", "file:00007.jpg"),
    ],
)
def test_an_image_is_the_same_wherever_it_lies(name: str, identity: str) -> None:
    assert image_identity(Sample("s", "other id", ImageFile(Path(name)), "x", GroundTruth((1, 1)))) == identity


def _splits(tiny: Any) -> list[Split]:
    """RefCOCO: train 1-4, val 5, 6. RefCOCOg: train 5, 7, 8, val 2, 9."""
    for suite, by, train, val in (("refcoco", "unc", (1, 2, 3, 4), (5, 6)), ("refcocog", "umd", (5, 7, 8), (2, 9))):
        refs = [tiny.ref(i, i, i, ["x", "y"], split="train") for i in train]
        refs += [tiny.ref(i, i, i, ["x"], split="val") for i in val]
        ids = [*train, *val]
        tiny.refer(
            refs, [tiny.image(i) for i in ids], [tiny.annotation(i, i) for i in ids], folder=suite, name=f"refs({by}).p"
        )
    return [
        open_split(find_suite(suite), split, tiny.root, allow_partial=True)
        for suite in ("refcoco", "refcocog")
        for split in ("train", "val")
    ]


def test_the_train_split_of_one_set_is_checked_against_the_evaluation_splits_of_all(tiny: Any) -> None:
    report = audit(_splits(tiny))
    assert report.train == ("refcoco/train", "refcocog/train")
    assert dict(report.images) == {"refcoco/train": 4, "refcoco/val": 2, "refcocog/train": 3, "refcocog/val": 2}
    shared = {(o.first, o.second): o.images for o in report.overlaps}
    assert len(shared) == 12
    assert {pair: n for pair, n in shared.items() if n} == {
        ("refcoco/train", "refcocog/val"): 1,
        ("refcocog/val", "refcoco/train"): 1,
        ("refcoco/val", "refcocog/train"): 1,
        ("refcocog/train", "refcoco/val"): 1,
    }
    assert dict(report.drop) == {"refcoco/train": ("2",), "refcocog/train": ("5",)}
    assert report.drop_images == ("coco:2", "coco:5")
    of = {(o.first, o.second): o.of_second for o in report.overlaps}
    assert of["refcoco/train", "refcocog/val"] == 0.5
    assert of["refcocog/val", "refcoco/train"] == 0.25


def test_what_is_trained_on_can_be_said(tiny: Any) -> None:
    report = audit(_splits(tiny), train=["refcoco/val"])
    assert report.train == ("refcoco/val",)
    assert dict(report.drop) == {"refcoco/val": ("5",)}


def test_googles_train_split_is_a_training_split(tiny: Any) -> None:
    refs = [tiny.ref(1, 1, 1, ["x"], split="train"), tiny.ref(2, 1, 1, ["x"], split="val")]
    tiny.refer(refs, [tiny.image(1)], [tiny.annotation(1, 1)], folder="refcocog", name="refs(google).p")
    card = find_suite("refcocog")
    splits = [open_split(card, s, tiny.root, allow_partial=True) for s in ("google-train", "google-val")]
    report = audit(splits)
    assert report.train == ("refcocog/google-train",)
    assert dict(report.drop) == {"refcocog/google-train": ("1",)}


def test_the_report_is_written_as_json(tiny: Any) -> None:
    report = audit(_splits(tiny))
    path = tiny.root / "out" / "audit.json"
    report.write(path)
    content = json.loads(path.read_text())
    assert content["schema_version"] == 1
    assert content["drop"] == {"refcoco/train": ["2"], "refcocog/train": ["5"]}
    assert content["drop_images"] == ["coco:2", "coco:5"]
    assert content == report.to_json()


def test_clean_splits_drop_nothing(tiny: Any) -> None:
    refcoco = [s for s in _splits(tiny) if s.suite.name == "refcoco"]
    report = audit(refcoco)
    assert dict(report.drop) == {"refcoco/train": ()}
    assert report.drop_images == ()
