"""Pictures of ``shapes-reason``: an image beside a labelme file, as in ReasonSeg (dvlab-research/LISA).

Masks are painted exactly as the real reader paints them, borders included. Some files have regions to be ignored: a
stain on a target (small, so it carves the target), a patch around a target (large, so the target restores itself) or a
patch elsewhere; some have a ``flag``, which readers skip. Some texts are not ASCII, and some of those files are cp1252.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from lens_bench import masks
from lens_bench.data.shapes import geometry
from lens_bench.data.shapes.concepts import ACCENTED, CONCEPTS, Concept
from lens_bench.data.shapes.picture import Key, Picture, Ref, Sentence, search, write_scene
from lens_bench.data.shapes.recipes import Recipe
from lens_bench.data.shapes.scene import Draft, Scene, Thing, fit, image_size, pairs
from lens_bench.data.shapes.vocabulary import COLORS, HELD_OUT, SHAPES
from lens_bench.records import Box, Outline, Rle, Size

_ACCENT_EVERY: Final = 25  # one picture in so many has an accented text; every second of these files is cp1252
_PATCHED: Final = ("", "", "", "stain", "halo", "elsewhere")


@dataclass(frozen=True, slots=True)
class Riddle:
    """A scene, what is asked about it, and the outlines that are written."""

    scene: Scene
    drafts: tuple[Draft, ...]
    concept: Concept
    targets: tuple[int, ...]
    texts: tuple[str, ...]
    long: bool
    ignored: tuple[tuple[float, ...], ...]
    flag: tuple[float, ...] | None


def make_picture(key: Key, recipe: Recipe, folder: Path) -> Picture:
    """Compose, draw and write one picture and its labelme file to ``folder``."""
    riddle = search(key, lambda rng: _riddle(rng, key, recipe))
    stem = f"{key.split}_{key.index:06d}"
    file_name, digest = write_scene(key, recipe, folder / stem, riddle.scene)
    text = json.dumps(_labelme(riddle, file_name), ensure_ascii=False, indent=1)
    accented = not text.isascii()
    data = text.encode("cp1252" if accented and key.index // _ACCENT_EVERY % 2 == 0 else "utf-8")
    (folder / f"{stem}.json").write_bytes(data)
    ref = Ref(riddle.targets, tuple(Sentence(t, t) for t in riddle.texts), riddle.concept.name, 0, "")
    return Picture(key.index, file_name, riddle.scene, (ref,), digest)


def write_reason(folder: Path, split: str, recipe: Recipe, pictures: Sequence[Picture]) -> dict[str, bytes]:
    """Collect the annotation content of a split; its files are written already, one beside each image."""
    names = sorted(path.name for path in folder.glob("*.json"))
    return {"labelme": b"".join(name.encode() + b"\n" + (folder / name).read_bytes() for name in names)}


def _riddle(rng: random.Random, key: Key, recipe: Recipe) -> Riddle | None:
    accented = key.index % _ACCENT_EVERY == 7
    turns = ACCENTED if accented else CONCEPTS
    concept = turns[key.index // _ACCENT_EVERY % len(turns) if accented else key.index % len(turns)]
    long = (key.index // len(CONCEPTS) + key.index) % 2 == 1
    size = image_size(rng, recipe)
    drafts = _drafts(rng, size, recipe, concept)
    if len(drafts) < recipe.things[0]:
        return None
    things = tuple(_thing(d, _painted(d.points, size)) for d in drafts)
    targets = concept.choose(things, size)
    if not targets or 2 * len(targets) > len(things) or not concept.texts(len(targets), long):
        return None
    forms = concept.texts(len(targets), long)
    several = key.split == "train" and key.index % 4 == 0
    texts = tuple(rng.sample(forms, len(forms) if several else 1))
    return _patched(rng, Riddle(Scene(size, things), drafts, concept, targets, texts, long, (), None))


def _drafts(rng: random.Random, size: Size, recipe: Recipe, concept: Concept) -> tuple[Draft, ...]:
    """Things placed as the concept casts them; fewer where there is no room."""
    kinds: list[tuple[str, str, str]]
    if concept.cast == "free":
        count = rng.randint(recipe.things[0], recipe.things[1] - 1)
        kinds = [(s, c, "big" if rng.random() < 0.4 else "small") for s, c in pairs(rng, count, recipe)]
    elif concept.cast == "odd":
        kinds = _all_but_one(rng)
    else:
        count = rng.choice((1, 2, 3))
        different = rng.sample([(s, c) for s in SHAPES for c in COLORS if (s, c) not in HELD_OUT], count + 1)
        kinds = [(s, c, "small") for s, c in (different[0], *different[1:], *different[1:])]
    rng.shuffle(kinds)
    drafts: list[Draft] = []
    for kind in kinds:
        draft = fit(rng, size, kind, [geometry.bounds(d.points) for d in drafts], occluded=False)
        if draft is not None:
            drafts.append(draft)
    if concept.cast != "free" and len(drafts) < len(kinds):
        return ()
    return tuple(drafts)


def _all_but_one(rng: random.Random) -> list[tuple[str, str, str]]:
    """Three to six alike things and one of another shape or another colour."""
    shape, color = rng.choice([(s, c) for s in SHAPES for c in COLORS if (s, c) not in HELD_OUT])
    others = [(s, color) for s in SHAPES if s != shape and (s, color) not in HELD_OUT]
    others += [(shape, c) for c in COLORS if c != color and (shape, c) not in HELD_OUT]
    odd = rng.choice(others)
    size = rng.choice(("small", "small", "big"))
    return [(*odd, size), *[(shape, color, size)] * rng.randint(3, 4 if size == "big" else 6)]


def _patched(rng: random.Random, riddle: Riddle) -> Riddle:
    """Add what is to be ignored, and now and then a flag, where there is room for it."""
    scene = riddle.scene
    if rng.random() < 0.05:
        riddle = replace(riddle, flag=_rectangle((2.0, 2.0, 14.0, 10.0)))
    kind = rng.choice(_PATCHED)
    target = riddle.drafts[rng.choice(riddle.targets)]
    others = [geometry.bounds(d.points) for d in riddle.drafts if d is not target]
    if kind == "stain":
        points = _stain(target)
    elif kind == "halo":
        points = _halo(target, others, scene.size)
    elif kind == "elsewhere":
        blob = fit(rng, scene.size, ("square", "", "small"), [*others, geometry.bounds(target.points)], occluded=False)
        points = blob.points if blob else None
    else:
        points = None
    if points is None:
        return riddle
    patch = masks.decode(_painted(points, scene.size)).copy()
    things = scene.things
    if kind == "stain":
        things = tuple(replace(t, mask=masks.encode(masks.decode(t.mask) & ~patch)) for t in things)
    for thing in things:
        patch &= ~masks.decode(thing.mask)
    return replace(riddle, scene=Scene(scene.size, things, (masks.encode(patch),)), ignored=(points,))


def _stain(target: Draft) -> tuple[float, ...] | None:
    """A disc in the middle of a thing that is large enough to stay recognisable."""
    x1, y1, x2, y2 = geometry.bounds(target.points)
    if target.size != "big" or target.shape == "moon":
        return None
    return geometry.outline("circle", 0.3 * min(x2 - x1, y2 - y1), ((x1 + x2) / 2, (y1 + y2) / 2), 0.0)


def _halo(target: Draft, others: Sequence[Box], size: Size) -> tuple[float, ...] | None:
    """A rectangle around a thing; None where it would leave the image or come near another thing."""
    x1, y1, x2, y2 = geometry.bounds(target.points)
    dx, dy = 0.15 * (x2 - x1), 0.15 * (y2 - y1)
    left, top, right, bottom = x1 - dx, y1 - dy, x2 + dx, y2 + dy
    if left < 1 or top < 1 or right > size[1] - 2 or bottom > size[0] - 2:
        return None
    if any(left < b[2] + 3 and b[0] < right + 3 and top < b[3] + 3 and b[1] < bottom + 3 for b in others):
        return None
    return _rectangle((left, top, right, bottom))


def _painted(points: tuple[float, ...], size: Size) -> Rle:
    return masks.paint([Outline(points, ignore=False)], size)[0]


def _thing(draft: Draft, mask: Rle) -> Thing:
    box = masks.box_of(mask) or (0.0, 0.0, 0.0, 0.0)
    return Thing(draft.shape, draft.color, draft.size, box, masks.area(mask), mask, [list(draft.points)])


def _rectangle(box: tuple[float, float, float, float]) -> tuple[float, ...]:
    x1, y1, x2, y2 = (round(v, 1) for v in box)
    return x1, y1, x2, y1, x2, y2, x1, y2


def _labelme(riddle: Riddle, file_name: str) -> dict[str, object]:
    """The file's content. ``things`` is not labelme's: what is in the picture, for tests and for looking."""
    height, width = riddle.scene.size
    shapes = [_shape("target", riddle.drafts[i].points) for i in riddle.targets]
    shapes += [_shape("ignore", points) for points in riddle.ignored]
    shapes += [_shape("flag", riddle.flag)] if riddle.flag else []
    things = [
        {"shape": t.shape, "color": t.color, "size": t.size, "box": list(t.box), "area": t.area}
        for t in riddle.scene.things
    ]
    return {
        "version": "5.1.1",
        "flags": {},
        "text": list(riddle.texts),
        "is_sentence": riddle.long,
        "shapes": shapes,
        "imagePath": file_name,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
        "concept": riddle.concept.name,
        "things": things,
    }


def _shape(label: str, points: Sequence[float]) -> dict[str, object]:
    pairs_of_points = [[points[i], points[i + 1]] for i in range(0, len(points), 2)]
    return {"label": label, "points": pairs_of_points, "group_id": None, "shape_type": "polygon", "flags": {}}
