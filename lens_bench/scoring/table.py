"""Scores as columns: built once, shared by the metrics and the statistics."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from lens_bench.errors import DataError
from lens_bench.records import Score

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Kinds:
    """What a model answers with, decided on all its scores: a tag on which it refuses does not change what it is.

    Attributes:
        masks: Mask metrics apply: some answer holds a mask, or nothing was answered at all.
        boxes: Box metrics apply: some answer holds something to compare with an annotated box.
    """

    masks: bool
    boxes: bool


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """One row per expression, in the order of sample ids, so that no sum depends on the order scores came in.

    ``nan`` stands for None. ``cluster`` is the one identity of images that all statistics use: a number from 0 to
    ``n_images - 1`` in the order of image ids.
    """

    sample_ids: tuple[str, ...]
    image_ids: tuple[str, ...]
    cluster: Ints
    ok: Bools
    no_mask: Bools
    error: Bools
    intersection: Ints
    union: Ints
    iou: Floats
    box_iou: Floats
    boundary_iou: Floats
    no_target: Bools
    has_mask: Bools
    predicted_empty: Bools
    counted: Bools
    unread: Bools
    tags: tuple[tuple[str, ...], ...]
    kinds: Kinds

    @classmethod
    def of(cls, scores: Iterable[Score]) -> ScoreTable:
        """Build the columns.

        Raises:
            DataError: A sample is scored twice, or a count is larger than any image.
        """
        rows = sorted(scores, key=lambda s: s.sample_id)
        for first, second in itertools.pairwise(rows):
            if first.sample_id == second.sample_id:
                raise DataError(f"{first.sample_id} is scored twice", "every expression may count once")
        image_ids = tuple(r.image_id for r in rows)
        answered = [r for r in rows if r.status == "ok" and r.counted]
        kinds = Kinds(
            masks=not answered or any(r.has_mask for r in answered),
            boxes=any(r.box_iou is not None for r in answered),
        )
        return cls(
            sample_ids=tuple(r.sample_id for r in rows),
            image_ids=image_ids,
            cluster=cluster_index(image_ids),
            ok=_bools(rows, lambda r: r.status == "ok"),
            no_mask=_bools(rows, lambda r: r.status == "no_mask"),
            error=_bools(rows, lambda r: r.status == "error"),
            intersection=_counts(rows, lambda r: r.intersection),
            union=_counts(rows, lambda r: r.union),
            iou=np.array([r.iou for r in rows], dtype=np.float64),
            box_iou=np.array([r.box_iou for r in rows], dtype=np.float64),
            boundary_iou=np.array([r.boundary_iou for r in rows], dtype=np.float64),
            no_target=_bools(rows, lambda r: r.no_target),
            has_mask=_bools(rows, lambda r: r.has_mask),
            predicted_empty=_bools(rows, lambda r: r.predicted_empty),
            counted=_bools(rows, lambda r: r.counted),
            unread=_bools(rows, lambda r: r.unread),
            tags=tuple(r.tags for r in rows),
            kinds=kinds,
        )

    def __len__(self) -> int:
        return len(self.sample_ids)

    @property
    def n_images(self) -> int:
        """Number of distinct images."""
        return int(self.cluster.max()) + 1 if len(self) else 0

    def rows(self, index: Ints | Bools) -> ScoreTable:
        """The chosen rows as a table of its own, with images numbered anew."""
        where = np.flatnonzero(index) if index.dtype == np.bool_ else np.sort(index)
        image_ids = tuple(self.image_ids[i] for i in where)
        return ScoreTable(
            sample_ids=tuple(self.sample_ids[i] for i in where),
            image_ids=image_ids,
            cluster=cluster_index(image_ids),
            ok=self.ok[where],
            no_mask=self.no_mask[where],
            error=self.error[where],
            intersection=self.intersection[where],
            union=self.union[where],
            iou=self.iou[where],
            box_iou=self.box_iou[where],
            boundary_iou=self.boundary_iou[where],
            no_target=self.no_target[where],
            has_mask=self.has_mask[where],
            predicted_empty=self.predicted_empty[where],
            counted=self.counted[where],
            unread=self.unread[where],
            tags=tuple(self.tags[i] for i in where),
            kinds=self.kinds,
        )

    def by_tag(self) -> dict[str, ScoreTable]:
        """The rows of every tag, tags in alphabetical order. A row with two tags is in both tables."""
        members: dict[str, list[int]] = {}
        for index, tags in enumerate(self.tags):
            for tag in set(tags):
                members.setdefault(tag, []).append(index)
        return {tag: self.rows(np.array(members[tag], dtype=np.int64)) for tag in sorted(members)}


def cluster_index(image_ids: Sequence[str]) -> Ints:
    """Number images from 0 in the order of their ids: the single source of cluster identity."""
    numbers = {image: number for number, image in enumerate(sorted(set(image_ids)))}
    return np.array([numbers[image] for image in image_ids], dtype=np.int64)


def _bools(rows: Sequence[Score], read: Callable[[Score], bool]) -> Bools:
    return np.array([read(r) for r in rows], dtype=np.bool_)


def _counts(rows: Sequence[Score], read: Callable[[Score], int]) -> Ints:
    try:
        return np.array([read(r) for r in rows], dtype=np.int64)
    except OverflowError:
        row = max(rows, key=read)
        raise DataError(f"the score of {row.sample_id} counts more pixels than any image has") from None
