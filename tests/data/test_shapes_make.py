"""Making generated suites: the layouts, the same bytes however they are made, all or nothing."""

from __future__ import annotations

import hashlib
import json
import pickle
import pickletools
from pathlib import Path

import cv2
import numpy as np
import pytest

from lens_bench.cards import read_suite_card
from lens_bench.data import shapes
from lens_bench.data.shapes.recipes import RECIPES, VERSION
from lens_bench.data.split import open_split
from lens_bench.errors import DataError, UsageError
from lens_bench.records import Polygon, Rle
from lens_bench.registry import home


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file's bytes."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def record(folder: Path) -> dict:
    return json.loads(folder.with_name(folder.name + ".made.json").read_text())


@pytest.mark.parametrize("suite", list(RECIPES))
def test_workers_do_not_matter(tmp_path: Path, suite: str) -> None:
    alone = shapes.make(suite, "val", tmp_path / "a", workers=1, images=130)
    together = shapes.make(suite, "val", tmp_path / "b", workers=2, images=130)
    assert contents(alone) == contents(together)
    assert record(alone) == record(together)


def test_a_picture_does_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    few = contents(shapes.make("shapes", "testB", tmp_path / "a", workers=1, images=3) / "images")
    many = contents(shapes.make("shapes", "testB", tmp_path / "b", workers=1, images=6) / "images")
    assert few.items() < many.items()


def test_seeds_and_splits_differ(tmp_path: Path) -> None:
    digests = {
        record(shapes.make("shapes", split, tmp_path, workers=1, seed=seed, images=3))["pixels_sha256"]
        for split in ("val", "testA")
        for seed in (1, 2)
    }
    assert len(digests) == 4


def test_the_refer_layout(tmp_path: Path) -> None:
    folder = shapes.make("shapes", "testB", tmp_path, workers=1, images=12)
    raw = (folder / "refs(lens).p").read_bytes()
    opcodes = [(o.name, arg) for o, arg, _ in pickletools.genops(raw)]
    assert opcodes[0] == ("PROTO", 2)
    assert not {name for name, _ in opcodes} & {"GLOBAL", "STACK_GLOBAL", "REDUCE", "INST", "OBJ", "NEWOBJ"}
    refs = pickle.loads(raw)
    tables = json.loads((folder / "instances.json").read_text())
    images = {i["id"]: i for i in tables["images"]}
    annotations = {a["id"]: a for a in tables["annotations"]}
    for ref in refs:
        assert annotations[ref["ann_id"]]["image_id"] == ref["image_id"]
        assert annotations[ref["ann_id"]]["category_id"] == ref["category_id"]
        assert ref["split"] == "testB"
        assert ref["sent_ids"] == [s["sent_id"] for s in ref["sentences"]]
        image = images[ref["image_id"]]["file_name"]
        assert image == f"COCO_shapes_testB_{ref['image_id']:012d}.png"
        assert ref["file_name"].startswith(image.removesuffix(".png") + "_"), "suffixed, as in the real files"
        assert (folder / "images" / image).is_file()
    sent_ids = [i for ref in refs for i in ref["sent_ids"]]
    assert len(set(sent_ids)) == len(sent_ids)
    assert len({ref["ref_id"] for ref in refs}) == len(refs)


def test_the_real_reader_reads_it(tmp_path: Path) -> None:
    card = read_suite_card(home("suites") / "shapes.yaml")
    folder = shapes.make("shapes", "testB", tmp_path, workers=1, images=60)
    opened = open_split(card, "testB", tmp_path, allow_partial=True)
    assert (opened.counts.images, opened.counts.refs) == (60, 120)
    assert opened.counts.expressions == record(folder)["expressions"]
    kinds = {type(p) for s in opened.samples for p in s.truth.parts}
    assert kinds == {Polygon, Rle}
    assert all(s.image.read().shape[:2] == s.truth.size for s in opened.samples)


def test_image_ids_of_splits_never_meet(tmp_path: Path) -> None:
    seen: set[int] = set()
    for split in RECIPES["shapes"]:
        folder = shapes.make("shapes", split, tmp_path, workers=1, images=2)
        ids = {i["id"] for i in json.loads((folder / "instances.json").read_text())["images"]}
        assert not ids & seen
        seen |= ids


