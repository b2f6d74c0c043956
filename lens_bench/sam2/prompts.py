"""What SAM 2 is asked and what it answers."""

from __future__ import annotations

from dataclasses import dataclass

from lens_bench.records import Box, Rle


@dataclass(frozen=True, slots=True)
class SamPrompt:
    """A box, points on the object, or both, in pixels of the original image.

    Attributes:
        box: (x1, y1, x2, y2).
        points: Points on the object; all positive.
    """

    box: Box | None = None
    points: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        if self.box is None and not self.points:
            raise ValueError("a prompt needs a box or a point")


@dataclass(frozen=True, slots=True)
class SamMask:
    """A mask at the original size and the IoU that SAM 2 predicts for it."""

    mask: Rle
    score: float
