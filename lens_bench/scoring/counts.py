"""One expression under one protocol: from run lengths to exact integer counts.

Masks stay run lengths; pixels are made only for the boundary band, for the resize of ``lavt`` and ``rela``, and where
parts or ignore regions overlap the target. What an annotation becomes under a protocol is kept for the next expression
of the same referent.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from lens_bench import masks
from lens_bench.answers import UNREAD
from lens_bench.errors import DataError
from lens_bench.records import Box, GroundTruth, Outline, Part, Polygon, Prediction, Rle, Sample, Score, Status
from lens_bench.scoring.boundary import EMPTY_BAND, Band, Figure, band_iou, band_of, figures_of, without
from lens_bench.scoring.protocols import Protocol
from lens_bench.scoring.select import select_ids

CACHED_TRUTHS = 64  # more than the referents of one image; expressions come image by image


@dataclass(frozen=True, slots=True)
class PreparedTruth:
    """An annotation as a protocol reads it.

    Attributes:
        target: Foreground at the size that is scored, ignore regions already dealt with.
        ignore: Pixels that leave every count, at the same size; None where there are none.
        area: Of ``target``.
        box: The box to compare with, in pixels of the original image.
        band: Boundary band of ``target``.
    """

    target: Rle
    ignore: Rle | None
    area: int
    box: Box | None
    band: Band


def prepare_truth(truth: GroundTruth, protocol: Protocol) -> PreparedTruth:
    """Merge, resize and apply the ignore rule. Where target and ignore overlap, the ignore region wins.

    Raises:
        DataError: A part cannot be read or has another size than the annotation.
    """
    target, ignored = _merged(truth, protocol)
    box = None if truth.box is None and not protocol.truth_box_from_mask else masks.truth_box(truth, target)
    if protocol.scale_polygons and protocol.resize:
        target, ignored = _merged(_scaled(truth, protocol.resize), protocol)
    ignore: Rle | None = None
    if masks.area(ignored):
        if protocol.ignore == "foreground":
            target = masks.union([target, ignored], truth.size)
        else:
            target = _subtract(target, ignored)
        ignore = ignored if protocol.ignore == "exclude" else None
    target = _sampled(target, protocol.resize)
    ignore = None if ignore is None else _sampled(ignore, protocol.resize)
    return PreparedTruth(target, ignore, masks.area(target), box, band_of(target, ignore))


@dataclass(frozen=True, slots=True)
class Answer:
    """A prediction as a protocol reads it.

    Attributes:
        prediction: As given; None where there is none, which is read as ``no_mask``.
        status: The one that counts.
        mask: At the size that is scored; None where the protocol takes none from this prediction.
        figure: Of ``mask``.
    """

    prediction: Prediction | None
    status: Status
    mask: Rle | None
    figure: Figure | None


def answer_rules(protocol: Protocol) -> tuple[int | None, bool]:
    """What ``read_answers`` takes of a protocol: where it is equal, the answers are."""
    return protocol.resize, protocol.no_target == "gres"


def read_answers(pairs: Sequence[tuple[Sample, Prediction | None]], protocol: Protocol) -> list[Answer]:
    """Read predictions under a protocol. Their masks are measured together, which is faster than one by one.

    Raises:
        DataError: A predicted mask has another size than its annotation.
    """
    read = [_scored_mask(sample, prediction, protocol) for sample, prediction in pairs]
    found = iter(figures_of([mask for mask in read if mask is not None]))
    return [
        Answer(prediction, _status(prediction), mask, None if mask is None else next(found))
        for (_, prediction), mask in zip(pairs, read, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a protocol makes of the counts of one expression.

    Attributes:
        intersection: As it enters the sums, like ``union``.
        iou: None where the protocol gives none.
        kept: False where the protocol drops the expression from every sum.
    """

    intersection: int
    union: int
    iou: float | None
    kept: bool


def says_nothing(protocol: Protocol, status: Status, *, has_mask: bool, pred_area: int) -> bool:
    """Whether the protocol reads an answer as "nothing is meant". An answer with a box alone says something."""
    return status != "ok" or (has_mask and pred_area < protocol.min_pixels)


