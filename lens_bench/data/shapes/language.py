"""The words: phrasings of a query, and the short reason that leads to its answer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from lens_bench.data.shapes.query import Noun, Query, resolve
from lens_bench.data.shapes.scene import Thing
from lens_bench.data.shapes.vocabulary import PLURALS
from lens_bench.records import Size

NUMBERS: Final = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
RANKS: Final = ("", "first", "second", "third")

_SIZE_WORDS: Final = {"small": ("small", "little"), "big": ("big", "large")}

_EXTREME_FORMS: Final[dict[str, tuple[str, ...]]] = {
    "biggest": ("the biggest {n}", "the largest {n}", "the {n} that is biggest", "biggest {n}"),
    "smallest": ("the smallest {n}", "the {n} that is smallest", "smallest {n}", "the smallest {n} of all"),
    "leftmost": ("the leftmost {n}", "the {n} on the far left", "leftmost {n}", "{n} on the far left"),
    "rightmost": (
        "the rightmost {n}",
        "the {n} on the far right",
        "rightmost {n}",
        "{n} on the far right",
    ),
    "topmost": ("the topmost {n}", "the {n} at the very top", "the highest {n}", "{n} at the very top"),
    "lowest": ("the lowest {n}", "the {n} at the very bottom", "lowest {n}", "{n} at the very bottom"),
}
_RELATION_FORMS: Final[dict[str, tuple[str, ...]]] = {
    "left of": ("left of", "to the left of", "that is left of", "on the left side of"),
    "right of": ("right of", "to the right of", "that is right of", "on the right side of"),
    "above": ("above", "over", "that is above", "higher than"),
    "below": ("below", "under", "that is below", "lower than"),
    "closest to": ("closest to", "nearest to", "that is closest to", "that is nearest to"),
}
_ORDINAL_FORMS: Final = (
    "the {r} {n} from the {s}",
    "{r} {n} from the {s}",
    "the {n} that is {r} from the {s}",
    "counting from the {s} the {r} {n}",
)
_NEGATION_FORMS: Final = (
    "the {n} that is not {x}",
    "the {n} which is not {x}",
    "{n} that is not {x}",
    "{n} but not {x}",
)


def phrasings(rng: random.Random, query: Query, count: int) -> list[str]:
    """``count`` different ways (2 to 4) to say a query, in lower case and without punctuation."""
    return rng.sample(_forms(rng, query), count)


def as_typed(rng: random.Random, sentence: str) -> str:
    """A sentence as people type it: capitals and full stops now and then (the ``raw`` of the REFER format)."""
    roll = rng.random()
    if roll < 0.6:
        return sentence
    return sentence.capitalize() + ("." if roll < 0.85 else "")


def noun_phrase(noun: Noun, rng: random.Random | None = None, plural: bool = False) -> str:
    """``big red circle``; with a stream of draws the size may be a synonym and a thing without shape an object."""
    words = []
    if noun.size is not None:
        words.append(rng.choice(_SIZE_WORDS[noun.size]) if rng else noun.size)
    if noun.color is not None:
        words.append(noun.color)
    head = noun.shape or "thing"
    words.append(PLURALS[head] if plural else head)
    return " ".join(words)


def rationale(query: Query, things: Sequence[Thing], answer: int, size: Size) -> str:
    """Why this thing: the step that leads to it, then the thing by name and place."""
    named = f"the {name(things[answer])} {place(things[answer], size)}"
    group = query.noun.matches(things)
    if query.kind == "attribute":
        return f"the only {noun_phrase(query.noun)} is {named}"
    if query.kind == "relation":
        return f"{_steps(query, things, size)} is {named}"
    counted = f"of the {NUMBERS[len(group)]} {noun_phrase(query.noun, plural=True)}"
    if query.kind == "superlative":
        return f"{counted} the {query.extreme} is {named}"
    if query.kind == "ordinal":
        return f"{counted} the {RANKS[query.rank]} from the {query.side} is {named}"
    return f"{counted} only one is not {_lacking(query)} it is {named}"


def name(thing: Thing) -> str:
    """Size, colour and shape of a thing."""
    return f"{thing.size} {thing.color} {thing.shape}"


def place(thing: Thing, size: Size) -> str:
    """Which ninth of the image a thing's centre lies in: ``at the top left``, ``in the center``."""
    x, y = thing.center
    column = ("left", "", "right")[min(2, int(3 * x / size[1]))]
    row = ("top", "", "bottom")[min(2, int(3 * y / size[0]))]
    words = " ".join(w for w in (row, column) if w)
    return f"at the {words}" if words else "in the center"


def _forms(rng: random.Random, query: Query) -> list[str]:
    noun = noun_phrase(query.noun, rng)
    if query.kind == "attribute":
        return _attribute_forms(query.noun, noun)
    if query.kind == "superlative":
        return [form.format(n=noun) for form in _EXTREME_FORMS[query.extreme]]
    if query.kind == "ordinal":
        return [form.format(n=noun, r=RANKS[query.rank], s=query.side) for form in _ORDINAL_FORMS]
    if query.kind == "negation":
        return [form.format(n=noun, x=_lacking(query)) for form in _NEGATION_FORMS]
    return _relation_forms(rng, query, noun)


def _attribute_forms(noun: Noun, words: str) -> list[str]:
    forms = [f"the {words}", words, f"the only {words}"]
    attributes = words.split()[:-1]
    head = words.split()[-1]
    forms.append(f"the {head} that is {' and '.join(attributes)}" if attributes else f"the one {words}")
    return forms


def _relation_forms(rng: random.Random, query: Query, noun: str) -> list[str]:
    anchors = [noun_phrase(link.noun, rng) for link in query.links]
    variants = [_RELATION_FORMS[link.relation] for link in query.links]
    if len(anchors) == 1:
        return [f"the {noun} {form} the {anchors[0]}" for form in variants[0]]
    first = [f"the {noun} {form} the {anchors[0]}" for form in variants[0]]
    # after "that is" and "and" only the forms without a clause of their own
    second = rng.choice([form for form in variants[1] if not form.startswith("that is")])
    if query.chained:
        ties = ("that is", "which is", "that is", "which is")
        return [f"{head} {tie} {second} the {anchors[1]}" for head, tie in zip(first, ties, strict=True)]
    return [f"{head} and {second} the {anchors[1]}" for head in first]


def _lacking(query: Query) -> str:
    excluded = query.excluded
    if excluded is None:
        raise ValueError("a negation needs what is excluded")
    return f"a {excluded.shape}" if excluded.shape else str(excluded.color or excluded.size)


def _steps(query: Query, things: Sequence[Thing], size: Size) -> str:
    """Where the anchors of a relation are, in the order in which they are found, up to the referent itself."""
    last = query.links[-1]
    (end,) = last.noun.matches(things)
    start = f"the {noun_phrase(last.noun)} is {place(things[end], size)}"
    if len(query.links) == 1:
        return f"{start} and {last.relation} it"
    first = query.links[0]
    if query.chained:
        middle = resolve(Query("relation", first.noun, links=(last,)), things, size)
        if middle is None:
            raise ValueError("the anchor of a chain must be clear")
        found = f"the {name(things[middle])} {place(things[middle], size)}"
        return f"{start} and {last.relation} it is {found} and {first.relation} that"
    (other,) = first.noun.matches(things)
    begin = f"the {noun_phrase(first.noun)} is {place(things[other], size)}"
    return f"{begin} and {start} and {first.relation} the first and {last.relation} the second"
