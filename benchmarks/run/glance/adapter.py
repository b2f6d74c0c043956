"""A model of no cost whose answers cost as much to check, write and score as those of a real one."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np

from lens_bench.masks import encode
from lens_bench.records import ImageTask, LoadReport, ModelOptions, Prediction, Rle, Size

POOL = 601  # more masks than are remembered anywhere


class Glance:
    """Sums every sixteenth pixel and answers with one of many masks of ragged outline, chosen by the sample's id."""

    def __init__(self, options: ModelOptions) -> None:
        self._seed = options.seed
        self._sum = 0

    def load(self) -> LoadReport:
        """Make the masks of COCO's commonest size; those of others are made when they are met."""
        _pool(self._seed, (480, 640))
        return LoadReport()

    def segment(self, tasks: Sequence[ImageTask]) -> list[Prediction]:
        """Answer every query, after a look at the image."""
        answers = []
        for task in tasks:
            self._sum += int(task.rgb[::16, ::16].sum())
            pool = _pool(self._seed, task.size)
            answers += [
                Prediction(q.sample_id, "ok", mask=pool[zlib.crc32(q.sample_id.encode()) % POOL]) for q in task.queries
            ]
        return answers

    def close(self) -> None:
        """Nothing to free."""


@cache
def _pool(seed: int, size: Size) -> tuple[Rle, ...]:
    rng = np.random.default_rng(seed)
    return tuple(_ragged(rng, *size) for _ in range(POOL))


def _ragged(rng: np.random.Generator, height: int, width: int) -> Rle:
    """An ellipse of some 2 to 20 % of the image with a ragged outline."""
    ys, xs = np.mgrid[:height, :width]
    x, y = rng.uniform(0.25, 0.75, 2) * (width, height)
    a, b = rng.uniform(0.08, 0.25, 2) * (width, height)
    noise = cv2.GaussianBlur(rng.standard_normal((height // 4 + 1, width // 4 + 1)), (0, 0), 2)
    ragged = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return encode(((xs - x) / a) ** 2 + ((ys - y) / b) ** 2 + 2 * ragged < 1)