def test_progress_counts_up(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    shapes.make("shapes", "val", tmp_path, workers=1, images=90, progress=lambda *c: calls.append(c))
    assert calls[-1] == (90, 90)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interruption_leaves_nothing(tmp_path: Path, workers: int) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shapes.make("shapes", "val", tmp_path, workers=workers, images=200, progress=stop)
    assert list((tmp_path / "shapes").iterdir()) == []
    assert not shapes.is_made("shapes", "val", tmp_path)


def test_an_interruption_keeps_what_was_there(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    folder = shapes.make("shapes", "val", tmp_path, workers=1, images=3)
    before = contents(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        shapes.make("shapes", "val", tmp_path, workers=1, images=3, seed=5, progress=stop)
    assert contents(tmp_path) == before
    shapes.make("shapes", "val", tmp_path, workers=1, images=3, seed=5)
    assert contents(tmp_path) != before
    assert folder.is_dir()


def test_is_made_wants_the_whole_split_of_this_version(tmp_path: Path) -> None:
    assert not shapes.is_made("shapes-reason", "val", tmp_path)
    shapes.make("shapes-reason", "val", tmp_path, workers=1, images=5)
    assert not shapes.is_made("shapes-reason", "val", tmp_path), "five images are not the split"
    folder = shapes.make("shapes-reason", "val", tmp_path, workers=1)
    assert shapes.is_made("shapes-reason", "val", tmp_path)
    path = folder.with_name("val.made.json")
    path.write_text(path.read_text().replace(f'"version": {VERSION}', f'"version": {VERSION + 1}'))
    assert not shapes.is_made("shapes-reason", "val", tmp_path)


@pytest.mark.parametrize(("suite", "split"), [("shapes", "ood-style"), ("shapes", "testB"), ("shapes-reason", "val")])
def test_verify_notices_one_pixel(tmp_path: Path, suite: str, split: str) -> None:
    folder = shapes.make(suite, split, tmp_path, workers=1, images=4)
    assert shapes.verify(suite, split, tmp_path) == 4
    path = next(p for p in sorted(folder.rglob("*")) if p.suffix in (".png", ".jpg"))
    pixels = cv2.imread(str(path))
    pixels[0, 0] ^= 255
    cv2.imwrite(str(path), pixels)
    with pytest.raises(DataError, match=f"{suite} {split}"):
        shapes.verify(suite, split, tmp_path)


def test_verify_names_a_broken_file_and_a_missing_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="shapes val is not made"):
        shapes.verify("shapes", "val", tmp_path)
    folder = shapes.make("shapes", "val", tmp_path, workers=1, images=2)
    path = min((folder / "images").iterdir())
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=path.name):
        shapes.verify("shapes", "val", tmp_path)


def test_unknown_names_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'forms' is not a generated suite"):
        shapes.splits("forms")
    with pytest.raises(UsageError, match="no split 'test'"):
        shapes.make("shapes", "test", tmp_path)


@pytest.mark.parametrize("suite", list(RECIPES))
def test_the_card_and_the_generator_agree(suite: str) -> None:
    card = read_suite_card(home("suites") / f"{suite}.yaml")
    assert tuple(card.splits) == shapes.splits(suite)
    assert card.generated
    for split, entry in card.splits.items():
        assert entry.expected.images == RECIPES[suite][split].images
        assert len(entry.content_hash) == 64


@pytest.mark.parametrize(
    ("suite", "split"), [("shapes", "val"), ("shapes", "testB"), ("shapes-multi", "val"), ("shapes-reason", "val")]
)
def test_the_card_names_what_is_made(tmp_path: Path, suite: str, split: str) -> None:
    card = read_suite_card(home("suites") / f"{suite}.yaml")
    shapes.make(suite, split, tmp_path, workers=2)
    opened = open_split(card, split, tmp_path)
    assert opened.content_hash == card.splits[split].content_hash
    shapes.verify(suite, split, tmp_path)


def test_pictures_differ(tmp_path: Path) -> None:
    folder = shapes.make("shapes", "train", tmp_path, workers=1, images=30)
    thumbnails = [cv2.resize(cv2.imread(str(p)), (16, 16)).astype(int) for p in (folder / "images").iterdir()]
    gaps = [np.abs(a - b).mean() for i, a in enumerate(thumbnails) for b in thumbnails[:i]]
    assert min(gaps) > 5
