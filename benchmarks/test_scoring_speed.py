"""Scoring one expression at 640x480 against the meter of most papers, three ``torch.histc`` passes over the masks, and
against ``iou`` of pycocotools.

All are timed in one run on the same masks. The histogram side starts from float tensors that are already there, so
neither decoding nor the conversion is held against it; pycocotools and we start from run lengths, as a run does.
pycocotools gives the IoU alone. Beside it stand our counts of intersection and union, and all that a score is: counts,
box and boundary IoU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from statistics import median
from time import perf_counter

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco

from lens_bench import masks
from lens_bench.records import GroundTruth, Pixels, Prediction, Rle, Sample, Score
from lens_bench.scoring.counts import Scorer
from lens_bench.scoring.metrics import summarise
from lens_bench.scoring.protocols import STRICT
from lens_bench.scoring.stats import intervals
from lens_bench.scoring.table import ScoreTable

pytestmark = pytest.mark.bench

HEIGHT, WIDTH = 480, 640
AT_LEAST = 10.0


class NoImage:
    name = "none"

    def exists(self) -> bool:
        return False

    def read(self) -> Pixels:
        raise AssertionError("scoring opened an image")


@dataclass(frozen=True)
class Pair:
    """One truth and one prediction in the three forms that are timed."""

    sample: Sample
    prediction: Prediction
    truth_tensor: torch.Tensor
    pred_tensor: torch.Tensor


def ragged(rng: np.random.Generator, x: float, y: float) -> NDArray[np.bool_]:
    """An ellipse of 18 % of the image with the ragged outline of a real mask."""
    ys, xs = np.mgrid[:HEIGHT, :WIDTH]
    noise = cv2.GaussianBlur(rng.standard_normal((HEIGHT, WIDTH)), (0, 0), 6)
    inside: NDArray[np.bool_] = ((xs - x) / 150) ** 2 + ((ys - y) / 120) ** 2 + 2.0 * noise < 1
    return inside


@pytest.fixture(scope="module")
def pair() -> Pair:
    rng = np.random.default_rng(0)
    truth, predicted = ragged(rng, 320, 240), ragged(rng, 332, 246)
    sample = Sample("s", "i", NoImage(), "the thing", GroundTruth((HEIGHT, WIDTH), (masks.encode(truth),)))
    tensors = [torch.from_numpy(m.astype(np.float32)) for m in (truth, predicted)]
    return Pair(sample, Prediction("s", "ok", mask=masks.encode(predicted)), *tensors)


def histograms(pair: Pair) -> tuple[float, float]:
    """Class-wise intersection and union by three histograms of two bins, as LISA's meter forms them."""
    agreed = pair.pred_tensor[pair.pred_tensor == pair.truth_tensor]
    intersection = torch.histc(agreed, bins=2, min=0, max=1)
    predicted = torch.histc(pair.pred_tensor, bins=2, min=0, max=1)
    target = torch.histc(pair.truth_tensor, bins=2, min=0, max=1)
    return float(intersection[1]), float((predicted + target - intersection)[1])


def typical(call: Callable[[], object], repeats: int = 60) -> float:
    """Median seconds of one call."""
    times = []
    for _ in range(repeats):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return median(times)


def test_both_count_the_same(pair: Pair) -> None:
    score = Scorer(STRICT, []).score(pair.sample, pair.prediction)
    assert histograms(pair) == (score.intersection, score.union)
    assert score.iou is not None
    assert 0.5 < score.iou < 1


def test_scoring_is_ten_times_faster_than_three_histograms(pair: Pair) -> None:
    """The whole of it, boundary IoU and box included, the truth prepared once per referent as in a run.

    One at a time, which is our slower way.
    """
    scorer, answers = Scorer(STRICT, []), unseen(pair)
    scorer.score(pair.sample, pair.prediction)
    ours, theirs = [], []
    for _ in range(5):  # in turns, so that a slow moment of the machine meets both
        ours.append(typical(lambda: scorer.score(pair.sample, next(answers))))
        theirs.append(typical(lambda: histograms(pair), 20))
    assert median(theirs) / median(ours) >= AT_LEAST, (
        f"{median(ours) * 1e3:.3f} ms against {median(theirs) * 1e3:.3f} ms"
    )


def test_histc_three_passes(benchmark: Callable[..., object], pair: Pair) -> None:
    benchmark(histograms, pair)


def unseen(pair: Pair, number: int = 600) -> Iterator[Prediction]:
    """Answers that differ by one pixel, more of them than run lengths and bands are remembered, over and over."""
    assert pair.prediction.mask is not None
    dense = masks.decode(pair.prediction.mask).copy()
    answers = []
    for column in range(number):
        dense[0, column] ^= True
        answers.append(Prediction("s", "ok", mask=masks.encode(dense)))
        dense[0, column] ^= True
    return cycle(answers)


