"""Pictures of ``shapes-multi``: expressions that mean several things, one, or none that is there (gRefCOCO)."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from lens_bench.data.shapes.language import NUMBERS, noun_phrase, phrasings, place, rationale
from lens_bench.data.shapes.picture import Key, Picture, Ref, compose, finish_picture, search, word
from lens_bench.data.shapes.propose import noun_of, propose, unique_noun
from lens_bench.data.shapes.query import KINDS, Noun, related
from lens_bench.data.shapes.recipes import Recipe
from lens_bench.data.shapes.scene import Scene
from lens_bench.data.shapes.vocabulary import COLORS, SHAPES

# The kinds of a picture's two refs, by its turn: of twenty refs eight mean several things, seven one, five none.
TURNS: Final = (
    ("multi", "single"),
    ("multi", "none"),
    ("single", "multi"),
    ("none", "single"),
    ("multi", "single"),
    ("multi", "none"),
    ("single", "multi"),
    ("none", "multi"),
    ("multi", "single"),
    ("single", "none"),
)
_TRIES: Final = 25
_DIRECTED: Final = ("left of", "right of", "above", "below")

# What is meant, how it can be said, and why.
Meaning = tuple[tuple[int, ...], list[str], str]


def make_picture(key: Key, recipe: Recipe, folder: Path) -> Picture:
    """Compose, draw and write one picture of ``shapes-multi`` to ``folder``."""
    ask = partial(_refs, index=key.index)
    scene, refs = search(key, lambda rng: compose(rng, recipe, ask))
    return finish_picture(key, recipe, folder, scene, refs)


def _refs(rng: random.Random, scene: Scene, index: int) -> tuple[Ref, ...] | None:
    refs: list[Ref] = []
    for kind in TURNS[index % len(TURNS)]:
        ref = _single(rng, scene, index) if kind == "single" else _drawn(rng, scene, kind)
        if ref is None or any(set(r.targets) == set(ref.targets) for r in refs):
            return None
        refs.append(ref)
    return tuple(refs)


def _single(rng: random.Random, scene: Scene, index: int) -> Ref | None:
    kind = KINDS[(index // len(TURNS) + index) % len(KINDS)]
    found = propose(rng, kind, scene.things, scene.size, range(len(scene.things)))
    if found is None:
        return None
    query, target = found
    sentences = word(rng, phrasings(rng, query, 2))
    return Ref((target,), sentences, "single", query.hops, rationale(query, scene.things, target, scene.size))


def _drawn(rng: random.Random, scene: Scene, kind: str) -> Ref | None:
    """Try the makers of a kind in an order of their own until one finds something to say."""
    for _ in range(_TRIES):
        maker, hops = rng.choice(_SEVERAL if kind == "multi" else _NONE)
        meaning = maker(rng, scene)
        if meaning is not None:
            targets, forms, reason = meaning
            return Ref(targets, word(rng, rng.sample(forms, 2)), kind, hops, reason)
    return None


# ---------------------------------------------------------------------------------------------- several


def _all_of(rng: random.Random, scene: Scene) -> Meaning | None:
    noun = noun_of(rng, rng.choice(scene.things), (1, 1, 2))
    found = noun.matches(scene.things)
    if not 2 <= len(found) < len(scene.things):
        return None
    one, many, number = noun_phrase(noun, rng), noun_phrase(noun, rng, plural=True), NUMBERS[len(found)]
    counted = f"both {many}" if len(found) == 2 else f"the {number} {many}"
    forms = [f"all {many}", f"the {many}", f"every {one}", counted]
    return tuple(found), forms, f"the {number} {noun_phrase(noun, plural=True)} are {_places(scene, found)}"


def _pair(rng: random.Random, scene: Scene) -> Meaning | None:
    """Two things, each described by itself."""
    chosen = rng.sample(range(len(scene.things)), 2)
    nouns = [unique_noun(rng, scene.things, i) for i in chosen]
    first, second = (noun_phrase(n, rng) if n is not None else "" for n in nouns)
    if not first or not second:
        return None
    forms = [f"the {first} and the {second}", f"{first} and {second}", f"both the {first} and the {second}"]
    return tuple(sorted(chosen)), forms, f"the two things are {_places(scene, chosen)}"


def _all_related(rng: random.Random, scene: Scene) -> Meaning | None:
    """Every thing of a description that is on one side of another thing."""
    described = _side(rng, scene)
    if described is None:
        return None
    noun, relation, anchor, anchor_noun = described
    others = [i for i in noun.matches(scene.things) if i != anchor]
    loose = [i for i in others if related(relation, scene.things[i], scene.things[anchor], strict=False)]
    if len(loose) < 2 or len(loose) == len(others):
        return None
    if not all(related(relation, scene.things[i], scene.things[anchor], strict=True) for i in loose):
        return None
    many, tail = noun_phrase(noun, rng, plural=True), f"{relation} the {noun_phrase(anchor_noun, rng)}"
    forms = [f"all {many} {tail}", f"the {many} {tail}", f"every {noun_phrase(noun, rng)} {tail}"]
    seen = f"the {noun_phrase(anchor_noun)} is {place(scene.things[anchor], scene.size)}"
    return tuple(loose), forms, f"{seen} and {relation} it are {_places(scene, loose)}"


# ---------------------------------------------------------------------------------------------- none


def _absent(rng: random.Random, scene: Scene) -> Meaning | None:
    """A combination that is not there although each of its attributes is."""
    shapes, colors = {t.shape for t in scene.things}, {t.color for t in scene.things}
    if rng.random() < 0.7:
        noun = Noun(rng.choice(sorted(shapes)), rng.choice(sorted(colors)))
        reason = f"there is no {noun_phrase(noun)} only {_list(scene, Noun(shape=noun.shape))}"
    elif rng.random() < 0.5:
        noun = Noun(shape=rng.choice([s for s in SHAPES if s not in shapes]))
        reason = f"there is no {noun_phrase(noun)}"
    else:
        noun = Noun(color=rng.choice([c for c in COLORS if c not in colors]))
        reason = f"nothing is {noun.color}"
    if noun.matches(scene.things):
        return None
    one = noun_phrase(noun, rng)
    return (), [f"the {one}", one, f"the only {one}", f"all {noun_phrase(noun, rng, plural=True)}"], reason


def _none_related(rng: random.Random, scene: Scene) -> Meaning | None:
    """Things of the description are there, but none on that side."""
    described = _side(rng, scene)
    if described is None:
        return None
    noun, relation, anchor, anchor_noun = described
    others = [i for i in noun.matches(scene.things) if i != anchor]
    if not others or any(related(relation, scene.things[i], scene.things[anchor], strict=False) for i in others):
        return None
    one, tail = noun_phrase(noun, rng), f"{relation} the {noun_phrase(anchor_noun, rng)}"
    forms = [f"the {one} {tail}", f"{one} {tail}", f"all {noun_phrase(noun, rng, plural=True)} {tail}"]
    seen = f"the {noun_phrase(anchor_noun)} is {place(scene.things[anchor], scene.size)}"
    return (), forms, f"{seen} and no {noun_phrase(noun)} is {relation} it"


# ---------------------------------------------------------------------------------------------- shared


def _side(rng: random.Random, scene: Scene) -> tuple[Noun, str, int, Noun] | None:
    """A description, a direction and an anchor with the words for it."""
    anchor = rng.randrange(len(scene.things))
    anchor_noun = unique_noun(rng, scene.things, anchor)
    if anchor_noun is None:
        return None
    return noun_of(rng, rng.choice(scene.things), (1, 1, 2)), rng.choice(_DIRECTED), anchor, anchor_noun


def _places(scene: Scene, found: Sequence[int]) -> str:
    return " and ".join(f"the {t.color} {t.shape} {place(t, scene.size)}" for t in (scene.things[i] for i in found))


def _list(scene: Scene, noun: Noun) -> str:
    """The different things that fit a description, by colour and shape."""
    names = dict.fromkeys(f"{scene.things[i].color} {scene.things[i].shape}" for i in noun.matches(scene.things))
    return " and ".join(names)


Maker = Callable[[random.Random, Scene], Meaning | None]
_SEVERAL: Final[tuple[tuple[Maker, int], ...]] = ((_all_of, 0), (_all_of, 0), (_pair, 0), (_all_related, 1))
_NONE: Final[tuple[tuple[Maker, int], ...]] = ((_absent, 0), (_absent, 0), (_none_related, 1))
