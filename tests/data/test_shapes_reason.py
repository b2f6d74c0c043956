"""shapes-reason: the layout of ReasonSeg with its hazards, and queries that an oracle answers from their words."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from lens_bench import masks
from lens_bench.cards import read_suite_card
from lens_bench.data.shapes import make
from lens_bench.data.split import open_split
from lens_bench.registry import home

IMAGES = 120
Things = list[dict[str, Any]]


def middle(thing: dict[str, Any]) -> tuple[float, float]:
    x1, y1, x2, y2 = thing["box"]
    return (x1 + x2) / 2, (y1 + y2) / 2


def of(**look: str) -> Callable[[Things], set[int]]:
    return lambda things: {i for i, t in enumerate(things) if all(t[k] == v for k, v in look.items())}


def best(score: Callable[[dict[str, Any]], float]) -> Callable[[Things], set[int]]:
    return lambda things: {max(range(len(things)), key=lambda i: score(things[i]))}


def alone(things: Things) -> set[int]:
    def room(i: int) -> float:
        return min(math.dist(middle(things[i]), middle(t)) for j, t in enumerate(things) if j != i)

    return {max(range(len(things)), key=room)}


def unlike(things: Things) -> set[int]:
    count = Counter((t["shape"], t["color"]) for t in things)
    return {i for i, t in enumerate(things) if count[t["shape"], t["color"]] == 1}


def cornered(things: Things) -> set[int]:
    corners = {"circle": 0, "triangle": 3, "square": 4, "diamond": 4, "star": 10}
    most = max(corners[t["shape"]] for t in things)
    return {i for i, t in enumerate(things) if corners[t["shape"]] == most}


# Words that give an answer away to somebody who knows the world, and what they mean; the first that is found counts.
CLUES: tuple[tuple[str, Callable[[Things], set[int]]], ...] = (
    ("jalapeño|grass|frog|lawn|cars may drive", of(color="green")),
    ("crème|fresh snow|hide in snow|milk|salt", of(color="white")),
    ("café|coal|raven|night without|ink", of(color="black")),
    ("tomato|stop|wait|[Ff]irefighters", of(color="red")),
    ("sea|sky|without clouds", of(color="blue")),
    ("lemon|chick|banana|sun ", of(color="yellow")),
    ("pumpkin|carrot|Halloween", of(color="orange")),
    ("plum|lavender|mix red", of(color="purple")),
    ("roll|wheel", of(shape="circle")),
    ("in love|affection|Valentine|stands for love", of(shape="heart")),
    ("month|tides|astronauts", of(shape="moon")),
    ("generals|hotels|Christmas", of(shape="star")),
    ("pharmacy|add them", of(shape="cross")),
    ("pizza|pyramid|pharaohs|tent", of(shape="triangle")),
    ("corners|points", cornered),
    ("heaviest|most paint", best(lambda t: t["area"])),
    ("lightest|overlook|disappear", best(lambda t: -t["area"])),
    ("touch the ground|reach the ground|rising water|get wet before", best(lambda t: t["box"][3])),
    ("last to get wet|stay dry|falling snow|started to snow", best(lambda t: -t["box"][1])),
    ("loneliest|keeps away|no neighbour|largest distance", alone),
    ("odd one|belong to the rest|but one are alike|twin|left over", unlike),
)


def answer(text: str, things: Things) -> set[int]:
    for clue, reading in CLUES:
        if re.search(clue, text):
            return reading(things)
    raise AssertionError(f"not understood: {text!r}")


def painted(shape: dict[str, Any], size: tuple[int, int]) -> NDArray[np.uint8]:
    canvas = np.zeros(size, dtype=np.uint8)
    points = np.array(shape["points"]).astype(np.int32)
    cv2.polylines(canvas, [points], True, 1, 1)
    cv2.fillPoly(canvas, [points], 1)
    return canvas


def box_of(mask: NDArray[np.uint8]) -> list[float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


def load(path: Path) -> tuple[dict[str, Any], str]:
    data = path.read_bytes()
    try:
        return json.loads(data.decode("utf-8")), "utf-8"
    except UnicodeDecodeError:
        return json.loads(data.decode("cp1252")), "cp1252"


@pytest.fixture(scope="module", params=["train", "val", "test"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("shapes-reason", request.param, tmp_path_factory.mktemp("data"), workers=1, images=IMAGES)


@pytest.fixture(scope="module")
def files(folder: Path) -> dict[Path, tuple[dict[str, Any], str]]:
    return {path: load(path) for path in sorted(folder.glob("*.json"))}


def test_every_query_has_the_answer_that_is_annotated(files: dict[Path, tuple[dict[str, Any], str]]) -> None:
    asked: Counter[str] = Counter()
    for path, (record, _) in files.items():
        size = (record["imageHeight"], record["imageWidth"])
        boxes = [box_of(painted(s, size)) for s in record["shapes"] if s["label"] == "target"]
        targets = {i for i, t in enumerate(record["things"]) if t["box"] in boxes}
        assert len(targets) == len(boxes) >= 1, path
        for text in record["text"]:
            assert answer(text, record["things"]) == targets, f"{path}: {text}"
        asked[record["concept"]] += 1
    assert len(asked) == 25, "every concept is asked"


def test_queries_are_implicit(files: dict[Path, tuple[dict[str, Any], str]]) -> None:
    for record, _ in files.values():
        boxes = [s for s in record["shapes"] if s["label"] == "target"]
        size = (record["imageHeight"], record["imageWidth"])
        targets = [t for t in record["things"] if t["box"] in [box_of(painted(s, size)) for s in boxes]]
        for text in record["text"]:
            words = set(re.findall(r"\w+", text.lower()))
            assert words.isdisjoint(
                {"left", "right", "top-left", "circle", "square", "triangle", "moon", "cross"} - {"left"}
            )
            assert all(t["shape"] not in words and t["color"] not in words for t in targets), text
            assert record["is_sentence"] == text.endswith("?")


def test_files_have_the_hazards_of_the_real_ones(folder: Path, files: dict[Path, tuple[dict[str, Any], str]]) -> None:
    accented = [encoding for record, encoding in files.values() if not all(t.isascii() for t in record["text"])]
    assert set(accented) == {"utf-8", "cp1252"}
    labels = Counter(s["label"] for record, _ in files.values() for s in record["shapes"])
    assert set(labels) == {"target", "ignore", "flag"}
    assert any(sum(s["label"] == "target" for s in r["shapes"]) > 1 for r, _ in files.values()), "several targets"
    lengths = Counter(len(record["text"]) for record, _ in files.values())
    assert (set(lengths) > {1}) == (folder.name == "train"), "only train has several texts"
    long = sum(record["is_sentence"] for record, _ in files.values())
    assert 0.35 * IMAGES < long < 0.65 * IMAGES
    assert all(path.with_suffix(".jpg").is_file() for path in files)
    assert len(list(folder.iterdir())) == 2 * IMAGES, "nothing else: readers take every file"


def test_ignored_regions_carve_surround_and_stand_apart(files: dict[Path, tuple[dict[str, Any], str]]) -> None:
    found: Counter[str] = Counter()
    for record, _ in files.values():
        size = (record["imageHeight"], record["imageWidth"])
        target = np.zeros(size, dtype=bool)
        for shape in record["shapes"]:
            if shape["label"] == "target":
                target |= painted(shape, size) > 0
        for shape in record["shapes"]:
            if shape["label"] == "ignore":
                ignored = painted(shape, size) > 0
                inside = (ignored & target).sum()
                found["inside" if inside == ignored.sum() else "around" if inside else "apart"] += 1
    assert min(found[k] for k in ("inside", "around", "apart")) >= 2, found


def test_masks_are_the_pixels(folder: Path) -> None:
    """JPEG smears outlines, so what is compared is well inside and well outside."""
    card = read_suite_card(home("suites") / "shapes-reason.yaml")
    kernel = np.ones((7, 7), dtype=np.uint8)
    opened = open_split(card, folder.name, folder.parent.parent, allow_partial=True)
    assert opened.counts.images == IMAGES
    for sample in opened.samples:
        pixels = sample.image.read().astype(int)
        low, high = pixels.min(axis=2), pixels.max(axis=2)
        coloured = (high - low > 40) | (high < 72) | (low > 184)
        target, _, ignore = (masks.decode(m) for m in masks.merge_truth(sample.truth))
        inside = cv2.erode(target.astype(np.uint8), kernel, borderValue=0) > 0
        assert coloured[inside].mean() > 0.98, sample.id
        patch = cv2.erode(ignore.astype(np.uint8), kernel, borderValue=0) > 0
        assert not patch.any() or coloured[patch].mean() < 0.05, sample.id
