"""What generated pictures look like: masks are pixels, sizes are kept, splits differ in what they should only."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco

from lens_bench.data.shapes import make
from lens_bench.data.shapes.annotate import trace
from lens_bench.data.shapes.recipes import RECIPES
from lens_bench.data.shapes.vocabulary import HELD_OUT

# pycocotools under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

IMAGES = 40
SPLITS = tuple(RECIPES["shapes"])
# Rough hue in degrees of each colour; white and black go by brightness.
HUES = {"red": 0, "orange": 30, "yellow": 55, "green": 132, "blue": 226, "purple": 282}


class Made:
    """A small part of a split, read back with nothing of ours."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tables = json.loads((folder / "instances.json").read_text())
        self.refs = pickle.loads((folder / "refs(lens).p").read_bytes())
        self.things: dict[int, list[dict]] = {i["id"]: [] for i in self.tables["images"]}
        for annotation in self.tables["annotations"]:
            self.things[annotation["image_id"]].append(annotation)

    def pixels(self, image: dict) -> NDArray[np.int_]:
        return cv2.imread(str(self.folder / "images" / image["file_name"]))[:, :, ::-1].astype(int)

    def parts(self, annotation: dict, image: dict) -> NDArray[np.uint8]:
        """Decoded parts, [H, W, N]."""
        segmentation = annotation["segmentation"]
        is_polygons = isinstance(segmentation[0], list)
        rles = coco.frPyObjects(segmentation, image["height"], image["width"]) if is_polygons else segmentation
        return coco.decode(rles)

    def mask(self, annotation: dict, image: dict) -> NDArray[np.bool_]:
        return self.parts(annotation, image).any(axis=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    root = tmp_path_factory.mktemp("data")
    return {split: Made(make("shapes", split, root, workers=1, images=IMAGES)) for split in SPLITS}


def coloured(pixels: NDArray[np.int_], slack: int = 0) -> NDArray[np.bool_]:
    """Pixels that no background can have: strongly coloured, dark or bright."""
    low, high = pixels.min(axis=2), pixels.max(axis=2)
    return (high - low > 45 + slack) | (high < 67 - slack) | (low > 188 + slack)


@pytest.mark.parametrize("split", [s for s in SPLITS if s != "ood-style"])
def test_masks_are_the_pixels(made: dict[str, Made], split: str) -> None:
    this = made[split]
    for image in this.tables["images"]:
        union = np.zeros((image["height"], image["width"]), dtype=int)
        for annotation in this.things[image["id"]]:
            union += this.mask(annotation, image)
        pixels = this.pixels(image)
        assert pixels.shape == (image["height"], image["width"], 3)
        assert union.max() == 1, "things share no pixel"
        assert np.array_equal(union == 1, coloured(pixels)), image["file_name"]


def test_masks_are_the_pixels_but_for_jpeg(made: dict[str, Made]) -> None:
    this = made["ood-style"]
    for image in this.tables["images"]:
        union = np.any([this.mask(a, image) for a in this.things[image["id"]]], axis=0)
        found = coloured(this.pixels(image))
        kernel = np.ones((9, 9), dtype=np.uint8)
        inside = cv2.erode(union.astype(np.uint8), kernel, borderValue=0) > 0
        outside = cv2.dilate(union.astype(np.uint8), kernel) == 0
        assert found[inside].mean() > 0.97, image["file_name"]
        assert found[outside].mean() < 0.01, image["file_name"]
    assert all(image["file_name"].endswith(".jpg") for image in this.tables["images"])


@pytest.mark.parametrize("split", SPLITS)
def test_things_have_the_colour_they_are_called(made: dict[str, Made], split: str) -> None:
    this = made[split]
    for image in this.tables["images"]:
        pixels = this.pixels(image)
        for annotation in this.things[image["id"]]:
            red, green, blue = np.median(pixels[this.mask(annotation, image)], axis=0)
            assert seen(red, green, blue) == annotation["attributes"]["color"]


def seen(red: float, green: float, blue: float) -> str:
    low, high = min(red, green, blue), max(red, green, blue)
    if high - low < 45:
        return "white" if low > 150 else "black"
    hue = cv2.cvtColor(np.uint8([[[red, green, blue]]]), cv2.COLOR_RGB2HSV)[0, 0, 0] * 2.0
    return min(HUES, key=lambda name: min(abs(hue - HUES[name]), 360 - abs(hue - HUES[name])))


@pytest.mark.parametrize("split", SPLITS)
def test_nothing_is_too_small(made: dict[str, Made], split: str) -> None:
    this = made[split]
    for image in this.tables["images"]:
        short = min(image["height"], image["width"])
        for annotation in this.things[image["id"]]:
            mask = this.mask(annotation, image)
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
            assert min(box[2:]) >= 0.1 * short
            assert annotation["bbox"] == box
            assert annotation["area"] == mask.sum()
            side = np.sqrt(mask.sum()) / short
            assert side > 0.195 if annotation["attributes"]["size"] == "big" else side < 0.195


@pytest.mark.parametrize("split", SPLITS)
def test_pictures_are_as_promised(made: dict[str, Made], split: str) -> None:
    this = made[split]
    sizes = [(i["height"], i["width"]) for i in this.tables["images"]]
    low, high = (256, 384) if split == "ood-style" else (128, 256)
    assert all(low <= side <= high for size in sizes for side in size)
    assert sum(h != w for h, w in sizes) > len(sizes) / 2
    assert all(3 <= len(things) <= 8 for things in this.things.values())
    sentences = [s for ref in this.refs for s in ref["sentences"]]
    assert 4 * IMAGES <= len(sentences) <= 5 * IMAGES
    for ref in this.refs:
        texts = [s["sent"] for s in ref["sentences"]]
        assert 2 <= len(set(texts)) == len(texts) <= 4
        assert all(
            s["raw"].lower().rstrip(".") == s["sent"] and s["tokens"] == s["sent"].split() for s in ref["sentences"]
        )


@pytest.mark.parametrize("split", SPLITS)
def test_the_rationale_names_the_referent(made: dict[str, Made], split: str) -> None:
    this = made[split]
    annotations = {a["id"]: a["attributes"] for a in this.tables["annotations"]}
    for ref in this.refs:
        look = annotations[ref["ann_id"]]
        name = f"{look['size']} {look['color']} {look['shape']}"
        assert all(name in s["rationale"] for s in ref["sentences"])
        assert len(ref["sentences"][0]["rationale"].split()) <= 40


def test_unseen_pairs_are_seen_in_one_split_only(made: dict[str, Made]) -> None:
    for split, this in made.items():
        looks = {a["id"]: (a["attributes"]["shape"], a["attributes"]["color"]) for a in this.tables["annotations"]}
        if split == "ood-combo":
            assert all(looks[ref["ann_id"]] in HELD_OUT for ref in this.refs)
        else:
            assert HELD_OUT.isdisjoint(looks.values())
    assert len({s for s, _ in HELD_OUT}) == len({c for _, c in HELD_OUT}) == len(HELD_OUT) == 8


def test_covered_things_are_annotated_in_every_way(made: dict[str, Made]) -> None:
    ways: Counter[str] = Counter()
    for split, this in made.items():
        for image in this.tables["images"]:
            for annotation in this.things[image["id"]]:
                parts = this.parts(annotation, image).sum(axis=2)
                share = (parts > 1).sum() / (parts > 0).sum()
                if split != "testB":
                    assert share == 0
                    assert len(annotation["segmentation"]) == 1
                    assert isinstance(annotation["segmentation"][0], list)
                    continue
                assert share < 0.12
                ways["overlapping"] += share > 0
                ways["rle"] += isinstance(annotation["segmentation"][0], dict)
                ways["parts"] += len(annotation["segmentation"]) > 1 and share == 0
                ways["whole"] += len(annotation["segmentation"]) == 1
    assert min(ways[w] for w in ("overlapping", "rle", "parts", "whole")) >= 5, ways


def test_the_vocabulary_is_small(made: dict[str, Made]) -> None:
    words: set[str] = set()
    for this in made.values():
        for ref in this.refs:
            for sentence in ref["sentences"]:
                words |= set(sentence["tokens"]) | set(sentence["rationale"].split())
    assert 70 < len(words) <= 120, sorted(words)
    assert all(word.isalpha() and word.islower() for word in words)


def test_tracing_is_exact_and_refuses_holes() -> None:
    rng = np.random.default_rng(0)
    traced = 0
    for _ in range(200):
        mask = rng.random((9, 11)) < 0.45
        polygons = trace(mask)
        if polygons is None:
            continue
        traced += 1
        if not polygons:
            assert not mask.any()
            continue
        parts = coco.decode(coco.frPyObjects(polygons, 9, 11)).sum(axis=2)
        assert np.array_equal(parts, mask.astype(int))
    assert traced > 10
    ring = np.ones((5, 5), dtype=bool)
    ring[2, 2] = False
    assert trace(ring) is None
