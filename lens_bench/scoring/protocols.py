"""Scoring protocols: every choice that turns predictions into a number, as named presets.

The papers' own scripts disagree on the ground truth, on what an empty mask is worth and on the sums. A ``Protocol`` is
the list of those choices and nothing else; ``counts.py`` and ``metrics.py`` carry them out, ``explain.py`` says in
words what each one does to the number. ``strict`` is the protocol we defend, the others reproduce their sources.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

from lens_bench.errors import UsageError

Select: TypeAlias = Literal["all", "one_per_ref", "three_per_image"]
Merge: TypeAlias = Literal["union", "once"]
Ignore: TypeAlias = Literal["exclude", "background", "foreground"]
Missing: TypeAlias = Literal["empty", "zero", "drop"]
NoTargetRule: TypeAlias = Literal["plain", "gres"]
PrecisionOn: TypeAlias = Literal["all", "targeted"]

PRECISION_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, slots=True)
class Protocol:
    """How predictions become a number. The defaults are those of ``strict``.

    Attributes:
        name: What the command line calls it.
        summary: One line on what it is.
        source: Where it comes from: paper and repository.
        select: Which expressions count. ``all``; ``one_per_ref``: the first of each referent by the set's own key;
            ``three_per_image``: at most three of an image, drawn as a function of (seed, image, sample) alone.
        merge: ``union`` of the parts; ``once``: parts are summed and only the value 1 is foreground, so that pixels
            where parts overlap become background.
        ignore: Ignore pixels leave every count (``exclude``), or are ``background``, or are ``foreground``.
        resize: Side in pixels of the square that truth and prediction are sampled to (nearest) before they are
            compared; None compares at the image's own size.
        scale_polygons: With ``resize``, polygons of the truth are scaled to the square before they are drawn, instead
            of drawn at the image's size and then sampled. Masks are sampled either way.
        empty_union_iou: IoU of a sample whose union is empty; None drops the sample.
        iou_epsilon: Added to the union of one sample before dividing.
        ciou_epsilon: Added to the sum of unions before dividing.
        mean_epsilon: Added to the number of samples before dividing for gIoU.
        on_error: A failed prediction is an ``empty`` mask; or one with an IoU of ``zero`` even where the target is
            empty too; or the sample is dropped from every sum (``drop``).
        on_no_mask: The same for a prediction without a mask, and for a prediction that is missing altogether.
        no_target: ``plain``: expressions without a target are scored by their pixels like all others. ``gres``: by
            the decision "nothing is meant" (Liu et al., CVPR 2023).
        min_pixels: A mask of fewer pixels says "nothing is meant". 50 is the convention of GRES for models that have
            no head for this decision.
        precision_thresholds: The IoU values for which precision is reported; others are null.
        precision_on: Precision over ``all`` samples or over the ``targeted`` ones.
        pred_box_from_mask: A prediction without a box is given the tight box of its mask.
        truth_box_from_mask: An annotation without a box is given the tight box of its mask.
        box_inclusive: Box accuracy counts IoU >= 0.5 (True) or > 0.5.
    """

    name: str
    summary: str
    source: str
    select: Select = "all"
    merge: Merge = "union"
    ignore: Ignore = "exclude"
    resize: int | None = None
    scale_polygons: bool = False
    empty_union_iou: float | None = 1.0
    iou_epsilon: float = 0.0
    ciou_epsilon: float = 0.0
    mean_epsilon: float = 0.0
    on_error: Missing = "empty"
    on_no_mask: Missing = "empty"
    no_target: NoTargetRule = "plain"
    min_pixels: int = 1
    precision_thresholds: tuple[float, ...] = PRECISION_THRESHOLDS
    precision_on: PrecisionOn = "all"
    pred_box_from_mask: bool = True
    truth_box_from_mask: bool = True
    box_inclusive: bool = True


STRICT = Protocol(
    name="strict",
    summary="What we defend: union of parts, ignore excluded, every expression, nothing dropped, exact counts.",
    source="lens-bench. gIoU and cIoU as defined by Lai et al., LISA, CVPR 2024, section 4.1.",
)
"""The default. A missing or failed prediction is an empty mask and stays in the denominator; both empty is IoU 1."""

LISA = Protocol(
    name="lisa",
    summary="LISA's validation meter: summed parts, ignore excluded, empty union 1, small epsilons.",
    source="Lai et al., LISA, CVPR 2024; dvlab-research/LISA at 3cb2d43, train_ds.py validate, utils/utils.py.",
    merge="once",
    iou_epsilon=1e-5,
    ciou_epsilon=1e-10,
    mean_epsilon=1e-5,
)
"""Lai et al., LISA, CVPR 2024. Decoded polygons are summed and compared by histograms over [0, 1], which a value of 2
falls out of; the label 255 is taken out of prediction and truth alike."""

LENS = Protocol(
    name="lens",
    summary="LENS's evaluation scripts: as LISA's meter, but ignore regions count as background.",
    source="LENS, AAAI 2026; hustvl/LENS at 28cf510, eval/evaluate_res.py, evaluate_reasonseg.py, eval/utils.py.",
    merge="once",
    ignore="background",
    iou_epsilon=1e-5,
    ciou_epsilon=1e-8,
    mean_epsilon=1e-5,
)
"""LENS, AAAI 2026. The truth is binarised by ``== 1`` before it is scored, so 255 is background and a prediction there
is a false positive; the meter's ignore index has no effect any more."""