def rule(protocol: Protocol, status: Status, *, no_target: bool, silent: bool, intersection: int, union: int) -> Ruling:
    """Apply the protocol to the pixel counts of one expression.

    Args:
        protocol: The rules.
        status: The one that counts.
        no_target: The expression has no referent.
        silent: ``says_nothing`` of the answer.
        intersection: Pixels of both masks.
        union: Pixels of at least one mask.
    """
    failed = protocol.on_error if status == "error" else protocol.on_no_mask if status == "no_mask" else None
    iou: float | None
    if protocol.no_target == "gres" and (silent or no_target):
        iou = 1.0 if silent and no_target else 0.0
        intersection, union = 0, (0 if iou else union)
    elif union:
        iou = intersection / (union + protocol.iou_epsilon)
    else:
        iou = 0.0 if failed == "zero" else protocol.empty_union_iou
    return Ruling(intersection, union, iou, failed != "drop" and iou is not None)


def score_answer(
    sample: Sample, answer: Answer, protocol: Protocol, truth: PreparedTruth, *, selected: bool = True
) -> Score:
    """Score one expression.

    Args:
        sample: The expression.
        answer: What was answered, read under ``protocol``.
        protocol: The rules.
        truth: ``prepare_truth(sample.truth, protocol)``.
        selected: False where the protocol's selection leaves the expression out.
    """
    status, mask, figure = answer.status, answer.mask, answer.figure
    pred_area, intersection = 0, 0
    if mask is not None and figure is not None:
        intersection = masks.overlap(mask, truth.target)
        pred_area = figure.area - (masks.overlap(mask, truth.ignore) if truth.ignore is not None else 0)
    silent = says_nothing(protocol, status, has_mask=mask is not None, pred_area=pred_area)
    ruling = rule(
        protocol,
        status,
        no_target=sample.truth.no_target,
        silent=silent,
        intersection=intersection,
        union=pred_area + truth.area - intersection,
    )
    counted = selected and ruling.kept
    band = EMPTY_BAND if figure is None or silent else without(figure.band, truth.ignore)
    return Score(
        sample_id=sample.id,
        image_id=sample.image_id,
        status=status,
        intersection=ruling.intersection,
        union=ruling.union,
        pred_area=pred_area,
        gt_area=truth.area,
        iou=ruling.iou if counted else None,
        box_iou=_box_iou(answer, protocol, truth.box),
        boundary_iou=band_iou(band, truth.band),
        no_target=sample.truth.no_target,
        has_mask=mask is not None,
        predicted_empty=silent,
        counted=counted,
        tags=sample.tags,
        unread=status != "error" and answer.prediction is not None and answer.prediction.error == UNREAD,
    )


class Scorer:
    """Scores the expressions of one run under one protocol. Safe to call from several threads.

    Args:
        protocol: The rules.
        samples: All expressions of the split, which the protocol selects from. Only read where it selects.
        seed: Of the selection.
        prepare: Instead of ``prepare_truth`` under the protocol: something that knows the results already.
    """

    def __init__(
        self,
        protocol: Protocol,
        samples: Iterable[Sample],
        seed: int = 0,
        prepare: Callable[[GroundTruth], PreparedTruth] | None = None,
    ) -> None:
        self.protocol = protocol
        self._prepare = prepare or (lambda truth: prepare_truth(truth, protocol))
        self._selected = None if protocol.select == "all" else select_ids(samples, protocol.select, seed)
        self._truths: OrderedDict[int, tuple[GroundTruth, PreparedTruth]] = OrderedDict()
        self._lock = threading.Lock()

    def prepare(self, truth: GroundTruth) -> PreparedTruth:
        """What ``truth`` is under the protocol, remembered while its neighbours are scored."""
        key = id(truth)  # valid while the entry keeps the object alive
        with self._lock:
            found = self._truths.get(key)
            if found is not None:
                self._truths.move_to_end(key)
                return found[1]
        prepared = self._prepare(truth)
        with self._lock:
            self._truths[key] = (truth, prepared)
            while len(self._truths) > CACHED_TRUTHS:
                self._truths.popitem(last=False)
        return prepared

    def score(self, sample: Sample, prediction: Prediction | None) -> Score:
        """Score one expression; ``None`` stands for a prediction that is missing. See ``score_answer``."""
        return self.score_all([(sample, prediction)])[0]

    def score_all(
        self, pairs: Sequence[tuple[Sample, Prediction | None]], answers: Sequence[Answer] | None = None
    ) -> list[Score]:
        """Score several expressions: the same scores as one by one, in half the time.

        Args:
            pairs: The expressions, each with what was answered.
            answers: ``read_answers(pairs, protocol)`` of a protocol with equal ``answer_rules``, where at hand.
        """
        read = read_answers(pairs, self.protocol) if answers is None else answers
        return [
            score_answer(
                sample,
                answer,
                self.protocol,
                self.prepare(sample.truth),
                selected=self._selected is None or sample.id in self._selected,
            )
            for (sample, _), answer in zip(pairs, read, strict=True)
        ]


