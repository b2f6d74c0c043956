"""Pixels: a scene drawn with the very masks that its annotations decode to, without anti-aliasing.

A pixel of a thing is strongly coloured, very bright or very dark; a pixel of the background or of a plank is none of
these (``is_thing``). So the mask of everything can be read off a PNG, and the tests do.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from lens_bench import masks
from lens_bench.data.shapes.recipes import Recipe
from lens_bench.data.shapes.scene import Scene
from lens_bench.data.shapes.seeds import noise, seed_of, stream
from lens_bench.data.shapes.vocabulary import PALETTE
from lens_bench.records import BoolMask, Pixels, Size

Plane = NDArray[np.int16]  # [H, W], offsets of brightness

# What tells things from everything else. Backgrounds keep within these bounds: a level of 114 to 138, 10 of tint, 22 of
# relief or 26 of a plank, 9 of grain give channels between 69 and 183 that differ by at most 20.
THING_CHROMA: Final = 50  # smallest difference of a thing's channels, unless it is bright or dark
THING_DARK: Final = 66  # largest channel of a black thing
THING_BRIGHT: Final = 190  # smallest channel of a white thing

_LEVEL: Final = (114, 138)
_TINT: Final = 10
_LIFT: Final = 26
_JITTER: Final = 8
_RELIEF: Final = 22  # how far a background's pattern goes up and down
_RIM: Final = 0.70
_MARK: Final = 0.84  # brightness of a texture's dark pixels


def draw(scene: Scene, recipe: Recipe, key: tuple[str | int, ...]) -> Pixels:
    """Draw a scene.

    Args:
        scene: What is where.
        recipe: How it looks.
        key: What the random draws are for: seed, suite, split, index.

    Returns:
        uint8 [H, W, 3], RGB.
    """
    rng = stream(*key, "look")
    labels = _labels(scene)
    shade = _shades(rng, scene, recipe, labels)
    tones = _tones(rng, scene)
    relief = _relief(rng, scene.size, recipe, seed_of(*key, "ground"))
    relief[labels > 0] = 0
    relief += _grain(seed_of(*key, "grain"), scene.size, rng.choice((1, 2, 3)))
    pixels = tones.take(shade * np.uint8(len(tones) // 3) + labels, axis=0)
    pixels += relief[:, :, None]
    return pixels.clip(0, 255, out=pixels).astype(np.uint8)


def is_thing(pixels: Pixels) -> BoolMask:
    """Which pixels of an image without compression artefacts belong to a thing, by colour alone. bool [H, W]."""
    low, high = pixels.min(axis=2), pixels.max(axis=2)
    found: BoolMask = (high - low >= THING_CHROMA) | (high <= THING_DARK) | (low >= THING_BRIGHT)
    return found


def _grain(seed: int, size: Size, strength: int) -> Plane:
    """Noise of four levels, the same in all channels: looks like film and costs little as PNG."""
    levels = np.array([-3, -1, 1, 3], dtype=np.int16) * strength
    grain: Plane = levels[noise(seed, size[0] * size[1]) & 3].reshape(size)
    return grain


def _labels(scene: Scene) -> NDArray[np.uint8]:
    """[H, W]: 0 background, then the things, then the planks."""
    labels = np.zeros(scene.size, dtype=np.uint8)
    for number, mask in enumerate((*(t.mask for t in scene.things), *scene.planks), start=1):
        labels[masks.decode(mask)] = number
    return labels


def _tones(rng: random.Random, scene: Scene) -> NDArray[np.int16]:
    """[3 * labels, 3]: the RGB of every label's plain pixels, then of those marked by a texture, then of the rims."""
    level = rng.randint(*_LEVEL)
    ground = np.array([level + rng.randint(-_TINT, _TINT) for _ in range(3)], dtype=np.int16)
    tones = np.empty((3, 1 + len(scene.things) + len(scene.planks), 3), dtype=np.int16)
    tones[:, 0] = ground
    for number, thing in enumerate(scene.things, start=1):
        base = [channel + rng.randint(-_JITTER, _JITTER) for channel in PALETTE[thing.color]]
        for row, factor in enumerate((1.0, _MARK, _RIM)):
            tones[row, number] = [_toned(thing.color, channel, factor) for channel in base]
    for number in range(1 + len(scene.things), tones.shape[1]):
        tones[:, number] = ground + rng.choice((-_LIFT, _LIFT))
    return tones.reshape(-1, 3)


