"""Whether stored scores are what scoring can have given: their integers against one another, and the IoU against them.

This finds a damaged or edited file. It does not find one where somebody rewrote predictions, scores and summary so that
they agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from lens_bench.errors import DataError
from lens_bench.records import Score
from lens_bench.scoring.counts import rule, says_nothing
from lens_bench.scoring.protocols import Protocol
from lens_bench.scoring.select import PER_IMAGE


def check_scores(scores: Iterable[Score], protocol: Protocol, *, whole: bool) -> None:
    """Check every score under the protocol that it claims to be of.

    Args:
        scores: Of one run.
        protocol: Under which they were computed.
        whole: They are all scores of the run, so that a selection of the protocol can be checked, too.

    Raises:
        DataError: Names the first score that is not what scoring gives, and how.
    """
    asked: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    for score in scores:
        problem, selected = _problem(score, protocol)
        if problem:
            raise DataError(f"the score of {score.sample_id} is not one of {protocol.name}: {problem}")
        asked[score.image_id] += 1
        left_out[score.image_id] += not selected
    if protocol.select == "all":
        return
    least = PER_IMAGE if protocol.select == "three_per_image" else 1
    for image, number in asked.items():
        chosen = number - left_out[image]
        most = PER_IMAGE if protocol.select == "three_per_image" else number
        if chosen > most or (whole and chosen < min(least, number)):
            raise DataError(
                f"{chosen} of the {number} scores of image {image} count, which {protocol.name} does not give"
            )


def _problem(score: Score, protocol: Protocol) -> tuple[str, bool]:
    """What is wrong with a score, empty for nothing; and whether the protocol's selection holds it."""
    pred, gt, shared = score.pred_area, score.gt_area, score.intersection
    if shared > min(pred, gt):
        return f"intersection {shared} of areas {pred} and {gt}", True
    if pred and not score.has_mask:
        return f"a predicted area of {pred} without a mask", True
    silent = says_nothing(protocol, score.status, has_mask=score.has_mask, pred_area=pred)
    if silent != score.predicted_empty:
        return f"predicted_empty is {score.predicted_empty} for {pred} pixels and status {score.status}", True
    # Some rules leave the intersection out of the sums, so it is taken from the union first.
    for overlap in (pred + gt - score.union, shared):
        if not 0 <= overlap <= min(pred, gt):
            continue
        found = rule(
            protocol,
            score.status,
            no_target=score.no_target,
            silent=silent,
            intersection=overlap,
            union=pred + gt - overlap,
        )
        if (found.intersection, found.union) == (shared, score.union):
            break
    else:
        return f"intersection {shared} and union {score.union} of areas {pred} and {gt}", True
    selected = score.counted or not found.kept
    if score.counted != found.kept and (score.counted or protocol.select == "all"):
        return f"counted is {score.counted} for status {score.status} and union {score.union}", selected
    if score.iou != (found.iou if score.counted else None):
        return f"IoU {score.iou} of intersection {shared} and union {score.union}", selected
    return "", selected
