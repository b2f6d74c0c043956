"""Queries about a given scene: the kind is chosen first, then something of that kind that has one clear answer.

Drawing expressions freely and keeping the unambiguous ones would leave four fifths of them attributes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

from lens_bench.data.shapes.query import EXTREMES, RELATIONS, SIDES, Link, Noun, Query, related, resolve
from lens_bench.data.shapes.scene import Thing
from lens_bench.records import Size

_TRIES: Final = 25
_DIRECTED: Final = RELATIONS[:4]
_ATTRIBUTES: Final = ("shape", "color", "size")


def propose(
    rng: random.Random, kind: str, things: Sequence[Thing], size: Size, targets: Sequence[int], hops: int = 1
) -> tuple[Query, int] | None:
    """Find a query of a kind whose answer is among ``targets``; None where the scene offers none soon."""
    make = rng.choice((_chain, _both)) if kind == "relation" and hops == 2 else _MAKERS[kind]
    for _ in range(_TRIES * hops**2):
        target = rng.choice(targets)
        query = make(rng, things, target)
        if query is not None and resolve(query, things, size) == target:
            return query, target
    return None


def noun_of(rng: random.Random, thing: Thing, counts: Sequence[int] = (0, 1, 2)) -> Noun:
    """A description of a thing by some of its attributes; how many is drawn from ``counts``."""
    chosen = rng.sample(_ATTRIBUTES, rng.choice(counts))
    return Noun(
        thing.shape if "shape" in chosen else None,
        thing.color if "color" in chosen else None,
        thing.size if "size" in chosen else None,
    )


def unique_noun(rng: random.Random, things: Sequence[Thing], index: int) -> Noun | None:
    """A description that fits one thing only, as short as a few draws make it."""
    for count in (1, 2, 2, 3):
        noun = noun_of(rng, things[index], (count,))
        if noun.matches(things) == [index]:
            return noun
    return None


def _attribute(rng: random.Random, things: Sequence[Thing], target: int) -> Query | None:
    noun = noun_of(rng, things[target], (1, 2, 2, 2, 3))
    parts = [Noun(shape=noun.shape), Noun(color=noun.color), Noun(size=noun.size)]
    given = [p for p in parts if p != Noun()]
    if len(given) > 1 and any(len(p.matches(things)) == 1 for p in given):
        return None
    return Query("attribute", noun)


def _superlative(rng: random.Random, things: Sequence[Thing], target: int) -> Query | None:
    noun = noun_of(rng, things[target], (0, 1, 1, 1, 2))
    extreme = rng.choice(EXTREMES)
    if noun.size is not None and extreme in ("biggest", "smallest"):
        return None
    return Query("superlative", noun, extreme=extreme)


def _relation(rng: random.Random, things: Sequence[Thing], target: int) -> Query | None:
    anchor = rng.randrange(len(things))
    link = _link(rng, things, target, anchor, unique_noun(rng, things, anchor))
    return Query("relation", noun_of(rng, things[target], (0, 1, 1, 1, 2)), links=(link,)) if link else None


def _chain(rng: random.Random, things: Sequence[Thing], target: int) -> Query | None:
    """The referent stands in a relation to what stands in another."""
    middle, last = rng.randrange(len(things)), rng.randrange(len(things))
    second = _link(rng, things, middle, last, unique_noun(rng, things, last))
    first = _link(rng, things, target, middle, noun_of(rng, things[middle], (1, 1, 2)))
    if first is None or second is None or last == target:
        return None
    return Query("relation", noun_of(rng, things[target], (0, 1, 1)), links=(first, second), chained=True)


def _both(rng: random.Random, things: Sequence[Thing], target: int) -> Query | None:
    """The referent stands in two relations."""
    first, second = (
        _link(rng, things, target, a, unique_noun(rng, things, a)) for a in rng.sample(range(len(things)), 2)
    )
    if first is None or second is None:
        return None
    return Query("relation", noun_of(rng, things[target], (0, 1, 1)), links=(first, second))


def _link(rng: random.Random, things: Sequence[Thing], index: int, anchor: int, noun: Noun | None) -> Link | None:
    """A relation in which a thing could be said to stand to an anchor."""
    if anchor == index or noun is None:
        return None
    true = [r for r in _DIRECTED if related(r, things[index], things[anchor], strict=True)]
    directed = true and rng.random() < 0.8
    return Link(rng.choice(true) if directed else "closest to", noun)


def _ordinal(rng: random.Random, things: Sequence[Thing], target: int) -> Query | None:
    return Query(
        "ordinal", noun_of(rng, things[target], (0, 1, 1, 1, 1)), rank=rng.choice((2, 2, 3)), side=rng.choice(SIDES)
    )


def _negation(rng: random.Random, things: Sequence[Thing], target: int) -> Query | None:
    other = things[rng.randrange(len(things))]
    noun, excluded = noun_of(rng, things[target], (1, 1, 2)), noun_of(rng, other, (1,))
    given = {name for name in _ATTRIBUTES if getattr(noun, name) is not None}
    if excluded.fits(things[target]) or any(getattr(excluded, name) is not None for name in given):
        return None
    return Query("negation", noun, excluded=excluded)


_MAKERS: Final[dict[str, Callable[[random.Random, Sequence[Thing], int], Query | None]]] = {
    "attribute": _attribute,
    "superlative": _superlative,
    "relation": _relation,
    "ordinal": _ordinal,
    "negation": _negation,
}
