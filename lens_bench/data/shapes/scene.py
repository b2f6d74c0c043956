"""Where things are: a picture as a list of things with exact masks, before a pixel is drawn."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from lens_bench.data.shapes import geometry
from lens_bench.data.shapes.recipes import Recipe
from lens_bench.data.shapes.vocabulary import COLORS, HELD_OUT, SHAPES, SIDE_RANGE
from lens_bench.records import Box, Rle, Size

Segmentation: TypeAlias = list[list[float]] | list[dict[str, object]]

_TRIES: Final = 40
_MORE_LIKELY: Final = (2, 3, 4, 4, 2, 1)  # of 3, 4, ... 8 things


@dataclass(frozen=True, slots=True)
class Draft:
    """A thing as it is placed: its whole outline, whatever covers it later."""

    shape: str
    color: str
    size: str
    points: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Thing:
    """A thing as it is seen and annotated.

    Attributes:
        box: Tight box of the visible pixels (x1, y1, x2, y2), right and lower edge exclusive.
        area: Number of visible pixels.
        mask: The visible pixels: what decoding ``segmentation`` and taking the union gives.
        segmentation: As it is written: a list of flat polygons, or a list of one compressed RLE.
    """

    shape: str
    color: str
    size: str
    box: Box
    area: int
    mask: Rle
    segmentation: Segmentation

    @property
    def center(self) -> tuple[float, float]:
        """Middle of the box."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture to be: things from the farthest to the nearest, and planks that cover without being things."""

    size: Size
    things: tuple[Thing, ...]
    planks: tuple[Rle, ...] = ()


def image_size(rng: random.Random, recipe: Recipe) -> Size:
    """Draw (height, width): multiples of 16, smaller ones more often, usually not square."""
    low, high = recipe.sides[0] // 16, recipe.sides[1] // 16
    height, width = (16 * min(rng.randint(low, high), rng.randint(low, high)) for _ in range(2))
    return height, width


def place(rng: random.Random, size: Size, recipe: Recipe) -> list[Draft] | None:
    """Draw things that do not touch (unless the recipe covers them); None where fewer than the recipe's fit."""
    fewest, most = recipe.things
    weights = _MORE_LIKELY[fewest - 3 : most - 2]
    count = rng.choices(range(fewest, most + 1), weights)[0]
    big = 0.5 if count < 6 else 0.35
    drafts: list[Draft] = []
    boxes: list[Box] = []
    for shape, color in pairs(rng, count, recipe):
        kind = "big" if rng.random() < big else "small"
        draft = fit(rng, size, (shape, color, kind), boxes, recipe.occluded)
        if draft is not None:
            drafts.append(draft)
            boxes.append(geometry.bounds(draft.points))
    return drafts if len(drafts) >= fewest else None


def fit(
    rng: random.Random, size: Size, attributes: tuple[str, str, str], taken: Sequence[Box], occluded: bool
) -> Draft | None:
    """Find room for one more thing.

    Args:
        rng: The picture's stream.
        size: (height, width) of the picture.
        attributes: Shape, colour, size.
        taken: Boxes of what is there.
        occluded: Now and then let the thing cover a part of an earlier one, or leave the picture a little.
    """
    shape, color, kind = attributes
    height, width = size
    short = min(size)
    side = short * rng.uniform(*SIDE_RANGE[kind])
    turn = rng.uniform(-1.0, 1.0) * geometry.MAX_TURN[shape]
    centred = geometry.outline(shape, side, (0.0, 0.0), turn)
    x1, y1, x2, y2 = geometry.bounds(centred)
    gap = max(2.0, 0.02 * short)
    covers = occluded and bool(taken) and rng.random() < 0.4
    leaves = occluded and not covers and rng.random() < 0.15
    margin = -0.15 * side if leaves else 1.5
    for _ in range(_TRIES):
        cx = rng.uniform(margin - x1, width - margin - x2)
        cy = rng.uniform(margin - y1, height - margin - y2)
        box = (cx + x1, cy + y1, cx + x2, cy + y2)
        if covers:
            shares = [_shared(box, other, gap) for other in taken]
            fits = sum(s > 0 for s in shares) == 1 and 0.08 < max(shares) < 0.4
        else:
            fits = all(
                box[2] <= left - gap or right + gap <= box[0] or box[3] <= top - gap or bottom + gap <= box[1]
                for left, top, right, bottom in taken
            )
        if fits:
            shifted = tuple(round(v + (cy if i % 2 else cx), 1) for i, v in enumerate(centred))
            return Draft(shape, color, kind, shifted)
    return None


def _shared(box: Box, other: Box, gap: float) -> float:
    """Share of ``other``, grown by ``gap``, that ``box`` covers."""
    width = min(box[2], other[2] + gap) - max(box[0], other[0] - gap)
    height = min(box[3], other[3] + gap) - max(box[1], other[1] - gap)
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / ((other[2] - other[0] + 2 * gap) * (other[3] - other[1] + 2 * gap))


def pairs(rng: random.Random, count: int, recipe: Recipe) -> list[tuple[str, str]]:
    """Shapes and colours from a few of each, so that most things have something in common with another."""
    shapes = rng.sample(SHAPES, rng.randint(2, 3) if count < 6 else rng.randint(2, 4))
    colors = rng.sample(COLORS, rng.randint(2, 3) if count < 6 else rng.randint(2, 4))
    if not recipe.held_out:
        allowed = [(s, c) for s in shapes for c in colors if (s, c) not in HELD_OUT]
        return [rng.choice(allowed) for _ in range(count)]
    unseen = rng.sample(sorted(HELD_OUT), 2)
    shapes = list(dict.fromkeys([s for s, _ in unseen] + shapes))[:3]
    colors = list(dict.fromkeys([c for _, c in unseen] + colors))[:3]
    drawn = [*unseen, *((rng.choice(shapes), rng.choice(colors)) for _ in range(count - 2))]
    rng.shuffle(drawn)
    return drawn
