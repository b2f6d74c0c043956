"""What an expression means, apart from its words: a query over the things of a scene.

A query is used only where its answer leaves no room for doubt. Each kind therefore has two readings, a strict one that
the referent satisfies and a lenient one that no other candidate may satisfy: "left of" strictly is wholly to the left
and not mainly above or below, and leniently any centre further left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from lens_bench.data.shapes.scene import Thing
from lens_bench.records import Size

KINDS: Final = ("attribute", "superlative", "relation", "ordinal", "negation")
RELATIONS: Final = ("left of", "right of", "above", "below", "closest to")
EXTREMES: Final = ("biggest", "smallest", "leftmost", "rightmost", "topmost", "lowest")
SIDES: Final = ("left", "right", "top", "bottom")

AREA_RATIO: Final = 1.3  # between the biggest and the next
DISTANCE_RATIO: Final = 1.3  # between the closest and the next
GAP: Final = 0.06  # of the image's side, between neighbours in an order
STEEPNESS: Final = 1.5  # how far off the axis a strict "left of" may be, over the distance along it


@dataclass(frozen=True, slots=True)
class Noun:
    """A description by attributes; None leaves one open. All open is any thing."""

    shape: str | None = None
    color: str | None = None
    size: str | None = None

    def fits(self, thing: Thing) -> bool:
        """Whether the thing has every attribute that is given."""
        return (
            self.shape in (None, thing.shape) and self.color in (None, thing.color) and self.size in (None, thing.size)
        )

    def matches(self, things: Sequence[Thing]) -> list[int]:
        """Indices of the things that fit."""
        return [i for i, thing in enumerate(things) if self.fits(thing)]


@dataclass(frozen=True, slots=True)
class Link:
    """One relation to another thing: the anchor is described by ``noun`` and, when chained, by the next link."""

    relation: str
    noun: Noun


@dataclass(frozen=True, slots=True)
class Query:
    """The meaning of an expression.

    Attributes:
        kind: One of ``KINDS``.
        noun: What kind of thing is meant.
        extreme: For superlatives, one of ``EXTREMES``.
        links: For relations, one or two.
        chained: The second link describes the anchor of the first, not the referent.
        rank: For ordinals, counted from 1.
        side: For ordinals, where counting starts.
        excluded: For negations, the one attribute that the referent lacks.
    """

    kind: str
    noun: Noun
    extreme: str = ""
    links: tuple[Link, ...] = ()
    chained: bool = False
    rank: int = 0
    side: str = ""
    excluded: Noun | None = None

    @property
    def hops(self) -> int:
        """Relations that must be followed."""
        return len(self.links)


def resolve(query: Query, things: Sequence[Thing], size: Size) -> int | None:
    """Index of the one thing that a query means beyond doubt, or None."""
    found = query.noun.matches(things)
    if query.kind == "attribute":
        return found[0] if len(found) == 1 else None
    if query.kind == "negation":
        return _negation(query, things, found)
    if len(found) < 2:
        return None
    if query.kind == "superlative":
        return _superlative(query.extreme, things, found, size)
    if query.kind == "ordinal":
        return _ordinal(query, things, found, size)
    return _chain(query, things, found) if query.chained else _relations(query, things, found)


def related(relation: str, thing: Thing, anchor: Thing, *, strict: bool) -> bool:
    """Whether a thing stands in a directed relation to an anchor, strictly or leniently. Not for ``closest to``."""
    (ax, ay), (bx, by) = thing.center, anchor.center
    dx, dy = ax - bx, ay - by
    along, off = {"left of": (-dx, dy), "right of": (dx, dy), "above": (-dy, dx), "below": (dy, dx)}[relation]
    if not strict:
        return along > 0
    apart = {
        "left of": anchor.box[0] - thing.box[2],
        "right of": thing.box[0] - anchor.box[2],
        "above": anchor.box[1] - thing.box[3],
        "below": thing.box[1] - anchor.box[3],
    }[relation]
    return apart >= 0 and abs(off) <= STEEPNESS * along


def in_order(things: Sequence[Thing], found: Sequence[int], side: str, size: Size) -> list[int] | None:
    """The things from one side of the image on; None where centres are too close or near edges disagree with them."""
    order = sorted(found, key=lambda i: _center(things[i], side))
    gap = GAP * (size[1] if side in ("left", "right") else size[0])
    for a, b in pairwise(order):
        if _center(things[b], side) - _center(things[a], side) < gap or _edge(things[b], side) <= _edge(
            things[a], side
        ):
            return None
    return order


def _center(thing: Thing, side: str) -> float:
    """Distance of a thing's centre from a side of the image, up to a constant."""
    x, y = thing.center
    return {"left": x, "right": -x, "top": y, "bottom": -y}[side]


