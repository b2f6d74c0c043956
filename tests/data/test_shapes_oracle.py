"""Every generated expression has one clear answer: an oracle reads the words themselves and the written annotation.

It shares nothing with the generator: sentences are parsed by a grammar of their own, positions and areas come from
decoding what is on disk, and relations are read in the plainest way (which centre is further left).
"""

from __future__ import annotations

import json
import math
import pickle
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from lens_bench.data.shapes import make

# pycocotools under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross", "heart", "moon")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
SIZE_WORDS = {"small": "small", "little": "small", "big": "big", "large": "big"}
NUMBERS = {w: n for n, w in enumerate(("one", "two", "three", "four", "five", "six", "seven", "eight"), start=1)}
RANKS = {"second": 2, "third": 3}

NOUN = rf"(?:(?:{'|'.join(SIZE_WORDS)}) )?(?:(?:{'|'.join(COLORS)}) )?(?:(?:{'|'.join(SHAPES)})(?:es|s)?|things?)"
DIRECTIONS = {
    "left of": "left",
    "to the left of": "left",
    "on the left side of": "left",
    "right of": "right",
    "to the right of": "right",
    "on the right side of": "right",
    "above": "up",
    "over": "up",
    "higher than": "up",
    "below": "down",
    "under": "down",
    "lower than": "down",
    "closest to": "near",
    "nearest to": "near",
}
RELATION = rf"(?:that is )?(?:{'|'.join(DIRECTIONS)})"
SUPERLATIVES = {
    "biggest": "biggest",
    "largest": "biggest",
    "smallest": "smallest",
    "leftmost": "left",
    "on the far left": "left",
    "rightmost": "right",
    "on the far right": "right",
    "topmost": "top",
    "highest": "top",
    "at the very top": "top",
    "lowest": "bottom",
    "at the very bottom": "bottom",
}
BEFORE = "biggest|largest|smallest|leftmost|rightmost|topmost|highest|lowest"
AFTER = "on the far left|on the far right|at the very top|at the very bottom|that is biggest|that is smallest"


@dataclass(frozen=True)
class Item:
    """One annotated thing, measured on its decoded mask."""

    ann_id: int
    shape: str
    color: str
    size: str
    box: tuple[int, int, int, int]
    area: int

    @property
    def x(self) -> float:
        return (self.box[0] + self.box[2]) / 2

    @property
    def y(self) -> float:
        return (self.box[1] + self.box[3]) / 2


def decode(annotation: dict, height: int, width: int) -> np.ndarray:
    segmentation = annotation["segmentation"]
    rles = coco.frPyObjects(segmentation, height, width) if isinstance(segmentation[0], list) else segmentation
    return coco.decode(coco.merge(rles)).astype(bool)


def measure(annotation: dict, height: int, width: int) -> Item:
    mask = decode(annotation, height, width)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    look = annotation["attributes"]
    return Item(annotation["id"], look["shape"], look["color"], look["size"], box, int(mask.sum()))


# ---------------------------------------------------------------------------------------------- the interpreter


def fitting(noun: str, items: list[Item]) -> list[Item]:
    """Things that a noun phrase, singular or plural, describes."""
    found = items
    for word in noun.split():
        stem = word if word in COLORS or word in SIZE_WORDS else re.sub(r"(?<=cross)es$|s$", "", word)
        stem = "cross" if word == "cross" else stem
        if word in SIZE_WORDS:
            found = [i for i in found if i.size == SIZE_WORDS[word]]
        elif word in COLORS:
            found = [i for i in found if i.color == word]
        elif stem in SHAPES:
            found = [i for i in found if i.shape == stem]
        else:
            assert stem == "thing", word
    return found


def standing(candidates: list[Item], relation: str, anchor: Item) -> list[Item]:
    """Candidates in a relation to an anchor, by centres alone."""
    others = [c for c in candidates if c != anchor]
    way = DIRECTIONS[relation.removeprefix("that is ")]
    if way == "near":
        order = sorted(others, key=lambda c: math.dist((c.x, c.y), (anchor.x, anchor.y)))
        return order[:1]
    ahead = {
        "left": lambda c: c.x < anchor.x,
        "right": lambda c: c.x > anchor.x,
        "up": lambda c: c.y < anchor.y,
        "down": lambda c: c.y > anchor.y,
    }[way]
    return [c for c in others if ahead(c)]


def one(found: list[Item]) -> Item:
    assert len(found) == 1, f"an anchor must be clear, found {found}"
    return found[0]


