"""One picture of a REFER-like suite: scene, expressions, pixels; and the file it is written to."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

from lens_bench.data.shapes.annotate import annotate
from lens_bench.data.shapes.image_file import write_jpeg, write_png
from lens_bench.data.shapes.language import as_typed, phrasings, rationale
from lens_bench.data.shapes.propose import propose
from lens_bench.data.shapes.query import KINDS
from lens_bench.data.shapes.recipes import Recipe
from lens_bench.data.shapes.render import draw
from lens_bench.data.shapes.scene import Scene, image_size, place
from lens_bench.data.shapes.seeds import stream
from lens_bench.data.shapes.vocabulary import HELD_OUT
from lens_bench.errors import RunError

REFS: Final = 2  # referents of a picture
_ATTEMPTS: Final = 2_000

Content = TypeVar("Content")


@dataclass(frozen=True, slots=True)
class Key:
    """Which picture: everything random about it is a function of this."""

    seed: int
    suite: str
    split: str
    index: int

    @property
    def parts(self) -> tuple[str | int, ...]:
        """For ``seeds``."""
        return self.seed, self.suite, self.split, self.index


@dataclass(frozen=True, slots=True)
class Sentence:
    """One wording: ``sent`` in lower case without punctuation, ``raw`` as typed."""

    sent: str
    raw: str


@dataclass(frozen=True, slots=True)
class Ref:
    """One meaning in several wordings. ``targets`` are indices of things; empty where nothing is meant."""

    targets: tuple[int, ...]
    sentences: tuple[Sentence, ...]
    kind: str
    hops: int
    rationale: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A finished picture, without its pixels: these are in the file already."""

    index: int
    file_name: str
    scene: Scene
    refs: tuple[Ref, ...]
    pixels_sha256: bytes


Refs: TypeAlias = tuple[Ref, ...]


def search(key: Key, attempt: Callable[[random.Random], Content | None]) -> Content:
    """Repeat an attempt with fresh draws until it gives something.

    Raises:
        RunError: It never did; with the shipped recipes this means that one was changed to ask for the impossible.
    """
    for number in range(_ATTEMPTS):
        content = attempt(stream(*key.parts, number))
        if content is not None:
            return content
    raise RunError(f"{key.suite} {key.split}: no scene fits picture {key.index}", "relax the split's recipe")


def compose(
    rng: random.Random, recipe: Recipe, ask: Callable[[random.Random, Scene], Refs | None]
) -> tuple[Scene, Refs] | None:
    """Draw one scene; None where things do not fit or it does not offer what ``ask`` wants."""
    size = image_size(rng, recipe)
    drafts = place(rng, size, recipe)
    scene = annotate(rng, size, drafts, recipe) if drafts else None
    refs = ask(rng, scene) if scene else None
    return (scene, refs) if scene is not None and refs is not None else None


def make_picture(key: Key, recipe: Recipe, folder: Path) -> Picture:
    """Compose, draw and write one picture of ``shapes`` to ``folder``."""
    ask = partial(_single_refs, index=key.index, recipe=recipe)
    scene, refs = search(key, lambda rng: compose(rng, recipe, ask))
    return finish_picture(key, recipe, folder, scene, refs)


def finish_picture(key: Key, recipe: Recipe, folder: Path, scene: Scene, refs: Sequence[Ref]) -> Picture:
    """Draw a scene and write it under a name of COCO's form."""
    name = f"COCO_{key.suite}_{key.split}_{image_id_of(recipe, key.index):012d}"
    file_name, digest = write_scene(key, recipe, folder / name, scene)
    return Picture(key.index, file_name, scene, tuple(refs), digest)


def write_scene(key: Key, recipe: Recipe, stem: Path, scene: Scene) -> tuple[str, bytes]:
    """Draw a scene and write it as the recipe's kind of file; returns the file's name and its pixels' digest."""
    pixels = draw(scene, recipe, key.parts)
    if recipe.jpeg is None:
        path = stem.with_name(stem.name + ".png")
        return path.name, write_png(path, pixels)
    path = stem.with_name(stem.name + ".jpg")
    return path.name, write_jpeg(path, pixels, stream(*key.parts, "jpeg").randint(*recipe.jpeg))


def image_id_of(recipe: Recipe, index: int) -> int:
    """Image ids of a suite's splits never meet, so that an audit for shared images means something."""
    return 1_000_000 * (recipe.number + 1) + index


def kinds_of(index: int) -> tuple[str, str]:
    """The two different kinds of expression of a picture; over 20 pictures every kind has its equal share."""
    first = index % len(KINDS)
    second = (first + 1 + (index // len(KINDS)) % (len(KINDS) - 1)) % len(KINDS)
    return KINDS[first], KINDS[second]


def word(rng: random.Random, sentences: Sequence[str]) -> tuple[Sentence, ...]:
    """Add to each sentence the form in which somebody typed it."""
    return tuple(Sentence(s, as_typed(rng, s)) for s in sentences)


def _single_refs(rng: random.Random, scene: Scene, index: int, recipe: Recipe) -> tuple[Ref, ...] | None:
    """Two referents of the kinds that are this picture's turn, each in two to four wordings."""
    kinds = ("relation", "relation") if recipe.hops == 2 else kinds_of(index)
    free = [i for i, t in enumerate(scene.things) if not recipe.held_out or (t.shape, t.color) in HELD_OUT]
    refs: list[Ref] = []
    for kind in kinds:
        found = propose(rng, kind, scene.things, scene.size, free, recipe.hops) if free else None
        if found is None:
            return None
        query, target = found
        free.remove(target)
        sentences = word(rng, phrasings(rng, query, rng.choices((2, 3, 4), (85, 10, 5))[0]))
        reason = rationale(query, scene.things, target, scene.size)
        refs.append(Ref((target,), sentences, kind, query.hops, reason))
    return tuple(refs)
