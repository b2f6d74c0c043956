"""The papers' meters written again, densely and from their descriptions, against the run-length counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from lens_bench import masks
from lens_bench.records import GroundTruth, Polygon, Prediction, Sample
from lens_bench.scoring.counts import Scorer, prepare_truth
from lens_bench.scoring.metrics import summarise
from lens_bench.scoring.protocols import (
    GRES,
    GSEVAL,
    LAVT,
    LENS,
    LISA,
    RELA,
    SEG_ZERO,
    STRICT,
    VISIONREASONER,
    Protocol,
)

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Case:
    """One expression as dense arrays: parts of the target, ignore regions, and the answer (None: no answer)."""

    parts: tuple[Bools, ...]
    ignore: tuple[Bools, ...]
    predicted: Bools | None

    @property
    def pred(self) -> NDArray[np.int64]:
        shape = self.parts[0].shape
        return np.zeros(shape, np.int64) if self.predicted is None else self.predicted.astype(np.int64)

    @property
    def summed(self) -> NDArray[np.int64]:
        return np.sum(self.parts, axis=0, dtype=np.int64)

    @property
    def ignored(self) -> Bools:
        return np.any(self.ignore, axis=0) if self.ignore else np.zeros(self.parts[0].shape, bool)


@st.composite
def cases(draw: st.DrawFn, with_ignore: bool = True) -> list[Case]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    found = []
    for _ in range(draw(st.integers(1, 4))):
        size = (draw(st.integers(1, 8)), draw(st.integers(1, 8)))
        shares = st.sampled_from([0.0, 0.2, 0.6, 1.0])
        parts = tuple(rng.random(size) < draw(shares) for _ in range(draw(st.integers(1, 3))))
        ignore = tuple(rng.random(size) < draw(shares) for _ in range(draw(st.integers(0, 2)) if with_ignore else 0))
        predicted = None if draw(st.integers(0, 5)) == 0 else rng.random(size) < draw(shares)
        found.append(Case(parts, ignore, predicted))
    return found


def bins(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts of 0 and of 1; anything else falls out, as in a histogram of two bins over [0, 1]."""
    return np.histogram(values.astype(np.float64), bins=2, range=(0, 1))[0]


def lisa_meter(found: list[Case], label: Callable[[Case], NDArray[np.int64]], c_eps: float) -> tuple[float, float]:
    """LISA's validation: class-wise histograms, class 1 reported. Returns (gIoU, cIoU)."""
    total_i, total_u, iou_sum = np.zeros(2), np.zeros(2), np.zeros(2)
    for case in found:
        target, out = label(case), case.pred.copy()
        out[target == 255] = 255
        inter = bins(out[out == target])
        union = bins(out) + bins(target) - inter
        iou = inter / (union + 1e-5)
        iou[union == 0] += 1.0
        total_i, total_u, iou_sum = total_i + inter, total_u + union, iou_sum + iou
    return iou_sum[1] / (len(found) + 1e-5), total_i[1] / (total_u[1] + c_eps)


def lisa_label(case: Case) -> NDArray[np.int64]:
    label = case.summed.copy()
    label[case.ignored] = 255
    return label


def lens_label(case: Case) -> NDArray[np.int64]:
    return (lisa_label(case) == 1).astype(np.int64)


def pixel_meter(
    found: list[Case], target: Callable[[Case], Bools], keep: Callable[[Case], Bools], empty: float | None
) -> tuple[float | None, float | None]:
    """Mean and cumulative IoU of plain boolean masks on the pixels to keep."""
    ious, total_i, total_u = [], 0, 0
    for case in found:
        t, p, k = target(case), case.pred == 1, keep(case)
        inter, union = int((t & p & k).sum()), int(((t | p) & k).sum())
        if union == 0 and empty is None:
            continue
        ious.append(inter / union if union else empty)
        total_i, total_u = total_i + inter, total_u + union
    return (float(np.mean(ious)) if ious else None), (total_i / total_u if total_u else None)


def scored(
    found: list[Case], protocol: Protocol, make_sample: Callable[..., Sample]
) -> tuple[float | None, float | None]:
    samples = [make_sample(c.parts, ignore=c.ignore, name=f"s{i}", image=f"i{i // 2}") for i, c in enumerate(found)]
    scorer = Scorer(protocol, samples)
    scores = []
    for sample, case in zip(samples, found, strict=True):
        answer = None
        if case.predicted is not None:
            answer = Prediction(sample.id, "ok", mask=make_sample([case.predicted]).truth.parts[0])  # type: ignore[arg-type]
        scores.append(scorer.score(sample, answer))
    metrics = summarise(scores, protocol)
    return metrics.giou, metrics.ciou


