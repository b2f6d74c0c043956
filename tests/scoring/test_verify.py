"""Scores that scoring cannot have given are refused; those that it gives are not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from lens_bench.errors import DataError
from lens_bench.records import Prediction, Sample, Score
from lens_bench.scoring.counts import Scorer
from lens_bench.scoring.protocols import PROTOCOLS, get_protocol
from lens_bench.scoring.verify import check_scores

from .conftest import as_rle


def random_answer(rng: np.random.Generator, name: str, size: tuple[int, int]) -> Prediction | None:
    mask = as_rle(rng.random(size) < rng.choice([0.0, 0.1, 0.6, 1.0]))
    box = (0.0, 0.0, 3.0, 3.0)
    return [
        Prediction(name, "ok", mask),
        Prediction(name, "ok", mask, box),
        Prediction(name, "ok", None, box),
        Prediction(name, "no_mask", mask),
        Prediction(name, "no_mask"),
        Prediction(name, "error", error="failed"),
        None,
    ][rng.integers(7)]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_what_scoring_gives_is_accepted(name: str, make_sample: Callable[..., Sample]) -> None:
    rng = np.random.default_rng(3)
    samples = []
    for i in range(300):
        size = (int(rng.integers(1, 14)), int(rng.integers(1, 14)))
        parts = [rng.random(size) < rng.choice([0.0, 0.3, 1.0]) for _ in range(rng.integers(0, 3))]
        ignore = [rng.random(size) < 0.3 for _ in range(rng.integers(0, 2))]
        given = {"name": f"s{i}", "image": f"i{i // 5}", "ref": f"r{i // 2}", "key": f"{i}"}
        samples.append(make_sample(parts, size=size, ignore=ignore, no_target=not parts, **given))
    protocol = get_protocol(name)
    scorer = Scorer(protocol, samples)
    scores = scorer.score_all([(s, random_answer(rng, s.id, s.truth.size)) for s in samples])
    check_scores(scores, protocol, whole=True)
    for score in scores:
        with pytest.raises(DataError, match=score.sample_id):
            check_scores([replace(score, union=score.pred_area + score.gt_area + 1)], protocol, whole=False)


FORGED: list[tuple[dict[str, object], str]] = [
    ({"intersection": 8}, "intersection 8 of areas 6 and 7"),
    ({"intersection": 4}, "intersection 4 and union 10"),
    ({"union": 9}, "union 9"),
    ({"iou": 0.9}, "IoU 0.9"),
    ({"iou": None, "counted": False}, "counted is False"),
    ({"iou": None}, "IoU None"),
    ({"has_mask": False}, "without a mask"),
    ({"predicted_empty": True}, "predicted_empty is True"),
    ({"status": "error"}, "predicted_empty is False"),
    ({"pred_area": 3, "union": 7}, "IoU 0.3"),
]


@pytest.mark.parametrize(("change", "said"), FORGED)
def test_a_forged_row_is_named_with_what_is_wrong(
    change: dict[str, object], said: str, make_score: Callable[..., Score]
) -> None:
    sound = make_score("s1", intersection=3, union=10, pred_area=6, gt_area=7)
    strict = get_protocol("strict")
    check_scores([sound], strict, whole=True)
    with pytest.raises(DataError, match=f"s1 is not one of strict: .*{said}"):
        check_scores([make_score("s0", pred_area=1), replace(sound, **change)], strict, whole=True)  # type: ignore[arg-type]


def test_a_row_of_one_protocol_is_refused_under_another(make_score: Callable[..., Score]) -> None:
    lisa = make_score(intersection=3, union=10, pred_area=6, gt_area=7, iou=3 / (10 + 1e-5))
    check_scores([lisa], get_protocol("lisa"), whole=True)
    with pytest.raises(DataError, match="not one of strict: IoU"):
        check_scores([lisa], get_protocol("strict"), whole=True)


def test_a_selection_that_leaves_out_too_much_or_too_little(make_score: Callable[..., Score]) -> None:
    glamm, iou = get_protocol("glamm"), 1 / (2 + 1e-5)
    kept = [make_score(f"s{i}", iou=iou) for i in range(4)]
    left_out = [replace(s, counted=False, iou=None) for s in kept]
    check_scores([*kept[:3], left_out[3]], glamm, whole=True)
    check_scores(left_out[:2], glamm, whole=False)  # the chosen ones may not have been answered yet
    for forged in (kept, [*kept[:2], *left_out[2:]]):
        with pytest.raises(DataError, match="of the 4 scores of image i count"):
            check_scores(forged, glamm, whole=True)
    with pytest.raises(DataError, match="0 of the 2 scores"):
        check_scores([replace(s, counted=False, iou=None) for s in kept[:2]], get_protocol("seg-zero"), whole=True)
