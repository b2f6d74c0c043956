from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from lens_bench import masks
from lens_bench.errors import DataError
from lens_bench.records import GroundTruth, Prediction, Rle, Sample
from lens_bench.scoring import counts
from lens_bench.scoring.counts import Scorer, prepare_truth
from lens_bench.scoring.protocols import GRES, GSEVAL, LENS, PROTOCOLS, STRICT, get_protocol

MakeSample = Callable[..., Sample]
Answer = Callable[..., Prediction]

TRUTH = np.array([[1, 1, 0, 0], [1, 1, 0, 0]])
SHIFTED = np.array([[0, 1, 1, 0], [0, 1, 1, 0]])


def test_a_score_carries_the_counts_and_what_it_belongs_to(make_sample: MakeSample, answer: Answer) -> None:
    sample = make_sample([TRUTH], name="suite/1", image="im7", tags=("part", "small"))
    score = Scorer(STRICT, [sample]).score(sample, answer(SHIFTED, name="suite/1"))
    assert (score.sample_id, score.image_id, score.status, score.tags) == ("suite/1", "im7", "ok", ("part", "small"))
    assert (score.intersection, score.union, score.pred_area, score.gt_area) == (2, 6, 4, 4)
    assert score.iou == 2 / 6
    assert score.box_iou == pytest.approx(2 / 6)
    assert score.boundary_iou == 2 / 6  # bands of one pixel in 2x2 squares are the squares
    assert score.counted
    assert score.has_mask
    assert not (score.no_target or score.predicted_empty)
    assert all(type(v) is int for v in (score.intersection, score.union, score.pred_area, score.gt_area))


@pytest.mark.parametrize(
    ("given", "status", "has_mask", "predicted_empty", "pred_area"),
    [
        (None, "no_mask", False, True, 0),
        (Prediction("s", "no_mask"), "no_mask", False, True, 0),
        (Prediction("s", "error", error="boom"), "error", False, True, 0),
        (Prediction("s", "ok"), "no_mask", False, True, 0),
        (Prediction("s", "ok", box=(0, 0, 2, 2)), "ok", False, False, 0),
        (Prediction("s", "ok", mask=masks.empty((2, 4))), "ok", True, True, 0),
        (Prediction("s", "ok", mask=masks.full((2, 4))), "ok", True, False, 8),
        (Prediction("s", "error", mask=masks.full((2, 4))), "error", False, True, 0),
        (Prediction("s", "no_mask", mask=masks.full((2, 4))), "no_mask", False, True, 0),
    ],
)
def test_what_an_answer_is_read_as(
    make_sample: MakeSample,
    given: Prediction | None,
    status: str,
    has_mask: bool,
    predicted_empty: bool,
    pred_area: int,
) -> None:
    sample = make_sample([TRUTH])
    score = Scorer(STRICT, [sample]).score(sample, given)
    assert (score.status, score.has_mask, score.predicted_empty) == (status, has_mask, predicted_empty)
    assert (score.pred_area, score.gt_area, score.union) == (pred_area, 4, max(pred_area, 4))
    assert score.counted


def test_a_mask_of_another_size_is_an_error_that_names_the_sample(make_sample: MakeSample, answer: Answer) -> None:
    sample = make_sample([TRUTH], name="refcoco/unc/val/ref1/sent2")
    with pytest.raises(DataError, match="refcoco/unc/val/ref1/sent2 is 2x4, its image is 4x2") as caught:
        Scorer(STRICT, [sample]).score(sample, answer(TRUTH.T))
    assert "original size" in caught.value.hint


def test_a_truth_part_of_another_size_is_an_error(make_sample: MakeSample) -> None:
    sample = replace(make_sample([TRUTH]), truth=GroundTruth((2, 4), (masks.full((4, 2)),)))
    with pytest.raises(DataError, match="belongs to an image"):
        Scorer(STRICT, [sample]).score(sample, None)


def test_boxes_that_cannot_be_compared_are_none_and_missing_ones_zero(make_sample: MakeSample, answer: Answer) -> None:
    nothing = make_sample([], size=(2, 4), no_target=True)
    assert Scorer(STRICT, [nothing]).score(nothing, answer(TRUTH)).box_iou is None
    sample = make_sample([TRUTH], box=(0, 0, 2, 2))
    strict, gseval = Scorer(STRICT, [sample]), Scorer(GSEVAL, [sample])
    assert strict.score(sample, None).box_iou == 0.0
    assert strict.score(sample, answer(TRUTH * 0)).box_iou == 0.0
    assert strict.score(sample, answer(box=(0, 0, 2, 2))).box_iou == 1.0
    assert (
        strict.score(sample, answer(TRUTH, box=(0, 0, 1, 2))).box_iou == 0.5
    )  # the model's box stands before its mask
    assert gseval.score(sample, answer(TRUTH)).box_iou is None
    assert gseval.score(sample, None).box_iou == 0.0