def _edge(thing: Thing, side: str) -> float:
    """The same for the edge of its box that looks to that side."""
    x1, y1, x2, y2 = thing.box
    return {"left": x1, "right": -x2, "top": y1, "bottom": -y2}[side]


def _negation(query: Query, things: Sequence[Thing], found: list[int]) -> int | None:
    excluded = query.excluded
    if excluded is None:
        raise ValueError("a negation needs what is excluded")
    kept = [i for i in found if not excluded.fits(things[i])]
    return kept[0] if len(kept) == 1 and len(found) > 1 else None


def _superlative(extreme: str, things: Sequence[Thing], found: list[int], size: Size) -> int | None:
    if extreme in ("biggest", "smallest"):
        order = sorted(found, key=lambda i: things[i].area, reverse=extreme == "biggest")
        less, more = sorted((things[order[0]].area, things[order[1]].area))
        return order[0] if more >= AREA_RATIO * less else None
    side = {"leftmost": "left", "rightmost": "right", "topmost": "top", "lowest": "bottom"}[extreme]
    first = min(found, key=lambda i: _center(things[i], side))
    # only the first has to be clear: the others may be level with one another
    clear = all(in_order(things, (first, i), side, size) == [first, i] for i in found if i != first)
    return first if clear else None


def _ordinal(query: Query, things: Sequence[Thing], found: list[int], size: Size) -> int | None:
    if len(found) < 3 or query.rank > len(found):
        return None
    order = in_order(things, found, query.side, size)
    return order[query.rank - 1] if order else None


def _one(relation: str, things: Sequence[Thing], candidates: Sequence[int], anchor: int) -> int | None:
    """The one candidate that stands in a relation to an anchor beyond doubt."""
    others = [i for i in candidates if i != anchor]
    if not others:
        return None
    if relation == "closest to":
        order = sorted(others, key=lambda i: _distance(things[i], things[anchor]))
        if len(order) < 2:
            return None
        near, next_near = (_distance(things[i], things[anchor]) for i in order[:2])
        return order[0] if next_near >= DISTANCE_RATIO * near else None
    lenient = [i for i in others if related(relation, things[i], things[anchor], strict=False)]
    if len(lenient) == 1 and related(relation, things[lenient[0]], things[anchor], strict=True):
        return lenient[0]
    return None


def _relations(query: Query, things: Sequence[Thing], found: list[int]) -> int | None:
    """One link, or two that the referent satisfies both and that are both needed."""
    anchors = [link.noun.matches(things) for link in query.links]
    if any(len(a) != 1 for a in anchors):
        return None
    if len(query.links) == 1:
        return _one(query.links[0].relation, things, found, anchors[0][0])
    pairs = [(link.relation, anchor[0]) for link, anchor in zip(query.links, anchors, strict=True)]
    if any(relation == "closest to" for relation, _ in pairs):
        return None
    others = [i for i in found if i not in (pairs[0][1], pairs[1][1])]
    loose = [{i for i in others if related(r, things[i], things[a], strict=False)} for r, a in pairs]
    both = loose[0] & loose[1]
    if len(both) != 1 or pairs[0][1] == pairs[1][1] or min(len(s) for s in loose) < 2:
        return None
    (answer,) = both
    return answer if all(related(r, things[answer], things[a], strict=True) for r, a in pairs) else None


def _chain(query: Query, things: Sequence[Thing], found: list[int]) -> int | None:
    """``found`` stands in the first relation to the thing that stands in the second to the last."""
    first, second = query.links
    last = second.noun.matches(things)
    middles = first.noun.matches(things)
    if len(last) != 1 or len(middles) < 2:
        return None
    middle = _one(second.relation, things, middles, last[0])
    if middle is None:
        return None
    answer = _one(first.relation, things, found, middle)
    return answer if answer not in (middle, last[0]) else None


def _distance(a: Thing, b: Thing) -> float:
    (ax, ay), (bx, by) = a.center, b.center
    return math.hypot(ax - bx, ay - by)
