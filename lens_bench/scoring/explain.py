"""What each choice of a protocol is for and what it does to the number, in plain sentences."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TypeAlias

from lens_bench.scoring.protocols import STRICT, Protocol

FieldValue: TypeAlias = str | int | float | bool | tuple[float, ...] | None

PROSE = frozenset({"name", "summary", "source"})

# Sentences that hold for one value of a field.
WHY_VALUE: dict[tuple[str, FieldValue], str] = {
    ("select", "all"): "Every expression of the split counts.",
    ("select", "one_per_ref"): (
        "The authors' data keeps one sentence of each referent, so a third to a half of the expressions count and "
        "referents that are easy to describe in many ways weigh less."
    ),
    ("select", "three_per_image"): (
        "The authors sample at most three expressions per image without a seed, so crowded images weigh less and the "
        "original numbers move by about half a point from run to run."
    ),
    ("merge", "union"): "A pixel belongs to the target if any part covers it.",
    ("merge", "once"): (
        "The authors sum decoded polygons and compare with 1, so pixels where parts overlap (value 2) become "
        "background: a perfect mask loses there and its IoU falls below 1."
    ),
    ("ignore", "exclude"): "Ignore pixels leave prediction, target and union.",
    ("ignore", "background"): (
        "The authors binarise the label map, so ignore regions become background and a prediction there is a false "
        "positive: numbers are lower than with ignore excluded."
    ),
    ("ignore", "foreground"): (
        "The authors' masks were cast to bool, so ignore regions became target: a model that leaves them out loses "
        "intersection, one that covers them gains."
    ),
    ("no_target", "plain"): "Expressions without a target are scored by their pixels like all others.",
    ("no_target", "gres"): (
        "The answer 'nothing is meant' decides, not the pixels: right on an expression without target is IoU 1 and "
        "adds nothing to the sums, wrong adds the predicted area to the union, and 'nothing' for a target is IoU 0."
    ),
    ("on_error", "empty"): "A failed prediction is an empty mask and stays in every denominator.",
    ("on_error", "zero"): (
        "A failed prediction is an empty mask and stays in every denominator, with an IoU of 0 even where the target "
        "is empty too."
    ),
    ("on_error", "drop"): (
        "The authors' script skips a row that raises, so failures leave the average and the number goes up with them."
    ),
    ("on_no_mask", "empty"): "A missing prediction is an empty mask and stays in every denominator.",
    ("on_no_mask", "zero"): (
        "An answer that cannot be read, or none at all, stays with IoU 0, even where the target is empty and nothing "
        "was the right answer."
    ),
    ("on_no_mask", "drop"): "A row without a prediction is skipped, so the number goes up when a model refuses.",
    ("precision_on", "all"): "Precision is a share of all counted expressions.",
    (
        "precision_on",
        "targeted",
    ): "Precision is a share of the expressions that have a target; the others are left out.",
    ("pred_box_from_mask", True): "A prediction without a box is compared by the tight box of its mask.",
    ("pred_box_from_mask", False): "Only a box that the model says itself counts; a null box is wrong.",
    ("truth_box_from_mask", True): "An annotation without a box is given the tight box of its mask.",
    ("truth_box_from_mask", False): (
        "Only the annotation's own box counts; it can differ much from the tight box of the mask, so one cannot stand "
        "for the other."
    ),
    ("box_inclusive", True): "A box with an IoU of exactly 0.5 is right.",
    ("box_inclusive", False): "A box must exceed an IoU of 0.5, so one of exactly 0.5 is wrong.",
    ("empty_union_iou", 1.0): "An empty mask for an empty target is right: IoU 1.",
    ("empty_union_iou", 0.0): "The authors give IoU 0 where both masks are empty, so a right empty answer lowers gIoU.",
    ("empty_union_iou", None): (
        "The authors' script skips a row whose union is empty, unless the answer failed (see on_error and on_no_mask)."
    ),
    ("resize", None): "Masks are compared at the size of the image.",
    ("scale_polygons", False): "Polygons are drawn at the size of the image.",
    ("scale_polygons", True): (
        "The authors scale polygons to the square and draw them there, so outlines differ by a pixel from masks that "
        "are drawn first and then sampled, and thin parts survive."
    ),
}

# Sentences that hold for any value of a field.
WHY_FIELD: dict[str, str] = {
    "resize": (
        "The authors squeeze the truth to this square before comparing, so every image weighs alike in cIoU, thin "
        "parts vanish and numbers are not comparable with full-size ones."
    ),
    "iou_epsilon": "The authors add this to each union; a perfect IoU stays below 1 by about epsilon over the area.",
    "ciou_epsilon": "The authors add this to the sum of unions; the effect is far below any digit that is printed.",
    "mean_epsilon": "The authors add this to the number of samples for gIoU; no printed digit changes.",
    "min_pixels": (
        "A mask of fewer pixels says 'nothing is meant', the convention for models without a head that says so: it "
        "rewards a few stray pixels on expressions without target and punishes tiny masks of real ones."
    ),
    "precision_thresholds": "The authors report precision at these thresholds alone; others are null.",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """One choice in which a protocol differs from ``strict``."""

    field: str
    strict: FieldValue
    value: FieldValue
    why: str


def why(field: str, value: FieldValue) -> str:
    """The sentence for one choice.

    Raises:
        KeyError: There is no such field, or the field does not take this value.
    """
    if (field, value) in WHY_VALUE:
        return WHY_VALUE[field, value]
    return WHY_FIELD[field]


def choices(protocol: Protocol) -> dict[str, FieldValue]:
    """All choices of a protocol by field, without its name, summary and source."""
    return {f.name: getattr(protocol, f.name) for f in dataclasses.fields(protocol) if f.name not in PROSE}


def explain(protocol: Protocol, base: Protocol = STRICT) -> tuple[Difference, ...]:
    """Every field in which ``protocol`` differs from ``base``, each with the sentence that says why; empty if none."""
    theirs, ours = choices(protocol), choices(base)
    return tuple(Difference(n, ours[n], theirs[n], why(n, theirs[n])) for n in theirs if theirs[n] != ours[n])