def agree(ours: tuple[float | None, float | None], theirs: tuple[float | None, float | None]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine is None) == (other is None)
        assert mine is None or mine == pytest.approx(other, abs=1e-12)


@given(cases())
def test_lisa_equals_its_histogram_meter(make_sample: Callable[..., Sample], found: list[Case]) -> None:
    agree(scored(found, LISA, make_sample), lisa_meter(found, lisa_label, 1e-10))


@given(cases())
def test_lens_equals_its_histogram_meter(make_sample: Callable[..., Sample], found: list[Case]) -> None:
    agree(scored(found, LENS, make_sample), lisa_meter(found, lens_label, 1e-8))


@given(cases())
def test_strict_equals_boolean_masks(make_sample: Callable[..., Sample], found: list[Case]) -> None:
    ours = scored(found, STRICT, make_sample)
    agree(ours, pixel_meter(found, lambda c: c.summed > 0, lambda c: ~c.ignored, 1.0))


@pytest.mark.parametrize("protocol", [SEG_ZERO, VISIONREASONER], ids=lambda p: p.name)
@given(found=cases(), data=st.data())
def test_seg_zero_and_visionreasoner_equal_their_loops(
    make_sample: Callable[..., Sample], protocol: Protocol, found: list[Case], data: st.DataObject
) -> None:
    """Their loops: a failure is a row of I = 0 and U = area of the truth; a success without union raises later.

    VisionReasoner's skips what raises in SAM 2 (``error``), but not what its parser cannot read (``no_mask``).
    """
    rows, scores = [], []
    for number, case in enumerate(found):
        sample = make_sample(case.parts, ignore=case.ignore, name=f"s{number}", image=f"i{number}")
        truth = (case.summed > 0) | case.ignored
        status = data.draw(st.sampled_from(["ok", "error"])) if case.predicted is not None else "no_mask"
        mask = make_sample([case.pred == 1]).truth.parts[0] if status == "ok" else None
        given_answer = Prediction(sample.id, status, mask=mask)  # type: ignore[arg-type]
        scores.append(Scorer(protocol, [sample]).score(sample, given_answer))
        if status == "ok":
            union = int((truth | (case.pred == 1)).sum())
            if union:
                rows.append((int((truth & (case.pred == 1)).sum()), union))
        elif status == "no_mask" or protocol is SEG_ZERO:
            rows.append((0, int(truth.sum())))
    metrics = summarise(scores, protocol)
    giou = float(np.mean([i / u if u else 0.0 for i, u in rows])) if rows else None
    total = sum(u for _, u in rows)
    agree((metrics.giou, metrics.ciou), (giou, sum(i for i, _ in rows) / total if total else None))


@given(cases(with_ignore=False))
def test_gseval_equals_boolean_masks_with_empty_union_zero(
    make_sample: Callable[..., Sample], found: list[Case]
) -> None:
    ours = scored(found, GSEVAL, make_sample)
    agree(ours, pixel_meter(found, lambda c: c.summed > 0, lambda c: ~c.ignored, 0.0))


def squeezed(mask: Bools, side: int) -> Bools:
    return np.asarray(Image.fromarray(mask.astype(np.uint8)).resize((side, side), Image.Resampling.NEAREST)) == 1


@settings(max_examples=40)
@given(cases(with_ignore=False), st.sampled_from([3, 5, 480]))
def test_lavt_equals_masks_squeezed_by_pillow(make_sample: Callable[..., Sample], found: list[Case], side: int) -> None:
    ours = scored(found, replace(LAVT, resize=side), make_sample)
    ious, total_i, total_u = [], 0, 0
    for case in found:
        t, p = squeezed(case.summed == 1, side), squeezed(case.pred == 1, side)
        inter, union = int((t & p).sum()), int((t | p).sum())
        ious.append(inter / union if union else 0.0)
        total_i, total_u = total_i + inter, total_u + union
    agree(ours, (float(np.mean(ious)), total_i / total_u if total_u else None))


