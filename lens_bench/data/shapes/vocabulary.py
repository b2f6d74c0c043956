"""What the things in a generated picture are: shapes, colours, sizes, and which pairs are never trained."""

from __future__ import annotations

from typing import Final

SHAPES: Final = ("circle", "square", "triangle", "diamond", "star", "cross", "heart", "moon")
SIZES: Final = ("small", "big")

# sRGB. Every tone of a thing stays either strongly coloured, brighter or darker than any background can be: see render.
PALETTE: Final[dict[str, tuple[int, int, int]]] = {
    "red": (214, 40, 44),
    "orange": (242, 138, 28),
    "yellow": (240, 222, 52),
    "green": (40, 164, 64),
    "blue": (44, 84, 216),
    "purple": (148, 60, 190),
    "white": (238, 238, 238),
    "black": (24, 24, 24),
}
COLORS: Final = tuple(PALETTE)

# One colour of every shape and one shape of every colour: what is unseen is the pair, never the word.
HELD_OUT: Final = frozenset((shape, COLORS[(3 * i + 1) % len(COLORS)]) for i, shape in enumerate(SHAPES))

# Square root of a thing's area over the shorter side of the image. The ranges are so far apart that a big thing stays
# larger than any small one when a third of it is covered.
SIDE_RANGE: Final[dict[str, tuple[float, float]]] = {"small": (0.145, 0.19), "big": (0.25, 0.35)}

PLURALS: Final = {s: s + ("es" if s == "cross" else "s") for s in (*SHAPES, "thing")}
