"""From placed things to annotations and back to pixels: a thing's mask is what decoding its annotation gives.

Uncovered things are annotated by their outline, as annotators do, and rasterised by pycocotools. What is left of a
covered thing is traced along pixel edges: a polygon with whole-number corners decodes to exactly the pixels it
encloses. A thing with a hole cannot be a polygon and becomes an RLE.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lens_bench import masks
from lens_bench.data.shapes import geometry
from lens_bench.data.shapes.recipes import Recipe
from lens_bench.data.shapes.scene import Draft, Scene, Segmentation, Thing
from lens_bench.records import BoolMask, Polygon, Rle, Size

MIN_VISIBLE: Final = 0.66  # of a covered thing's own area
MIN_SIDE: Final = 0.10  # of the shorter side of the image, for the box of what is visible
_OVERLAP: Final = 0.04  # of the length of a thing: how far two parts of its annotation overlap


def annotate(rng: random.Random, size: Size, drafts: Sequence[Draft], recipe: Recipe) -> Scene | None:
    """Turn placed things into annotated ones; None where something would be too small or too hidden to ask about."""
    scene = _covered(rng, size, drafts) if recipe.occluded else _uncovered(size, drafts)
    if scene is None or any(_too_small(thing, size) for thing in scene.things):
        return None
    return scene


def trace(mask: BoolMask) -> list[list[float]] | None:
    """Outlines of a mask [H, W] along pixel edges, one flat polygon per part; None where a part has a hole.

    Parts are 4-connected: pixels that touch at a corner only belong to different polygons.
    """
    loops = _loops(mask)
    polygons = []
    for loop in loops:
        twice_area = sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(loop, loop[1:] + loop[:1], strict=True))
        if twice_area < 0:
            return None
        polygons.append([float(v) for point in _corners(loop) for v in point])
    return polygons


def _uncovered(size: Size, drafts: Sequence[Draft]) -> Scene:
    things = []
    for draft in drafts:
        mask = masks.part_rle(Polygon(draft.points), size)
        things.append(_thing(draft, mask, [list(draft.points)]))
    return Scene(size, tuple(things))


def _covered(rng: random.Random, size: Size, drafts: Sequence[Draft]) -> Scene | None:
    whole = [masks.decode(masks.part_rle(Polygon(d.points), size)).copy() for d in drafts]
    if rng.random() < 0.4:
        chosen = rng.randrange(len(drafts))
        if drafts[chosen].size == "big" and drafts[chosen].shape != "moon":
            whole[chosen] &= ~_window(rng, drafts[chosen], size)
    planks = [_plank(rng, rng.choice(drafts), size) for _ in range(rng.choice((0, 0, 1, 1, 2)))]
    hidden = np.zeros(size, dtype=np.bool_)
    for plank in planks:
        hidden |= plank
    things: list[Thing] = []
    for draft, mask in zip(reversed(drafts), reversed(whole), strict=True):
        visible = mask & ~hidden
        hidden |= mask
        if np.count_nonzero(visible) < MIN_VISIBLE * _area(draft.points):
            return None
        things.append(_thing(draft, masks.encode(visible), _segmentation(rng, draft, visible, size)))
    return Scene(size, tuple(reversed(things)), tuple(masks.encode(p) for p in planks))


def _thing(draft: Draft, mask: Rle, segmentation: Segmentation) -> Thing:
    box = masks.box_of(mask) or (0.0, 0.0, 0.0, 0.0)
    return Thing(draft.shape, draft.color, draft.size, box, masks.area(mask), mask, segmentation)


def _segmentation(rng: random.Random, draft: Draft, visible: BoolMask, size: Size) -> Segmentation:
    """Outline where nothing is hidden, else traced parts, now and then overlapping ones, or an RLE."""
    roll = rng.random()
    traced = trace(visible)
    if traced is None:
        return [masks.rle_to_json(masks.encode(visible))]
    if roll < 0.25:
        halves = [trace(half) for half in _halves(visible)]
        if all(halves):
            return [polygon for half in halves if half for polygon in half]
    plain = masks.decode(masks.part_rle(Polygon(draft.points), size))
    return [list(draft.points)] if np.array_equal(plain, visible) else traced


def _halves(mask: BoolMask) -> tuple[BoolMask, BoolMask]:
    """Two masks that cover ``mask`` together and share a few per cent of it in the middle of its longer side."""
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    axis, extent = (0, rows) if len(rows) >= len(columns) else (1, columns)
    middle, length = int(extent[len(extent) // 2]), len(extent)
    band = max(1, round(_OVERLAP * length))
    first, second = mask.copy(), mask.copy()
    if axis == 0:
        first[middle + band :], second[:middle] = False, False
    else:
        first[:, middle + band :], second[:, :middle] = False, False
    return first, second


def _window(rng: random.Random, draft: Draft, size: Size) -> BoolMask:
    """A round or square hole about the middle of a thing."""
    x1, y1, x2, y2 = geometry.bounds(draft.points)
    side = rng.uniform(0.28, 0.36) * _area(draft.points) ** 0.5
    center = ((x1 + x2) / 2, (y1 + y2) / 2)
    points = geometry.outline(rng.choice(("circle", "square")), side, center, 0.0)
    return masks.decode(masks.part_rle(Polygon(points), size))


def _plank(rng: random.Random, draft: Draft, size: Size) -> BoolMask:
    """A narrow bar across a thing: what remains of it is usually in two parts."""
    x1, y1, x2, y2 = geometry.bounds(draft.points)
    across = rng.uniform(0.12, 0.2) * _area(draft.points) ** 0.5
    along = rng.uniform(0.7, 1.1) * max(x2 - x1, y2 - y1)
    cx, cy = x1 + rng.uniform(0.4, 0.6) * (x2 - x1), y1 + rng.uniform(0.4, 0.6) * (y2 - y1)
    half_w, half_h = (along, across / 2) if rng.random() < 0.5 else (across / 2, along)
    lean = rng.uniform(-0.35, 0.35)
    corners = [(-half_w, -half_h), (half_w, -half_h), (half_w, half_h), (-half_w, half_h)]
    flat = [v for x, y in corners for v in (round(cx + x - lean * y, 1), round(cy + y + lean * x, 1))]
    return masks.decode(masks.part_rle(Polygon(tuple(flat)), size))


def _area(points: Sequence[float]) -> float:
    xs, ys = points[0::2], points[1::2]
    return abs(sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs)))) / 2


def _too_small(thing: Thing, size: Size) -> bool:
    x1, y1, x2, y2 = thing.box
    return min(x2 - x1, y2 - y1) < MIN_SIDE * min(size)


# ---------------------------------------------------------------------------------------------- tracing

_Corner = tuple[int, int]


def _loops(mask: BoolMask) -> list[list[_Corner]]:
    """Closed walks along pixel edges with the mask on the right hand: outer ones run clockwise on the screen."""
    follow: dict[_Corner, list[_Corner]] = {}
    for start, end in _edges(mask):
        follow.setdefault(start, []).append(end)
    loops = []
    while follow:
        here = start = next(iter(follow))
        loop, heading = [], (0, 0)
        while True:
            ends = follow[here]
            end = ends[0] if len(ends) == 1 else _right_turn(here, heading, ends)
            ends.remove(end)
            if not ends:
                del follow[here]
            loop.append(here)
            heading = (end[0] - here[0], end[1] - here[1])
            here = end
            if here == start:
                break
        loops.append(loop)
    return loops


def _edges(mask: BoolMask) -> list[tuple[_Corner, _Corner]]:
    """Directed unit edges between a pixel of the mask and one outside it, as (start corner, end corner)."""
    padded: NDArray[np.bool_] = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    found: list[tuple[_Corner, _Corner]] = []
    # neighbour above, right, below, left; start and end corner relative to the pixel
    sides = (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),
        (padded[1:-1, 2:], (1, 0), (1, 1)),
        (padded[2:, 1:-1], (1, 1), (0, 1)),
        (padded[1:-1, :-2], (0, 1), (0, 0)),
    )
    for neighbour, (ax, ay), (bx, by) in sides:
        rows, columns = np.nonzero(inside & ~neighbour)
        for y, x in zip(rows.tolist(), columns.tolist(), strict=True):
            found.append(((x + ax, y + ay), (x + bx, y + by)))
    return found


def _right_turn(here: _Corner, heading: _Corner, ends: Sequence[_Corner]) -> _Corner:
    """At a corner where two pixels touch, stay with the pixel that the walk came along."""
    wanted = (here[0] - heading[1], here[1] + heading[0])
    return wanted if wanted in ends else ends[0]


def _corners(loop: Sequence[_Corner]) -> list[_Corner]:
    """The points of a walk at which it turns."""
    kept = []
    for i, (x, y) in enumerate(loop):
        (px, py), (nx, ny) = loop[i - 1], loop[(i + 1) % len(loop)]
        if (x - px, y - py) != (nx - x, ny - y):
            kept.append((x, y))
    return kept
