"""The pictures that a profile asks about: drawn from a split by the seed, read before anything is measured."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from lens_bench.errors import DataError
from lens_bench.records import ImageTask, Pixels, Size
from lens_bench.run.decode import Work, decode_ahead
from lens_bench.run.plan import Plan


@dataclass(frozen=True, slots=True)
class Pictures:
    """Tasks with their pixels in memory.

    Attributes:
        whole: Every picture with all its expressions.
        single: The same pictures with one expression each.
    """

    whole: tuple[ImageTask, ...]
    single: tuple[ImageTask, ...]


def take_pictures(plan: Plan, count: int, size: Size | None = None) -> Pictures:
    """Draw and read pictures.

    Args:
        plan: Of the split and model.
        count: How many; all, where the split has fewer.
        size: (height, width) that each is stretched to; None leaves them.

    Raises:
        DataError: One cannot be read.
    """
    seed = plan.request.seed
    work = sorted(plan.tasks(lambda _: True), key=lambda item: lot(seed, item[0].image_id))[:count]
    whole = tuple(_read(plan, work, size))
    return Pictures(whole, tuple(_one(task, seed) for task in whole))


def lot(seed: int, name: str) -> str:
    """Where a name comes in an order that the seed determines."""
    return hashlib.sha256(f"{seed}\0{name}".encode()).hexdigest()


def _one(task: ImageTask, seed: int) -> ImageTask:
    return replace(task, queries=(min(task.queries, key=lambda q: lot(seed, q.sample_id)),))


def _read(plan: Plan, work: list[Work], size: Size | None) -> list[ImageTask]:
    found = []
    for item in decode_ahead(work, ahead=4, read=plan.card.reads_images):
        if item.error is not None:
            raise DataError(item.error.message, item.error.hint)
        found.append(item.task if size is None else _stretched(item.task, size))
    return found


def _stretched(task: ImageTask, size: Size) -> ImageTask:
    """The task at another size. What it looks like does not matter; how large it is does."""
    if task.pixels is None:
        return replace(task, size=size)
    import numpy as np
    from PIL import Image

    pixels: Pixels = np.asarray(Image.fromarray(task.pixels).resize((size[1], size[0]), Image.Resampling.BILINEAR))
    return replace(task, size=size, pixels=pixels)