def test_boundary_is_none_where_both_are_empty_and_zero_where_one_is(make_sample: MakeSample, answer: Answer) -> None:
    sample, nothing = make_sample([TRUTH]), make_sample([TRUTH * 0])
    assert Scorer(STRICT, [nothing]).score(nothing, answer(TRUTH * 0)).boundary_iou is None
    assert Scorer(STRICT, [nothing]).score(nothing, answer(TRUTH)).boundary_iou == 0.0
    assert Scorer(STRICT, [sample]).score(sample, None).boundary_iou == 0.0
    silent = Scorer(GRES, [sample]).score(sample, answer(TRUTH))
    assert (silent.predicted_empty, silent.boundary_iou) == (True, 0.0)


def test_ignore_leaves_all_areas_under_exclude(make_sample: MakeSample, answer: Answer) -> None:
    sample = make_sample([TRUTH], ignore=[[[0, 1, 1, 1], [0, 1, 1, 1]]])
    score = Scorer(STRICT, [sample]).score(sample, answer(np.ones((2, 4))))
    assert (score.intersection, score.union, score.pred_area, score.gt_area) == (2, 2, 2, 2)
    as_background = Scorer(LENS, [sample]).score(sample, answer(np.ones((2, 4))))
    assert (as_background.intersection, as_background.union, as_background.pred_area) == (2, 8, 8)


def test_no_polygon_is_rasterised_twice_for_the_expressions_of_a_referent(
    make_sample: MakeSample, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[GroundTruth] = []

    def counting(truth: GroundTruth, protocol: object) -> counts.PreparedTruth:
        prepared.append(truth)
        return prepare_truth(truth, STRICT)

    monkeypatch.setattr(counts, "prepare_truth", counting)
    first, other = make_sample([TRUTH]), make_sample([SHIFTED])
    twins = [replace(first, id=f"s{i}") for i in range(5)]
    scorer = Scorer(STRICT, twins)
    for sample in [*twins, replace(other, id="o"), *twins]:
        scorer.score(sample, answer(TRUTH))
    assert [id(t) for t in prepared] == [id(first.truth), id(other.truth)]


def test_the_cache_forgets_the_oldest_and_never_mixes_annotations_up(
    make_sample: MakeSample, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Annotations are made and thrown away, so that new ones lie where old ones lay in memory."""
    monkeypatch.setattr(counts, "CACHED_TRUTHS", 2)
    scorer = Scorer(STRICT, [])
    rng = np.random.default_rng(0)
    for _ in range(200):
        mask = rng.random((3, 3)) < 0.5
        assert scorer.score(make_sample([mask]), answer(mask)).gt_area == mask.sum()
    assert len(scorer._truths) == 2


def test_threads_and_caches_do_not_change_a_score(make_sample: MakeSample, answer: Answer) -> None:
    rng = np.random.default_rng(1)
    samples = [make_sample([rng.random((9, 7)) < 0.5], name=f"s{i}", image=f"i{i // 4}") for i in range(100)]
    answers = [answer(rng.random((9, 7)) < 0.5, name=s.id) for s in samples]
    alone = [Scorer(STRICT, samples).score(s, a) for s, a in zip(samples, answers, strict=True)]
    scorer = Scorer(STRICT, samples)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(scorer.score, samples, answers)) == alone


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_scores_of_several_are_those_of_each(name: str, make_sample: MakeSample, answer: Answer) -> None:
    """Masks, boxes, refusals, failures and nothing at all, some of them alike, with regions to be ignored."""
    rng = np.random.default_rng(2)
    samples, answers = [], []
    for number in range(60):
        truth, ignored, mask = (rng.random((30, 40)) < share for share in (0.5, 0.1, rng.random()))
        sample = make_sample([truth], name=f"s{number}", image=f"i{number // 4}")
        ignore = (masks.encode(ignored),) if number % 3 == 0 else ()
        samples.append(replace(sample, truth=replace(sample.truth, ignore=ignore, box=(1.0, 2.0, 30.0, 20.0))))
        kinds: list[Prediction | None] = [
            answer(mask, name=sample.id), answer(truth, name=sample.id), answer(mask & False, name=sample.id),
            answer(box=(1, 1, 9, 9), name=sample.id), Prediction(sample.id, "no_mask", mask=masks.encode(mask)),
            Prediction(sample.id, "error", error="no"), None, answer(np.ones((30, 40)), name=sample.id),
        ]  # fmt: skip
        answers.append(kinds[number % len(kinds)])
    scorer = Scorer(get_protocol(name), samples)
    pairs = list(zip(samples, answers, strict=True))
    assert scorer.score_all(pairs) == [scorer.score(sample, given) for sample, given in pairs]
    assert scorer.score_all([]) == []


def test_truth_parts_are_read_once_per_annotation() -> None:
    class Counting:
        reads = 0

        def rle(self, size: tuple[int, int]) -> Rle:
            self.reads += 1
            return masks.full(size)

        def fingerprint(self) -> bytes:
            return b""

    part = Counting()
    truth = GroundTruth((2, 2), (part,))
    scorer = Scorer(STRICT, [])
    assert scorer.prepare(truth) is scorer.prepare(truth)
    assert part.reads == 1
