"""What can be asked of a profile, and reading it from what people type."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lens_bench.errors import UsageError
from lens_bench.perf.profile_file import SCENARIOS, Scenario
from lens_bench.perf.queueing import Bound
from lens_bench.records import ArgValue, Size
from lens_bench.registry import suggest

# A side of --image-size: 32 pictures of this size are 6 GB.
MOST_PIXELS = 8192
DEFAULT_BOUND = Bound(0.99, 2.0)
_PER_SECOND = {"s": 1.0, "ms": 1000.0, "": 1.0}


@dataclass(frozen=True, slots=True)
class Knobs:
    """How a model is measured, and at what work.

    Attributes:
        scenarios: Which, in the order in which they are measured.
        images: Pictures of the split that are taken, drawn by the seed.
        duration: Seconds that each figure is measured for.
        batch_sizes: Of the offline sweep; empty to double until throughput stops growing.
        concurrency: Most requests of one call in the server scenario; None for the best batch size, else the card's.
        bound: Of the server scenario.
        image_size: (height, width) that every picture is stretched to; None leaves pictures as they are.
        new_tokens: Length that every answer is forced to; None lets the model end it.
        random_weights: Build the model without a checkpoint.
    """

    scenarios: tuple[Scenario, ...] = SCENARIOS
    images: int = 32
    duration: float = 10.0
    batch_sizes: tuple[int, ...] = ()
    concurrency: int | None = None
    bound: Bound = DEFAULT_BOUND
    image_size: Size | None = None
    new_tokens: int | None = None
    random_weights: bool = False

    def work(self) -> dict[str, ArgValue]:
        """What makes the work another than that of a run; empty where it is the same."""
        size = self.image_size
        return {
            **({"image_size": f"{size[1]}x{size[0]}"} if size else {}),
            **({"new_tokens": self.new_tokens} if self.new_tokens is not None else {}),
            **({"weights": "random"} if self.random_weights else {}),
        }

    def manner(self) -> dict[str, ArgValue]:
        """How it is measured; parts measured otherwise do not stand in one file."""
        return {
            "images": self.images,
            "duration_s": self.duration,
            "batch_sizes": ",".join(map(str, self.batch_sizes)) or "auto",
            "concurrency": self.concurrency or "auto",
            "latency_bound": f"p{100 * self.bound.percentile:.9g}={self.bound.seconds:g}s",
        }


def scenarios(given: Sequence[str]) -> tuple[Scenario, ...]:
    """Names of scenarios, several in one word separated by commas; all where none is given. Raises ``UsageError``."""
    words = [word for text in given for word in text.split(",")]
    unknown = [word for word in words if word not in SCENARIOS]
    if unknown:
        hint = suggest(unknown[0], SCENARIOS) or f"one of: {', '.join(SCENARIOS)}"
        raise UsageError(f"there is no scenario {unknown[0]!r}", hint)
    return tuple(s for s in SCENARIOS if s in words or not words)


def batch_sizes(text: str) -> tuple[int, ...]:
    """``1,2,8`` as numbers in ascending order, because one that does not fit ends the sweep; ``auto`` as nothing.

    Raises:
        UsageError: It is neither.
    """
    if text == "auto":
        return ()
    words = text.split(",")
    if not all(_whole(word) for word in words):
        raise UsageError(f"--batch-sizes {text} is neither auto nor a list of numbers", "for example 1,4,16")
    return tuple(sorted({int(word) for word in words}))


def latency_bound(text: str) -> Bound:
    """``p99=2s``, ``p90=350ms``. Raises ``UsageError``."""
    match = re.fullmatch(r"p(\d{1,2}(?:\.\d+)?)=(\d+(?:\.\d+)?)(s|ms|)", text)
    share = round(float(match[1]) / 100, 9) if match is not None else 0.0
    if match is None or not 0 < share < 1 or float(match[2]) <= 0:
        raise UsageError(f"--latency-bound {text} is not of the form pNN=TIME", "for example p99=2s or p90=350ms")
    return Bound(share, float(match[2]) / _PER_SECOND[match[3]])


def image_size(text: str) -> Size:
    """``640x480`` (width, height) or ``512`` (both) as (height, width). Raises ``UsageError``."""
    words = text.lower().split("x")
    if len(words) > 2 or not all(_whole(word) for word in words):
        raise UsageError(f"--image-size {text} is not of the form WIDTHxHEIGHT", "for example 640x480")
    width, height = int(words[0]), int(words[-1])
    if max(width, height) > MOST_PIXELS:
        raise UsageError(f"--image-size {text} is beyond {MOST_PIXELS} pixels a side", "for example 640x480")
    return height, width


def _whole(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text) > 0