def far(found: list[Item], end: str) -> Item:
    """The extreme one, by centre and by edge alike; by area with a clear lead."""
    if end in ("biggest", "smallest"):
        order = sorted(found, key=lambda i: i.area, reverse=end == "biggest")
        assert max(order[0].area, order[1].area) >= 1.25 * min(order[0].area, order[1].area), "areas too close"
        return order[0]
    by_center = {"left": lambda i: i.x, "right": lambda i: -i.x, "top": lambda i: i.y, "bottom": lambda i: -i.y}[end]
    side = {"left": 0, "top": 1, "right": 2, "bottom": 3}[end]
    sign = 1 if side < 2 else -1
    first = min(found, key=by_center)
    assert first == min(found, key=lambda i: sign * i.box[side]), "centre and edge disagree"
    return first


def meant(sentence: str, items: list[Item]) -> set[int]:
    """Annotation ids that a sentence means."""
    return {i.ann_id for i in _meant(sentence, items)}


def _meant(sentence: str, items: list[Item]) -> list[Item]:
    for pattern, reading in READINGS:
        match = re.fullmatch(pattern, sentence)
        if match:
            return reading(items, **{k: v for k, v in match.groupdict().items() if v is not None})
    raise AssertionError(f"not understood: {sentence!r}")


def _negation(items, noun, lacks):
    word = lacks.removeprefix("a ")
    excluded = fitting(word if word in SHAPES else f"{word} thing", items)
    return [i for i in fitting(noun, items) if i not in excluded]


def _ordinal(items, noun, rank, side):
    key = {"left": lambda i: i.x, "right": lambda i: -i.x, "top": lambda i: i.y, "bottom": lambda i: -i.y}[side]
    order = sorted(fitting(noun, items), key=key)
    assert len(order) >= 3
    return [order[RANKS[rank] - 1]]


def _superlative(items, noun, end):
    found = fitting(noun, items)
    assert len(found) >= 2
    return [far(found, SUPERLATIVES[end.removeprefix("that is ")])]


def _relation(items, noun, relation, anchor):
    return standing(fitting(noun, items), relation, one(fitting(anchor, items)))


def _chain(items, noun, relation, anchor, second, last):
    middle = one(standing(fitting(anchor, items), second, one(fitting(last, items))))
    return standing(fitting(noun, items), relation, middle)


def _both_relations(items, noun, relation, anchor, second, last):
    first, other = one(fitting(anchor, items)), one(fitting(last, items))
    found = [i for i in fitting(noun, items) if i not in (first, other)]
    return [i for i in standing(found, relation, first) if i in standing(found, second, other)]


def _described(items, head, first, second=""):
    return fitting(" ".join(w for w in (first, second, head) if w), items)


def _pair(items, noun, other):
    return [one(fitting(noun, items)), one(fitting(other, items))]


def _counted(items, number, noun):
    found = fitting(noun, items)
    assert len(found) == NUMBERS.get(number, 2)
    return found


READINGS = (
    (rf"(?:the )?(?P<noun>{NOUN}) (?:that is|which is|but) not (?P<lacks>\w+|a \w+)", _negation),
    (rf"(?:counting from the (?P<side>\w+) )the (?P<rank>second|third) (?P<noun>{NOUN})", _ordinal),
    (rf"(?:the )?(?P<rank>second|third) (?P<noun>{NOUN}) from the (?P<side>\w+)", _ordinal),
    (rf"the (?P<noun>{NOUN}) that is (?P<rank>second|third) from the (?P<side>\w+)", _ordinal),
    (rf"(?:the )?(?P<end>{BEFORE}) (?P<noun>{NOUN})(?: of all)?", _superlative),
    (rf"(?:the )?(?P<noun>{NOUN}) (?P<end>{AFTER})", _superlative),
    (rf"(?:the |all |every )?(?P<noun>{NOUN}) (?P<relation>{RELATION}) the (?P<anchor>{NOUN})", _relation),
    (
        rf"the (?P<noun>{NOUN}) (?P<relation>{RELATION}) the (?P<anchor>{NOUN}) (?:that|which) is "
        rf"(?P<second>{RELATION}) the (?P<last>{NOUN})",
        _chain,
    ),
    (
        rf"the (?P<noun>{NOUN}) (?P<relation>{RELATION}) the (?P<anchor>{NOUN}) and "
        rf"(?P<second>{RELATION}) the (?P<last>{NOUN})",
        _both_relations,
    ),
    (r"the (?P<head>\w+) that is (?P<first>\w+)(?: and (?P<second>\w+))?", _described),
    (rf"(?:both )?(?:the )?(?P<noun>{NOUN}) and (?:the )?(?P<other>{NOUN})", _pair),
    (rf"(?:the )?(?P<number>both|two|three|four|five|six|seven) (?P<noun>{NOUN})", _counted),
    (rf"(?:the |the only |the one |all |every )?(?P<noun>{NOUN})", lambda items, noun: fitting(noun, items)),
)


# ---------------------------------------------------------------------------------------------- on a made-up scene