def test_score_rle_in(benchmark: Callable[..., object], pair: Pair) -> None:
    scorer, answers = Scorer(STRICT, []), unseen(pair)
    benchmark(lambda: scorer.score(pair.sample, next(answers)))


def test_score_64_rle_in(benchmark: Callable[..., object], pair: Pair) -> None:
    """As a run scores, whose answers come in batches."""
    scorer, answers = Scorer(STRICT, []), unseen(pair)
    benchmark(lambda: scorer.score_all([(pair.sample, next(answers)) for _ in range(64)]))


def test_score_rle_in_with_a_new_truth(benchmark: Callable[..., object], pair: Pair) -> None:
    """The first expression of a referent: its annotation is prepared too."""
    answers = unseen(pair)
    benchmark(lambda: Scorer(STRICT, []).score(pair.sample, next(answers)))


def both(pair: Pair) -> tuple[dict[str, object], dict[str, object]]:
    """Truth and prediction as pycocotools takes them."""
    truth, predicted = pair.sample.truth.parts[0], pair.prediction.mask
    assert isinstance(truth, Rle)
    assert predicted is not None
    return ({"size": list(truth.size), "counts": truth.counts}, {"size": list(truth.size), "counts": predicted.counts})


def test_pycocotools_and_we_give_the_same_iou(pair: Pair) -> None:
    truth, predicted = both(pair)
    assert coco.iou([predicted], [truth], [0])[0, 0] == Scorer(STRICT, []).score(pair.sample, pair.prediction).iou


def counts(pair: Pair, truth_area: int) -> tuple[int, int]:
    """Intersection and union, the truth's area known from its other expressions."""
    truth, predicted = pair.sample.truth.parts[0], pair.prediction.mask
    assert isinstance(truth, Rle)
    assert predicted is not None
    shared = masks.overlap(predicted, truth)
    return shared, masks.area(predicted) + truth_area - shared


def test_intersection_and_union_take_no_longer_than_pycocotools_iou(pair: Pair) -> None:
    """Which it gives as a ratio; sums over a split need the integers."""
    truth, predicted = both(pair)
    area = masks.area(pair.sample.truth.parts[0])  # type: ignore[arg-type]
    ours, theirs = [], []
    for _ in range(5):
        ours.append(typical(lambda: counts(pair, area), 200))
        theirs.append(typical(lambda: coco.iou([predicted], [truth], [0]), 200))
    assert median(ours) <= median(theirs), f"{median(ours) * 1e6:.1f} us against {median(theirs) * 1e6:.1f} us"


def test_intersection_and_union_rle_in(benchmark: Callable[..., object], pair: Pair) -> None:
    benchmark(counts, pair, masks.area(pair.sample.truth.parts[0]))  # type: ignore[arg-type]


def test_pycocotools_iou(benchmark: Callable[..., object], pair: Pair) -> None:
    truth, predicted = both(pair)
    benchmark(coco.iou, [predicted], [truth], [0])


def test_read_a_line_of_predictions(benchmark: Callable[..., object], pair: Pair) -> None:
    assert pair.prediction.mask is not None
    obj = masks.rle_to_json(pair.prediction.mask)
    assert benchmark(masks.rle_from_json, obj) == pair.prediction.mask


@pytest.fixture(scope="module")
def refcoco_sized() -> list[Score]:
    """10,834 expressions on 1,500 images."""
    rng = np.random.default_rng(1)
    union = rng.integers(1, 90_000, 10_834)
    shared = (union * rng.random(10_834)).astype(int)
    return [
        Score(f"s{k}", f"i{k % 1500}", "ok", i, u, i, u, i / u, 0.5, 0.3, False, True, False, True)
        for k, (i, u) in enumerate(zip(shared.tolist(), union.tolist(), strict=True))
    ]


def test_summarise_refcoco_val(benchmark: Callable[..., object], refcoco_sized: list[Score]) -> None:
    benchmark(summarise, refcoco_sized, STRICT)


def test_intervals_of_refcoco_val_take_at_most_two_seconds(refcoco_sized: list[Score]) -> None:
    table = ScoreTable.of(refcoco_sized)
    assert typical(lambda: intervals(table, STRICT), 3) <= 2.0


def test_intervals_refcoco_val(benchmark: Callable[..., object], refcoco_sized: list[Score]) -> None:
    benchmark(intervals, ScoreTable.of(refcoco_sized), STRICT)
