"""What ``shapes-reason`` asks: queries that name no shape, colour or place of what they mean.

A concept knows which things of a scene it means, and says so in phrases and in whole sentences. It answers None where
two people could disagree.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from lens_bench.data.shapes.query import in_order
from lens_bench.data.shapes.scene import Thing
from lens_bench.records import Size

Choice = Callable[[Sequence[Thing], Size], tuple[int, ...] | None]

# Hearts, moons and crosses are left out: people count their corners differently.
CORNERS: Final = {"circle": 0, "triangle": 3, "square": 4, "diamond": 4, "star": 10}
_CLEARLY: Final = 1.5  # ratio of areas or distances that leaves no doubt


@dataclass(frozen=True, slots=True)
class Concept:
    """One implicit query.

    Attributes:
        name: For the annotation.
        choose: Indices of what is meant, in scenes where that is clear.
        phrases: Short forms for one thing.
        sentences: Long forms for one thing.
        many: Short forms for several things; without them the concept means one thing only.
        many_sentences: Long forms for several.
        cast: How the scene is filled: ``free``, ``odd`` (all alike but one) or ``twins`` (pairs and a single one).
    """

    name: str
    choose: Choice
    phrases: tuple[str, ...]
    sentences: tuple[str, ...]
    many: tuple[str, ...] = ()
    many_sentences: tuple[str, ...] = ()
    cast: str = "free"

    def texts(self, count: int, long: bool) -> tuple[str, ...]:
        """The forms for ``count`` things; empty where there are none."""
        if count == 1:
            return self.sentences if long else self.phrases
        return self.many_sentences if long else self.many


def _shape(*shapes: str, never: tuple[str, ...] = ()) -> Choice:
    def choose(things: Sequence[Thing], size: Size) -> tuple[int, ...] | None:
        if any(t.shape in never for t in things):
            return None
        return tuple(i for i, t in enumerate(things) if t.shape in shapes)

    return choose


def _color(color: str, never: tuple[str, ...] = ()) -> Choice:
    def choose(things: Sequence[Thing], size: Size) -> tuple[int, ...] | None:
        if any(t.color in never for t in things):
            return None
        return tuple(i for i, t in enumerate(things) if t.color == color)

    return choose


def _most_corners(things: Sequence[Thing], size: Size) -> tuple[int, ...] | None:
    if any(t.shape not in CORNERS for t in things):
        return None
    most = max(CORNERS[t.shape] for t in things)
    return tuple(i for i, t in enumerate(things) if CORNERS[t.shape] == most)


def _by_area(largest: bool) -> Choice:
    def choose(things: Sequence[Thing], size: Size) -> tuple[int, ...] | None:
        order = sorted(range(len(things)), key=lambda i: things[i].area, reverse=largest)
        less, more = sorted((things[order[0]].area, things[order[1]].area))
        return (order[0],) if more >= _CLEARLY * less else None

    return choose


def _first_from(side: str) -> Choice:
    def choose(things: Sequence[Thing], size: Size) -> tuple[int, ...] | None:
        order = in_order(things, range(len(things)), side, size)
        return (order[0],) if order else None

    return choose


def _loneliest(things: Sequence[Thing], size: Size) -> tuple[int, ...] | None:
    """The thing whose nearest neighbour is the farthest."""
    nearest = [min(math.dist(a.center, b.center) for j, b in enumerate(things) if j != i) for i, a in enumerate(things)]
    order = sorted(range(len(things)), key=lambda i: -nearest[i])
    return (order[0],) if nearest[order[0]] >= _CLEARLY * nearest[order[1]] else None


def _unlike(things: Sequence[Thing], size: Size) -> tuple[int, ...] | None:
    """The one thing that nothing else is like in shape and colour."""
    count = Counter((t.shape, t.color) for t in things)
    single = tuple(i for i, t in enumerate(things) if count[t.shape, t.color] == 1)
    return single if len(single) == 1 else None


CONCEPTS: Final[tuple[Concept, ...]] = (
    Concept(
        "roll",
        _shape("circle"),
        ("the one that could roll away", "something that would make a good wheel"),
        (
            "Which object would roll away if the picture were tilted?",
            "If you had to build a cart and needed a wheel, which of these would you take?",
        ),
        ("everything that could roll away", "things that would make good wheels"),
        (
            "Which of these objects would roll away if the picture were tilted?",
            "If you had to build a cart, which of these could you use for its wheels?",
        ),
    ),
    Concept(
        "love",
        _shape("heart"),
        ("the one people draw when they are in love", "the sign of affection"),
        (
            "Which of these would you draw on a card for Valentine's Day?",
            "What in this picture stands for love?",
        ),
        ("the ones people draw when they are in love",),
        ("Which of these would you draw on cards for Valentine's Day?",),
    ),
    Concept(
        "night",
        _shape("moon"),
        ("the one that changes its form over a month", "what tides follow"),
        (
            "Which object looks like something that lights the night and pulls the tides?",
            "What here reminds you of the place where astronauts first walked outside the Earth?",
        ),
    ),
    Concept(
        "flag",
        _shape("star"),
        ("the one that is given to generals and good hotels", "what a child would put on top of a Christmas tree"),
        (
            "Good hotels have five of them on their sign: which object is it?",
            "Which of these would you put on the top of a Christmas tree?",
        ),
    ),
    Concept(
        "first aid",
        _shape("cross"),
        ("the sign that marks a pharmacy", "what you write between two numbers to add them"),
        (
            "Which object looks like the sign you would look for if you needed a pharmacy?",
            "Which of these would you write between two numbers to add them up?",
        ),
    ),
    Concept(
        "three sides",
        _shape("triangle"),
        ("the one that looks like a slice of pizza", "the outline of a pyramid"),
        (
            "Which object has the outline of the buildings in which pharaohs were buried?",
            "Seen from the side, a tent has this form: which object is it?",
        ),
        ("the ones that look like slices of pizza",),
        ("Which objects have the outline of the buildings in which pharaohs were buried?",),
    ),
    Concept(
        "corners",
        _most_corners,
        ("the shape with the most corners", "the one with more points than any other"),
        (
            "If you counted the corners of every object, for which one would you count longest?",
            "Which object has more corners than all the others?",
        ),
    ),
    Concept(
        "stop",
        _color("red"),
        ("what has the colour of a ripe tomato", "the one in the colour that tells drivers to stop"),
        (
            "Which object has the colour at which cars have to wait?",
            "Firefighters paint their cars like this: which object is it?",
        ),
        ("the ones in the colour that tells drivers to stop",),
        ("Which objects have the colour at which cars have to wait?",),
    ),
    Concept(
        "grass",
        _color("green"),
        ("what has the colour of fresh grass", "the one painted like a frog"),
        (
            "Which object would be hardest to find on a lawn?",
            "Which object has the colour at which cars may drive?",
        ),
        ("the ones that would be hard to find on a lawn",),
        ("Which objects would be hardest to find on a lawn?",),
    ),
    Concept(
        "sky",
        _color("blue"),
        ("what has the colour of the sea on a sunny day", "the one in the colour of the sky at noon"),
        (
            "Which object has the colour that you see when you look up on a day without clouds?",
            "Which object would you choose if you were to paint the sea?",
        ),
        ("the ones in the colour of the sky at noon",),
        ("Which objects have the colour that you see when you look up on a day without clouds?",),
    ),
    Concept(
        "lemon",
        _color("yellow", never=("orange",)),
        ("what has the colour of a lemon", "the one painted like a young chick"),
        (
            "Which object has the colour of a ripe banana?",
            "Children paint the sun like this: which object has that colour?",
        ),
        ("the ones in the colour of a lemon",),
        ("Which objects have the colour of a ripe banana?",),
    ),
    Concept(
        "pumpkin",
        _color("orange", never=("yellow", "red")),
        ("what has the colour of a pumpkin", "the one painted like a carrot"),
        (
            "Which object has the colour of a carrot?",
            "Which object has the colour of what is carved for Halloween?",
        ),
    ),
    Concept(
        "plum",
        _color("purple"),
        ("what has the colour of a ripe plum", "the one in the colour of lavender"),
        (
            "Which object has the colour you get when you mix red and blue paint?",
            "Which object would be hardest to find in a field of lavender?",
        ),
        ("the ones in the colour of lavender",),
        ("Which objects have the colour you get when you mix red and blue paint?",),
    ),
    Concept(
        "snow",
        _color("white"),
        ("what could hide in snow", "the one in the colour of milk"),
        ("Which object would be hardest to find in fresh snow?", "Which object has the colour of salt and sugar?"),
        ("the ones that could hide in snow",),
        ("Which objects would be hardest to find in fresh snow?",),
    ),
    Concept(
        "coal",
        _color("black"),
        ("what has the colour of coal", "the one that a raven looks like"),
        (
            "Which object would be hardest to find in a night without a light?",
            "Which object has the colour of the ink in most books?",
        ),
        ("the ones in the colour of coal",),
        ("Which objects would be hardest to find in a night without a light?",),
    ),
    Concept(
        "heaviest",
        _by_area(largest=True),
        ("the heaviest, if all are cut from the same board", "the one that needs the most paint"),
        (
            "If all of them were cut from the same board, which one would be the heaviest?",
            "Which object would take the most paint to cover?",
        ),
    ),
    Concept(
        "lightest",
        _by_area(largest=False),
        ("the one that is easiest to overlook", "the lightest, if all are cut from the same board"),
        (
            "If all of them were cut from the same board, which one would be the lightest?",
            "Which object would be the first to disappear from sight if you walked away?",
        ),
    ),
    Concept(
        "falls first",
        _first_from("bottom"),
        ("the first to touch the ground if all of them fell", "the one that rising water would reach first"),
        (
            "If everything in the picture started to fall, which object would reach the ground first?",
            "If water rose slowly in this picture, which object would get wet before the others?",
        ),
    ),
    Concept(
        "stays dry",
        _first_from("top"),
        ("the last to get wet if water rose from below", "the one that falling snow would reach first"),
        (
            "If water rose slowly in this picture, which object would stay dry for the longest time?",
            "If it started to snow, which object would be the first to be hit?",
        ),
    ),
    Concept(
        "loneliest",
        _loneliest,
        ("the loneliest one", "the one that keeps away from the others"),
        (
            "One of the objects has no neighbour anywhere near: which one is it?",
            "Which object keeps the largest distance from all the others?",
        ),
    ),
    Concept(
        "odd",
        _unlike,
        ("the odd one out", "the one that does not belong to the rest"),
        ("All objects but one are alike: which one is different?", "Which object does not belong to the rest?"),
        cast="odd",
    ),
    Concept(
        "no twin",
        _unlike,
        ("the one without a twin", "the one that is left over when all are sorted in pairs"),
        (
            "When objects that look alike are put together in pairs, which one is left over?",
            "Every object has a twin except for one: which one is it?",
        ),
        cast="twins",
    ),
)

# Asked now and then in every split, so that each has files in which the encoding matters.
ACCENTED: Final[tuple[Concept, ...]] = (
    Concept(
        "jalapeño",
        _color("green"),
        ("what has the colour of a jalapeño",),
        ("Which object has the colour of a fresh jalapeño?",),
    ),
    Concept(
        "crème fraîche",
        _color("white"),
        ("what has the colour of crème fraîche",),
        ("Which object has the colour of crème fraîche?",),
    ),
    Concept(
        "café noir",
        _color("black"),
        ("what has the colour of a café noir",),
        ("Which object has the colour of what a French waiter brings when you order a café noir?",),
    ),
)
