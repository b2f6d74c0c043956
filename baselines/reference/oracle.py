"""Models that are told the ground truth: the bounds between which every other model lies."""

from __future__ import annotations

from lens_bench.masks import box_mask, box_of, empty, merge_truth
from lens_bench.records import Box, GroundTruth, Prediction, Query, Rle, Size

from .weightless import Weightless


def truth_of(query: Query) -> GroundTruth:
    """The annotation a query carries for models whose card says ``sees_ground_truth: true``."""
    if query.truth is None:
        raise ValueError(f"{query.sample_id} came without its ground truth: the card must say sees_ground_truth: true")
    return query.truth


def target_of(truth: GroundTruth) -> tuple[Rle, Box | None]:
    """The union of the annotated parts, and the annotation's own box or else the tight one (None if empty).

    Ignore regions are left in where a part covers them: ``strict`` excludes them on both sides.
    """
    union, _, _ = merge_truth(truth)
    return union, truth.box or box_of(union)


class Oracle(Weightless):
    """Answers with the union of the annotated parts, and with no mask where nothing is meant."""

    def answer(self, query: Query, size: Size) -> Prediction:
        """The ground truth."""
        truth = truth_of(query)
        if truth.no_target:
            return Prediction(query.sample_id, "no_mask")
        mask, box = target_of(truth)
        return Prediction(query.sample_id, "ok", mask=mask, box=box)


class OracleBox(Weightless):
    """Answers with the annotated box, filled: every box is right, few masks are."""

    def answer(self, query: Query, size: Size) -> Prediction:
        """The filled box."""
        truth = truth_of(query)
        if truth.no_target:
            return Prediction(query.sample_id, "no_mask")
        _, box = target_of(truth)
        mask = box_mask(box, truth.size) if box else empty(truth.size)
        return Prediction(query.sample_id, "ok", mask=mask, box=box)