@given(cases(with_ignore=False), st.integers(1, 12), st.data())
def test_gres_equals_its_accumulator(
    make_sample: Callable[..., Sample],
    answer: Callable[..., Prediction],
    found: list[Case],
    few: int,
    data: st.DataObject,
) -> None:
    """Liu et al.: decided by flags; Pr@ on targeted expressions; N-acc and T-acc from the four outcomes."""
    protocol = replace(GRES, min_pixels=few)
    ious, total_i, total_u, hits, scores = [], 0, 0, 0, []
    tp = fn = tn = fp = 0
    for index, case in enumerate(found):
        nothing = data.draw(st.booleans())
        t, p = (case.summed > 0) & (not nothing), case.pred == 1
        silent = case.predicted is None or p.sum() < few
        inter, union = int((t & p).sum()), int((t | p).sum())
        if nothing:
            tp, fn = tp + silent, fn + (not silent)
            ious.append(1.0 if silent else 0.0)
            total_u += 0 if silent else int(p.sum())
        else:
            fp, tn = fp + silent, tn + (not silent)
            iou = 0.0 if silent or union == 0 else inter / union
            ious.append(iou)
            total_i, total_u, hits = total_i + (0 if silent else inter), total_u + union, hits + (iou >= 0.8)
        sample = make_sample(() if nothing else case.parts, size=t.shape, no_target=nothing, name=f"s{index}")
        given_answer = None if case.predicted is None else answer(case.predicted)
        scores.append(Scorer(protocol, [sample]).score(sample, given_answer))
    metrics = summarise(scores, protocol)
    agree((metrics.giou, metrics.ciou), (float(np.mean(ious)), total_i / total_u if total_u else None))
    assert metrics.n_acc == (tp / (tp + fn) if tp + fn else None)
    assert metrics.t_acc == (tn / (tn + fp) if tp + fn and tn + fp else None)
    assert metrics.precision[0.8] == (hits / (tn + fp) if tn + fp else None)
    assert metrics.precision[0.5] is None


# ---------------------------------------------------------------------------------------------- ReLA


POINT = st.floats(-2, 12)
OUTLINES = st.lists(st.lists(POINT, min_size=6, max_size=12).filter(lambda p: len(p) % 2 == 0), max_size=3)


@settings(max_examples=60)
@given(st.lists(st.tuples(OUTLINES, st.integers(0, 2**32 - 1)), min_size=1, max_size=4), st.sampled_from([3, 17, 480]))
def test_rela_equals_its_mapper_and_accumulator(
    make_sample: Callable[..., Sample], rows: list[tuple[list[list[float]], int]], side: int
) -> None:
    """Polygons multiplied to the square and then drawn; the answer sampled to it; sums over the squares."""
    protocol = replace(RELA, resize=side, min_pixels=1)
    ious, total_i, total_u, scores = [], 0, 0, []
    for number, (outlines, seed) in enumerate(rows):
        rng = np.random.default_rng(seed)
        height, width = (int(v) for v in rng.integers(1, 12, 2))
        predicted, stored = rng.random((height, width)) < 0.6, rng.random((height, width)) < 0.2
        factors = np.array([side * 1.0 / width, side * 1.0 / height])
        t = squeezed(stored, side)
        for outline in outlines:
            scaled = (np.array(outline).reshape(-1, 2) * factors).ravel().tolist()
            t = t | (coco.decode(coco.frPyObjects([scaled], side, side))[..., 0] > 0)
        p = squeezed(predicted, side)
        inter, union = int((t & p).sum()), int((t | p).sum())
        iou = inter / union if union and p.any() else 0.0
        ious.append(iou)
        total_i, total_u = total_i + (inter if p.any() else 0), total_u + union
        truth = GroundTruth((height, width), (*(Polygon(tuple(o)) for o in outlines), masks.encode(stored)))
        sample = make_sample(truth=truth, name=f"s{number}", image=f"i{number}")
        mask = masks.encode(predicted)
        scores.append(Scorer(protocol, [sample]).score(sample, Prediction(sample.id, "ok", mask=mask)))
        assert (scores[-1].gt_area, scores[-1].pred_area) == (int(t.sum()), int(p.sum()))
    metrics = summarise(scores, protocol)
    agree((metrics.giou, metrics.ciou), (float(np.mean(ious)), total_i / total_u if total_u else None))


def test_scaling_before_drawing_is_not_sampling_what_was_drawn() -> None:
    """A strip half a pixel wide in an image 10 wide is 24 of 480 columns, or a whole pixel's 48, or none."""
    truth = GroundTruth((10, 10), (Polygon((2.25, 0.0, 2.75, 0.0, 2.75, 10.0, 2.25, 10.0)),))
    assert prepare_truth(truth, RELA).area == 24 * 480
    assert prepare_truth(truth, replace(RELA, scale_polygons=False)).area in (0, 48 * 480)


def test_boxes_stay_at_the_size_of_the_image_under_rela() -> None:
    truth = GroundTruth((100, 200), (Polygon((20.0, 10.0, 60.0, 10.0, 60.0, 50.0, 20.0, 50.0)),))
    assert prepare_truth(truth, RELA).box == prepare_truth(truth, STRICT).box == (20, 10, 60, 50)