GLAMM = Protocol(
    name="glamm",
    summary="GLaMM's referring evaluation: LISA's meter on at most three random expressions per image.",
    source="Rasheed et al., GLaMM, CVPR 2024; mbzuai-oryx/groundingLMM at e74865f, eval/referring_seg.",
    select="three_per_image",
    merge="once",
    iou_epsilon=1e-5,
    ciou_epsilon=1e-10,
    mean_epsilon=1e-5,
)
"""Rasheed et al., GLaMM, CVPR 2024. The original sets no seed, so its numbers move by about half a point between runs;
here the choice is a function of the seed."""

SEG_ZERO = Protocol(
    name="seg-zero",
    summary="Seg-Zero's script: ignore regions are target, one sentence per referent, failed rows count 0.",
    source="Liu et al., Seg-Zero, 2025; dvlab-research/Seg-Zero, evaluation_scripts/evaluation.py.",
    select="one_per_ref",
    ignore="foreground",
    empty_union_iou=None,
    on_error="zero",
    on_no_mask="zero",
    box_inclusive=False,
)
"""Liu et al., Seg-Zero, 2025. The masks of its mirrors were made by ``astype(bool)``, which turns 255 into target. A
row that raises, in the parser or in SAM 2, scores I=0 over the truth's area and stays, with an IoU of 0 where the truth
is empty. Only a row that did not fail and has an empty union is skipped. Which sentence the mirrors keep of each
referent is not documented: the first is taken. The script measures no boxes; the box rule is ``visionreasoner``'s."""

VISIONREASONER = dataclasses.replace(
    SEG_ZERO,
    name="visionreasoner",
    summary="VisionReasoner in Seg-Zero's repository: as seg-zero, but rows that raise in SAM 2 are dropped.",
    source="Liu et al., VisionReasoner, 2025; dvlab-research/Seg-Zero, evaluation_visionreasoner.py.",
    on_error="drop",
)
"""Liu et al., VisionReasoner, 2025, by the script in Seg-Zero's repository. An answer that its parser cannot read stays
with I=0 over the truth's area (here ``no_mask``); a row that raises in SAM 2 (here ``error``) is dropped.
VisionReasoner's own repository drops nothing. A box is right if its IoU exceeds 0.5. DEVIATIONS: the script takes the
best of several predicted boxes, of which a prediction has one; it skips an empty list of objects where the truth is
empty too, which here is a ``no_mask`` and scores 0."""

GSEVAL = Protocol(
    name="gseval",
    summary="GroundingSuite-Eval: mean IoU or box accuracy against the annotation's own box; missing counts 0.",
    source="Hu et al., GroundingSuite, ICCV 2025; hustvl/GroundingSuite, evaluate_grounding.py.",
    empty_union_iou=0.0,
    pred_box_from_mask=False,
    truth_box_from_mask=False,
)
"""Hu et al., GroundingSuite, ICCV 2025. Averages are taken over rows (micro), per class through the tags. DEVIATION:
the official evaluator skips rows without a prediction, which shrinks the denominator of models that refuse; here they
count 0. ``dataclasses.replace(GSEVAL, on_no_mask="drop")`` is the official rule."""

GRES = Protocol(
    name="gres",
    summary="Generalised referring (gRefCOCO) as GSVA and later models score it: GRES's rules at the image's size.",
    source="Liu et al., GRES, CVPR 2023; henghuiding/ReLA, gres_model/evaluation/refer_evaluation.py; GSVA, CVPR 2024.",
    empty_union_iou=0.0,
    no_target="gres",
    min_pixels=50,
    precision_thresholds=(0.7, 0.8, 0.9),
    precision_on="targeted",
)
"""Liu et al., GRES, CVPR 2023. Decided by the answer "nothing is meant", not by pixels: right on an expression without
target is IoU 1 and adds nothing to I and U; wrong there adds the predicted area to U; "nothing" on a targeted
expression is IoU 0 with the union of both masks in U. A model says "nothing" by status ``no_mask`` or by a mask of
fewer than 50 pixels. Masks are compared at the size of the image, as GSVA and later models do; ReLA's own figures are
at 480x480: see ``rela``."""

RELA = dataclasses.replace(
    GRES,
    name="rela",
    summary="ReLA's own figures on gRefCOCO: as gres, but truth and prediction at 480x480.",
    source="Liu et al., GRES, CVPR 2023; henghuiding/ReLA, refcoco_mapper.py, GRES.py, refer_evaluation.py.",
    resize=480,
    scale_polygons=True,
)
"""Liu et al., GRES, CVPR 2023. ReLA's mapper resizes the image and scales the polygons to 480x480 before they are
drawn, and its evaluator compares there; nothing is scaled back. A predicted mask, stored at the size of the image, is
sampled to the square by nearest neighbour, as the mapper's library samples masks. ``min_pixels`` counts pixels of the
square; ReLA itself decides "nothing" by a classifier, which is status ``no_mask``."""

LAVT = Protocol(
    name="lavt",
    summary="LAVT and RMSIN: truth and prediction at 480x480, summed parts, empty union 0.",
    source="Yang et al., LAVT, CVPR 2022; yz93/LAVT-RIS, test.py and data/dataset_refer_bert.py.",
    merge="once",
    ignore="background",
    resize=480,
    empty_union_iou=0.0,
)
"""Yang et al., LAVT, CVPR 2022. The truth is squeezed to 480x480 by nearest sampling, so every image weighs the same
number of pixels in cIoU whatever its size and aspect."""

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {p.name: p for p in (STRICT, LISA, LENS, GLAMM, SEG_ZERO, VISIONREASONER, GSEVAL, GRES, RELA, LAVT)}
)


def get_protocol(name: str) -> Protocol:
    """The preset of this name.

    Raises:
        UsageError: There is none; the hint offers the nearest names.
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    near = difflib.get_close_matches(name.lower().replace("_", "-"), PROTOCOLS, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(PROTOCOLS)}"
    raise UsageError(f"no protocol is called {name!r}", hint)
