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
    relation = _true_of(rng, things, target, anchor)
    noun = unique_noun(rng, things, anchor) if relation else None
    if relation is None or noun is None:
        return None
    return Query("relation", noun_of(rng, things[target], (0, 1, 1, 1, 2)), links=(Link(relation, noun),))


def _chain(rng: random.Random, things: Sequence[Thing], target: int) -> Query | None:
    """The referent stands in a relation to what stands in another."""
    middle, last = rng.randrange(len(things)), rng.randrange(len(things))
    first, second = _true_of(rng, things, target, middle), _true_of(rng, things, middle, last)
    if first is None or second is None or last == target:
        return None
    noun = noun_of(rng, things[middle], (1, 1, 2))
    end = unique_noun(rng, things, last) if len(noun.matches(things)) > 1 else None
    if end is None:
        return None
    links = (Link(first, noun), Link(second, end))
    return Query("relation", noun_of(rng, things[target], (0, 1, 1)), links=links, chained=True)


def _both(rng: random.Random, things: Sequence[Thing], target: int) -> Query | None:
    """The referent stands in two relations."""
    anchors = rng.sample(range(len(things)), 2)
    relations = [_true_of(rng, things, target, a, closest=False) for a in anchors]
    if None in relations:
        return None
    nouns = [unique_noun(rng, things, a) for a in anchors]
    links = tuple(Link(r, n) for r, n in zip(relations, nouns, strict=True) if r is not None and n is not None)
    return Query("relation", noun_of(rng, things[target], (0, 1, 1)), links=links) if len(links) == 2 else None


def _true_of(
    rng: random.Random, things: Sequence[Thing], index: int, anchor: int, *, closest: bool = True
) -> str | None:
    """A relation in which a thing could be said to stand to an anchor."""
    if anchor == index:
        return None
    true = [r for r in _DIRECTED if related(r, things[index], things[anchor], strict=True)]
    if closest and (not true or rng.random() < 0.2):
        return "closest to"
    return rng.choice(true) if true else None


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
