"""What each split of a suite is made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

SEED: Final = 20250601
VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the pictures of one split look, and what is asked about them.

    Attributes:
        images: Number of images.
        sides: Smallest and largest side of an image in pixels; both sides are multiples of 16.
        things: Fewest and most things in a picture.
        grounds: Kinds of background (``render``).
        fills: Textures of things (``render``).
        rims: Narrowest and widest darker rim of things, in pixels.
        jpeg: Lowest and highest JPEG quality; None writes PNG.
        occluded: Things cover one another, are cut by planks, have windows, leave the image.
        held_out: The referents are of colour-shape pairs that no other split shows.
        hops: Relations in an expression of kind ``relation``; with 2 every expression is such a one.
        number: Of the split in its suite: ids of different splits never meet.
    """

    images: int
    sides: tuple[int, int] = (128, 256)
    things: tuple[int, int] = (3, 8)
    grounds: tuple[str, ...] = ("plain", "gradient", "clouds", "stripes")
    fills: tuple[str, ...] = ("plain",)
    rims: tuple[int, int] = (2, 3)
    jpeg: tuple[int, int] | None = None
    occluded: bool = False
    held_out: bool = False
    hops: int = 1
    number: int = 0


_CLEAN = Recipe(images=400)
_COVERED = replace(_CLEAN, occluded=True, fills=("plain", "striped", "dotted"))

RECIPES: Final[dict[str, dict[str, Recipe]]] = {
    "shapes": {
        "train": replace(_CLEAN, images=16_000),
        "val": replace(_CLEAN, images=500, number=1),
        "testA": replace(_CLEAN, number=2),
        "testB": replace(_COVERED, number=3),
        "ood-combo": replace(_CLEAN, held_out=True, number=4),
        "ood-hop": replace(_CLEAN, things=(5, 8), hops=2, number=5),
        "ood-style": Recipe(
            images=400,
            sides=(256, 384),
            grounds=("checks", "dots", "hatch"),
            fills=("plain", "striped", "checked"),
            rims=(0, 1),
            jpeg=(30, 80),
            number=6,
        ),
    },
    "shapes-reason": {
        "train": replace(_CLEAN, images=2_000, jpeg=(80, 95)),
        "val": replace(_CLEAN, images=200, jpeg=(80, 95), number=1),
        "test": replace(_CLEAN, images=400, jpeg=(80, 95), number=2),
    },
    "shapes-multi": {
        "train": replace(_CLEAN, images=2_000),
        "val": replace(_CLEAN, images=300, number=1),
        "testA": replace(_CLEAN, images=300, number=2),
        "testB": replace(_COVERED, images=300, number=3),
    },
}