def _status(prediction: Prediction | None) -> Status:
    """The status that counts: an ``ok`` that holds neither mask nor box is no answer."""
    if prediction is None or (prediction.status == "ok" and prediction.mask is None and prediction.box is None):
        return "no_mask"
    return prediction.status


def _scored_mask(sample: Sample, prediction: Prediction | None, protocol: Protocol) -> Rle | None:
    """The predicted mask as the protocol sees it; None where it takes none from this prediction.

    A mask beside ``no_mask`` is one that the model made and then refused: GRES counts its pixels, the others do not.
    """
    if prediction is None or prediction.mask is None:
        return None
    if prediction.mask.size != sample.truth.size:
        (height, width), (rows, columns) = prediction.mask.size, sample.truth.size
        raise DataError(
            f"the predicted mask of {sample.id} is {width}x{height}, its image is {columns}x{rows}",
            "masks are scored at the original size of the image: resize them before they are written",
        )
    side, counts_refused = answer_rules(protocol)
    refused = prediction.status == "no_mask" and counts_refused
    return _sampled(prediction.mask, side) if prediction.status == "ok" or refused else None


def _box_iou(answer: Answer, protocol: Protocol, truth_box: Box | None) -> float | None:
    """None where nothing can be compared; 0 where the annotation has a box and the prediction should have one."""
    if truth_box is None:
        return None
    prediction = answer.prediction if answer.status == "ok" else None
    if prediction is None:
        return 0.0
    box = prediction.box
    if box is None and prediction.mask is not None:
        if not protocol.pred_box_from_mask:
            return None
        resized = answer.figure is None or answer.mask is not prediction.mask
        box = masks.box_of(prediction.mask) if resized or answer.figure is None else answer.figure.box
    return 0.0 if box is None else masks.box_iou(box, truth_box)


def _merged(truth: GroundTruth, protocol: Protocol) -> tuple[Rle, Rle]:
    """Target and ignore region before the ignore rule."""
    joined, once, ignored = masks.merge_truth(truth)
    return (once if protocol.merge == "once" else joined), ignored


def _scaled(truth: GroundTruth, side: int) -> GroundTruth:
    """The annotation in a square: points multiplied by the ratio of the sides, masks sampled by nearest neighbour.

    The order of the operations (a ratio first, then a product in float64) is that of detectron2's ``ResizeTransform``.
    """
    factors = (side / truth.size[1], side / truth.size[0])

    def points(flat: Sequence[float]) -> tuple[float, ...]:
        return tuple(value * factors[place % 2] for place, value in enumerate(flat))

    def parts(found: Sequence[Part]) -> tuple[Part, ...]:
        return tuple(
            Polygon(points(part.points))
            if isinstance(part, Polygon)
            else _sampled(masks.part_rle(part, truth.size), side)
            for part in found
        )

    outlines = tuple(Outline(points(outline.points), outline.ignore) for outline in truth.outlines)
    return replace(truth, size=(side, side), parts=parts(truth.parts), outlines=outlines, ignore=parts(truth.ignore))


def _subtract(rle: Rle, other: Rle) -> Rle:
    return masks.encode(masks.decode(rle) & ~masks.decode(other)) if masks.overlap(rle, other) else rle


def _sampled(rle: Rle, side: int | None) -> Rle:
    """Nearest sampling to ``side`` x ``side`` by Pillow itself: its rounding is part of the protocol."""
    if side is None or rle.size == (side, side):
        return rle
    image = Image.fromarray(np.ascontiguousarray(masks.decode(rle)).view(np.uint8))
    return masks.encode(np.asarray(image.resize((side, side), Image.Resampling.NEAREST)))
