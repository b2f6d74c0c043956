from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lens_bench.errors import UsageError
from lens_bench.records import Score
from lens_bench.scoring.protocols import STRICT
from lens_bench.scoring.repeats import repeated_delta
from lens_bench.scoring.stats import paired_delta
from lens_bench.scoring.table import ScoreTable

MakeScore = Callable[..., Score]


def trainings(
    make_score: MakeScore,
    rng: np.random.Generator,
    sides: tuple[int, int],
    *,
    images: int = 60,
    seed_spread: float = 0.02,
    image_spread: float = 0.05,
    gain: float = 0.0,
) -> tuple[list[ScoreTable], list[ScoreTable]]:
    """Runs whose gIoU has three sources of chance: the image, the training, and how both meet."""
    difficulty = rng.normal(0.5, 0.15, images)
    method = rng.normal(0, image_spread, (2, images))
    made: list[list[ScoreTable]] = [[], []]
    for side, count in enumerate(sides):
        for _ in range(count):
            seed, meet = rng.normal(0, seed_spread), rng.normal(0, 0.03, images)
            iou = np.clip(difficulty + method[side] + gain * side + seed + meet, 0, 1)
            rows = [make_score(f"s{k:04}", f"i{k:04}", round(1e6 * v), 1_000_000) for k, v in enumerate(iou)]
            made[side].append(ScoreTable.of(rows))
    return made[0], made[1]


def test_single_runs_give_the_paired_difference(make_score: MakeScore) -> None:
    a, b = trainings(make_score, np.random.default_rng(0), (1, 1))
    one, two = repeated_delta(a, b, "giou", STRICT), paired_delta(a[0], b[0], "giou", STRICT)
    assert one is not None and two is not None
    assert one.delta == pytest.approx(two.delta)
    assert one.training_error == 0
    assert one.image_error == pytest.approx(two.standard_error)
    assert one.ci95 == pytest.approx(two.ci95, abs=0.1 * (two.ci95[1] - two.ci95[0]))


def test_more_trainings_than_one_widen_by_their_spread(make_score: MakeScore) -> None:
    a, b = trainings(make_score, np.random.default_rng(1), (3, 4))
    found = repeated_delta(a, b, "ciou", STRICT)
    assert found is not None
    assert (len(found.a), len(found.b)) == (3, 4)
    assert found.delta == pytest.approx(np.mean(found.b) - np.mean(found.a))
    expected = np.var(found.a, ddof=1) / 3 + np.var(found.b, ddof=1) / 4
    assert found.training_error**2 == pytest.approx(expected)
    both = np.hypot(found.image_error, found.training_error)
    reach = (found.ci95[1] - found.ci95[0]) / 2
    assert 1.96 * both < reach < 2.8 * both
    swapped = repeated_delta(b, a, "ciou", STRICT)
    assert swapped is not None
    assert swapped.ci95 == pytest.approx((-found.ci95[1], -found.ci95[0]))


def test_the_same_runs_on_both_sides_differ_by_their_seeds_alone(make_score: MakeScore) -> None:
    a, _ = trainings(make_score, np.random.default_rng(2), (3, 1))
    found = repeated_delta(a, a, "giou", STRICT)
    assert found is not None
    assert (found.delta, found.image_error) == pytest.approx((0, 0), abs=1e-12)
    assert found.training_error > 0


def test_identical_runs_have_an_interval_of_no_width(make_score: MakeScore) -> None:
    (one,), _ = trainings(make_score, np.random.default_rng(3), (1, 1))
    found = repeated_delta([one, one], [one, one], "giou", STRICT)
    assert found is not None
    assert found.ci95 == (0, 0)


@pytest.mark.parametrize("sides", [(3, 3), (2, 5)])
def test_intervals_hold_the_truth_as_often_as_they_say(make_score: MakeScore, sides: tuple[int, int]) -> None:
    rng, inside, alone, count = np.random.default_rng(4), 0, 0, 200
    for _ in range(count):
        a, b = trainings(make_score, rng, sides, images=40, gain=0.03)
        found = repeated_delta(a, b, "giou", STRICT, draws=200)
        assert found is not None
        inside += found.ci95[0] <= 0.03 <= found.ci95[1]
        alone += abs(found.delta - 0.03) <= 1.96 * found.image_error
    assert inside >= 0.93 * count
    # What an interval over images alone would claim is not so.
    assert alone < 0.85 * count


def test_runs_of_other_expressions_and_empty_sides_are_refused(make_score: MakeScore) -> None:
    a, b = trainings(make_score, np.random.default_rng(5), (2, 2))
    with pytest.raises(UsageError, match="same expressions"):
        repeated_delta(a, [b[0], b[1].rows(np.arange(60) > 3)], "giou", STRICT)
    with pytest.raises(UsageError, match="no run"):
        repeated_delta(a, [], "giou", STRICT)
    with pytest.raises(UsageError, match="no metric"):
        repeated_delta(a, b, "bleu", STRICT)


def test_a_metric_that_does_not_apply_has_no_difference(make_score: MakeScore) -> None:
    a, b = trainings(make_score, np.random.default_rng(6), (2, 2))
    assert repeated_delta(a, b, "n_acc", STRICT) is None
