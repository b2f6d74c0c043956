"""Builders of samples and predictions from dense masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import pytest
from numpy.typing import ArrayLike

from lens_bench import masks
from lens_bench.records import Box, GroundTruth, Pixels, Prediction, Rle, Sample, Score, Status

MakeSample: TypeAlias = Callable[..., Sample]
MakeScore: TypeAlias = Callable[..., Score]


class NoImage:
    """Scoring needs no image."""

    name = "none"

    def exists(self) -> bool:
        return False

    def read(self) -> Pixels:
        raise AssertionError("scoring opened an image")


def as_rle(mask: ArrayLike) -> Rle:
    return masks.encode(np.asarray(mask, dtype=bool))


@pytest.fixture(scope="session")
def make_sample() -> MakeSample:
    def build(
        parts: Sequence[ArrayLike] = (),
        *,
        size: tuple[int, int] | None = None,
        ignore: Sequence[ArrayLike] = (),
        box: Box | None = None,
        no_target: bool = False,
        name: str = "s",
        image: str = "i",
        ref: str | None = None,
        key: str | None = None,
        tags: tuple[str, ...] = (),
        truth: GroundTruth | None = None,
    ) -> Sample:
        if truth is not None:
            return Sample(name, image, NoImage(), "the thing", truth)
        rles = tuple(as_rle(p) for p in parts)
        ignored = tuple(as_rle(p) for p in ignore)
        truth = GroundTruth(size or (rles + ignored)[0].size, rles, ignore=ignored, box=box, no_target=no_target)
        return Sample(name, image, NoImage(), "the thing", truth, ref_id=ref, key=key, tags=tags)

    return build


@pytest.fixture(scope="session")
def answer() -> Callable[..., Prediction]:
    def build(
        mask: ArrayLike | None = None, *, box: Box | None = None, status: Status = "ok", name: str = "s"
    ) -> Prediction:
        return Prediction(name, status, mask=None if mask is None else as_rle(mask), box=box)

    return build


@pytest.fixture(scope="session")
def make_score() -> MakeScore:
    def build(name: str = "s", image: str = "i", intersection: int = 1, union: int = 2, **changes: object) -> Score:
        fields: dict[str, object] = {
            "sample_id": name,
            "image_id": image,
            "status": "ok",
            "intersection": intersection,
            "union": union,
            "pred_area": intersection,
            "gt_area": union,
            "iou": intersection / union if union else 1.0,
            "box_iou": 0.5,
            "boundary_iou": 0.25,
            "no_target": False,
            "has_mask": True,
            "predicted_empty": False,
            "counted": True,
        }
        return Score(**{**fields, **changes})  # type: ignore[arg-type]

    return build