def _toned(color: str, channel: int, factor: float) -> int:
    """Darker for most colours; a little darker for white, a little lighter for black."""
    if color == "white":
        return round(channel - 80 * (1 - factor))
    if color == "black":
        return round(channel + 70 * (1 - factor))
    return round(channel * factor)


def _shades(rng: random.Random, scene: Scene, recipe: Recipe, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[H, W]: 0 plain, 1 marked by a texture, 2 rim."""
    shade = np.zeros(scene.size, dtype=np.uint8)
    for number in range(1, len(scene.things) + 1):
        fill = rng.choice(recipe.fills)
        if fill != "plain":
            shade[(labels == number) & (_PATTERNS[fill](rng, scene.size, 3, 6) > 0)] = 1
    width = rng.randint(*recipe.rims)
    if width:
        kernel = np.ones((2 * width + 1, 2 * width + 1), dtype=np.uint8)
        edge = cv2.erode(labels, kernel) != cv2.dilate(labels, kernel)
        shade[edge] = 2
    return shade


def _relief(rng: random.Random, size: Size, recipe: Recipe, seed: int) -> Plane:
    """[H, W]: the pattern of the background."""
    kind = rng.choice(recipe.grounds)
    return _clouds(seed, size) if kind == "clouds" else _PATTERNS[kind](rng, size, 6, 18)


# ---------------------------------------------------------------------------------------------- patterns, [H, W]


def _plain(rng: random.Random, size: Size, finest: int, coarsest: int) -> Plane:
    return np.zeros(size, dtype=np.int16)


def _gradient(rng: random.Random, size: Size, finest: int, coarsest: int) -> Plane:
    """From dark to bright along a direction with whole-number components."""
    y, x = _grid(size)
    a, b = rng.choice(((1, 0), (0, 1), (1, 1), (1, -1), (2, 1), (-1, 2)))
    slope: NDArray[np.int32] = a * x + b * y
    low, high = int(slope.min()), int(slope.max())
    return ((slope - low) * (2 * _RELIEF) // (high - low) - _RELIEF).astype(np.int16)


def _stripes(rng: random.Random, size: Size, finest: int, coarsest: int) -> Plane:
    y, x = _grid(size)
    a, b = rng.choice(((1, 0), (0, 1), (1, 1), (1, -1), (2, 1), (1, 2)))
    period = rng.randint(finest, coarsest) * max(abs(a), abs(b))
    return _two_levels(((a * x + b * y) // period) % 2 == 0)


def _checks(rng: random.Random, size: Size, finest: int, coarsest: int) -> Plane:
    y, x = _grid(size)
    period = rng.randint(finest, coarsest)
    return _two_levels((x // period + y // period) % 2 == 0)


def _dots(rng: random.Random, size: Size, finest: int, coarsest: int) -> Plane:
    y, x = _grid(size)
    period = rng.randint(finest, coarsest)
    dx, dy = 2 * (x % period) - period + 1, 2 * (y % period) - period + 1
    return _two_levels(10 * (dx * dx + dy * dy) < 4 * period * period)


def _hatch(rng: random.Random, size: Size, finest: int, coarsest: int) -> Plane:
    y, x = _grid(size)
    period = rng.randint(finest, coarsest)
    return _two_levels(((x + y) % period < 2) | ((x - y) % period < 2))


def _clouds(seed: int, size: Size) -> Plane:
    """Smooth patches: a few random values, enlarged by exact integer interpolation."""
    coarse = noise(seed, 36).reshape(6, 6)
    smooth = cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_LINEAR_EXACT)
    relief = np.array(smooth, dtype=np.int16)
    relief *= 2 * _RELIEF
    relief //= 255
    relief -= _RELIEF
    return relief


def _grid(size: Size) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    y, x = np.indices(size, dtype=np.int32, sparse=True)
    return y, x


def _two_levels(high: BoolMask) -> Plane:
    return np.where(high, 12, -12).astype(np.int16)


_PATTERNS: Final[dict[str, Callable[[random.Random, Size, int, int], Plane]]] = {
    "plain": _plain,
    "gradient": _gradient,
    "stripes": _stripes,
    "striped": _stripes,
    "checks": _checks,
    "checked": _checks,
    "dots": _dots,
    "dotted": _dots,
    "hatch": _hatch,
}
