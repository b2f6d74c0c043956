"""What SAM 2 is asked and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from lens_bench.perf.clock import StageClock
from lens_bench.records import Box, Cost, Pixels, Rle

Image = TypeVar("Image")


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
    """A mask at the original size, the IoU that SAM 2 predicts for it, and whether both come from finite numbers."""

    mask: Rle
    score: float
    finite: bool = True


class Painter(Protocol[Image]):
    """Something that encodes images once and then answers any number of prompts: SAM 2, or the first SAM."""

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        ...

    def encode(self, images: Sequence[Pixels], clock: StageClock | None = None) -> list[Image]:
        """Features of RGB images uint8 [H, W, 3], each computed once, in stages ``resize`` and ``SAM features``."""
        ...

    def masks(self, prompts: Sequence[tuple[Image, SamPrompt]], best_of_three: bool = True) -> list[SamMask]:
        """One mask per prompt: the best of three by predicted IoU, or the single mask."""
        ...

    def image_cost(self, count: int) -> Cost:
        """Work of encoding so many images."""
        ...

    def mask_cost(self, prompts: Sequence[SamPrompt]) -> Cost:
        """Work of answering prompts."""
        ...