ROOM = [
    Item(1, "circle", "red", "small", (10, 10, 30, 30), 314),
    Item(2, "circle", "blue", "big", (60, 12, 110, 62), 1963),
    Item(3, "star", "red", "small", (120, 70, 145, 95), 320),
    Item(4, "star", "green", "small", (15, 80, 40, 105), 330),
    Item(5, "circle", "blue", "small", (80, 100, 104, 124), 450),
]


@pytest.mark.parametrize(
    ("sentence", "answer"),
    [
        ("the red circle", {1}),
        ("the thing that is little and red", {1, 3}),
        ("circle", {1, 2, 5}),
        ("large thing", {2}),
        ("the circle that is not blue", {1}),
        ("red thing but not a circle", {3}),
        ("the biggest circle", {2}),
        ("the star on the far right", {3}),
        ("counting from the left the second circle", {2}),
        ("the third circle from the top", {5}),
        ("the star left of the blue thing that is lower than the big circle", {4}),
        ("the thing below the small circle which is nearest to the red star", set()),
        ("the star to the left of the little blue circle", {4}),
        ("the blue circle that is closest to the red star", {5}),
        ("the circle under the big thing and to the left of the red star", {5}),
        ("all circles", {1, 2, 5}),
        ("both stars", {3, 4}),
        ("the three circles", {1, 2, 5}),
        ("the green star and the red circle", {1, 4}),
        ("all small things right of the green star", {3, 5}),
        ("purple moons", set()),
    ],
)
def test_the_oracle_understands(sentence: str, answer: set[int]) -> None:
    assert meant(sentence, ROOM) == answer


def test_the_oracle_notices_a_second_answer() -> None:
    twin = Item(6, "circle", "red", "small", (100, 70, 120, 90), 314)
    assert meant("the red circle", [*ROOM, twin]) == {1, 6}


# ---------------------------------------------------------------------------------------------- on what is made


def load(folder: Path) -> tuple[list[dict], dict[int, list[Item]]]:
    """Refs and measured things by image."""
    tables = json.loads((folder / "instances.json").read_text())
    sizes = {i["id"]: (i["height"], i["width"]) for i in tables["images"]}
    items: dict[int, list[Item]] = {}
    for annotation in tables["annotations"]:
        items.setdefault(annotation["image_id"], []).append(measure(annotation, *sizes[annotation["image_id"]]))
    pickled = folder / "refs(lens).p"
    refs = (
        pickle.loads(pickled.read_bytes())
        if pickled.exists()
        else json.loads((folder / "grefs(lens).json").read_text())
    )
    return refs, items


def check_every_sentence(folder: Path) -> Counter[str]:
    refs, items = load(folder)
    kinds: Counter[str] = Counter()
    for ref in refs:
        ids = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
        targets = {i for i in ids if i != -1}
        kinds[ref["sentences"][0]["kind"]] += 1
        for sentence in ref["sentences"]:
            assert meant(sentence["sent"], items[ref["image_id"]]) == targets, sentence["sent"]
    return kinds


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**40))
@pytest.mark.parametrize("split", ["train", "testB", "ood-combo", "ood-style"])
def test_every_expression_has_one_answer(tmp_path: Path, split: str, seed: int) -> None:
    kinds = check_every_sentence(make("shapes", split, tmp_path, workers=1, seed=seed, images=20))
    assert kinds == dict.fromkeys(("attribute", "superlative", "relation", "ordinal", "negation"), 8)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**40))
def test_two_hops_have_one_answer(tmp_path: Path, seed: int) -> None:
    folder = make("shapes", "ood-hop", tmp_path, workers=1, seed=seed, images=12)
    assert check_every_sentence(folder) == {"relation": 24}
    refs, items = load(folder)
    for ref in refs:
        for sentence in ref["sentences"]:
            assert sentence["hops"] == 2
            assert len(re.findall("|".join(DIRECTIONS), sentence["sent"])) == 2
            # without the second relation the sentence would not do
            head = re.split(r" (?:that is|which is|and) (?=[^.]*$)", sentence["sent"])[0]
            noun = re.match(rf"the ({NOUN})", head)
            assert noun is not None
            assert len(fitting(noun[1], items[ref["image_id"]])) > 1


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**40))
@pytest.mark.parametrize("split", ["train", "testB"])
def test_several_one_or_none(tmp_path: Path, split: str, seed: int) -> None:
    folder = make("shapes-multi", split, tmp_path, workers=1, seed=seed, images=20)
    assert check_every_sentence(folder) == {"multi": 16, "single": 14, "none": 10}
    for ref in load(folder)[0]:
        kind, ids = ref["sentences"][0]["kind"], ref["ann_id"]
        assert {"multi": len(ids) > 1, "single": len(ids) == 1 and ids != [-1], "none": ids == [-1]}[kind]
        assert ref["no_target"] == (kind == "none")
        assert len(ref["category_id"]) == len(ids)
        assert all(s["exist"] == (kind != "none") for s in ref["sentences"])
