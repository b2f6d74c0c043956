from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from lens_bench.errors import UsageError
from lens_bench.records import Score
from lens_bench.scoring import stats
from lens_bench.scoring.metrics import summarise
from lens_bench.scoring.protocols import GRES, LISA, STRICT
from lens_bench.scoring.ratios import Ratio
from lens_bench.scoring.stats import (
    clustered_ci,
    common_rows,
    intervals,
    minimum_detectable_effect,
    paired_delta,
)
from lens_bench.scoring.table import ScoreTable

MakeScore = Callable[..., Score]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def expressions(rng: np.random.Generator, images: int, spread: float = 1.0) -> tuple[Ints, Floats, Floats]:
    """Expressions in images: sizes and difficulty are shared within an image. Returns (cluster, I, U)."""
    per_image = 1 + rng.poisson(5, images)
    cluster = np.repeat(np.arange(images), per_image)
    n = len(cluster)
    target = 5000 * np.exp(0.6 * spread * (rng.normal(size=images)[cluster] + rng.normal(size=n)))
    skill = rng.normal(size=images)[cluster] + 0.8 * rng.normal(size=n) + 0.15 * np.log(target / 5000)
    iou = np.where(rng.random(n) < 0.1, 0.0, 1 / (1 + np.exp(-1 - 1.3 * skill)))
    predicted = target * np.exp(0.3 * rng.normal(size=n))
    shared = np.floor(np.minimum(iou / (1 + iou) * (target + predicted), np.minimum(target, predicted)))
    return cluster, shared, np.floor(target) + np.floor(predicted) - shared


def table_of(make_score: MakeScore, cluster: Ints, shared: Floats, union: Floats) -> ScoreTable:
    rows = zip(cluster.tolist(), shared.astype(int).tolist(), union.astype(int).tolist(), strict=True)
    return ScoreTable.of(make_score(f"s{k:05}", f"i{c:05}", i, u) for k, (c, i, u) in enumerate(rows))


@pytest.fixture(scope="module")
def run(make_score: MakeScore) -> ScoreTable:
    return table_of(make_score, *expressions(np.random.default_rng(4), 60))


# ---------------------------------------------------------------------------------------------- intervals


def test_the_matrix_of_weights_equals_a_loop_over_draws() -> None:
    cluster, shared, union = expressions(np.random.default_rng(0), 40)
    rng = np.random.default_rng(9)
    values: list[float] = []
    for chosen in rng.integers(0, 40, size=(300, 40)):
        rows = np.concatenate([np.flatnonzero(cluster == image) for image in chosen])
        values.append(shared[rows].sum() / union[rows].sum())
    sums = np.stack([np.bincount(cluster, shared), np.bincount(cluster, union)], axis=1)
    assert stats.ratio_draws(stats.resampled(sums, 300, 9), 0, 0.0).tolist() == values
    # Tail of the expanded interval for 40 images: Phi(-sqrt(40/39) * t), t = 2.0227 the quantile of Student for 39.
    tail = 0.5 * math.erfc(math.sqrt(40 / 39) * 2.0227 / math.sqrt(2))
    found = clustered_ci(Ratio(shared, union), cluster, draws=300, seed=9)
    assert found == pytest.approx(tuple(np.quantile(values, [tail, 1 - tail])), rel=1e-4)


def test_blocks_of_draws_do_not_change_the_draws(run: ScoreTable, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = intervals(run, STRICT, draws=200, seed=3)
    monkeypatch.setattr(stats, "BLOCK", 60 * 7)
    assert intervals(run, STRICT, draws=200, seed=3) == at_once


def test_intervals_are_a_function_of_scores_and_seed(make_score: MakeScore) -> None:
    rng = np.random.default_rng(5)
    scores = [make_score(f"s{k}", f"i{k % 30}", int(rng.integers(1, 90)), 100) for k in range(120)]
    first = intervals(ScoreTable.of(scores), STRICT, seed=1)
    assert first == intervals(ScoreTable.of(scores[::-1]), STRICT, seed=1)
    assert first != intervals(ScoreTable.of(scores), STRICT, seed=2)


def test_every_metric_has_an_interval_around_its_value(run: ScoreTable) -> None:
    names = ("ciou", "giou", "precision_0.5", "precision_0.9", "boundary_iou", "box_acc_0.5", "error_rate", "n_acc")
    found = intervals(run, LISA, names)
    metrics = summarise(run, LISA)
    for name, value in {
        "ciou": metrics.ciou,
        "giou": metrics.giou,
        "precision_0.5": metrics.precision[0.5],
        "precision_0.9": metrics.precision[0.9],
    }.items():
        ci = found[name]
        assert ci is not None
        assert value is not None
        assert ci[0] < value < ci[1]
    assert found["error_rate"] == (0.0, 0.0)
    assert found["n_acc"] is None  # no expression without a target


def test_a_single_metric_has_the_interval_it_has_among_others(run: ScoreTable) -> None:
    together = intervals(run, STRICT, ("giou", "ciou"), seed=7)
    ratio = Ratio(run.intersection.astype(float), run.union.astype(float))
    assert together["ciou"] == clustered_ci(ratio, run.cluster, seed=7)
    assert together["ciou"] == intervals(run, STRICT, ("ciou",), seed=7)["ciou"]


def test_images_are_resampled_not_expressions() -> None:
    """Eight equal expressions per image carry no more than one of them: the interval stays as wide."""
    rng = np.random.default_rng(3)
    shared, union = rng.integers(0, 100, 50).astype(float), np.full(50, 100.0)
    once = clustered_ci(Ratio(shared, union), np.arange(50))
    eight = clustered_ci(Ratio(np.repeat(shared, 8), np.repeat(union, 8)), np.repeat(np.arange(50), 8))
    naive = clustered_ci(Ratio(np.repeat(shared, 8), np.repeat(union, 8)), np.arange(400))
    assert once is not None
    assert naive is not None
    assert eight == pytest.approx(once)
    assert (naive[1] - naive[0]) * 2 < once[1] - once[0]


@pytest.mark.parametrize(
    ("numerator", "denominator", "cluster"),
    [([], [], []), ([1], [2], [0]), ([1, 1], [2, 2], [0, 0]), ([0, 1], [0, 2], [0, 1])],
)
def test_fewer_than_two_images_have_no_interval(
    numerator: list[float], denominator: list[float], cluster: list[int]
) -> None:
    ratio = Ratio(np.array(numerator, dtype=float), np.array(denominator, dtype=float))
    assert clustered_ci(ratio, np.array(cluster, dtype=np.int64)) is None


def test_images_that_hold_nothing_do_not_make_a_draw_undefined() -> None:
    """Two images of forty have a target; draws that hold neither are left out, and too many of them leave nothing."""
    denominator = np.zeros(40)
    denominator[:2] = 10.0
    found = clustered_ci(Ratio(denominator / [2] * np.arange(40) % 7, denominator), np.arange(40))
    assert found is not None
    assert all(math.isfinite(v) for v in found)
    rare = np.zeros(400)
    rare[:2] = 10.0
    assert stats._interval(np.array([math.nan, math.nan, 0.5]), 5, 0.95) is None


def test_two_images_give_the_whole_range_of_the_draws() -> None:
    assert clustered_ci(Ratio(np.array([1.0, 3.0]), np.array([4.0, 4.0])), np.array([0, 1])) == (0.25, 0.75)


def test_unknown_metric_is_a_usage_error(run: ScoreTable) -> None:
    with pytest.raises(UsageError, match="'miou'") as caught:
        intervals(run, STRICT, ("miou",))
    assert "ciou" in caught.value.hint


@pytest.mark.parametrize(("freedom", "t"), [(5, 2.5706), (9, 2.2622), (19, 2.0930), (149, 1.9760), (10**6, 1.9600)])
def test_student_quantiles(freedom: int, t: float) -> None:
    assert stats._t_of_z(1.959964, freedom) == pytest.approx(t, rel=0.005)
    assert stats._z_of_t(stats._t_of_z(1.3, freedom), freedom) == pytest.approx(1.3)


# ---------------------------------------------------------------------------------------------- pairs


def shifted(table: ScoreTable, rng: np.random.Generator, make_score: MakeScore, gain: float) -> ScoreTable:
    """Another run on the same expressions: IoU moved by ``gain`` and by noise shared within an image."""
    noise = 0.05 * rng.normal(size=table.n_images)[table.cluster] + 0.1 * rng.normal(size=len(table))
    iou = np.clip(table.iou + gain + noise, 0, 1)
    shared = np.floor(iou * table.union)
    return table_of(make_score, np.array([int(i[1:]) for i in table.image_ids]), shared, table.union.astype(float))


def test_a_run_compared_with_itself_does_not_differ(run: ScoreTable) -> None:
    found = paired_delta(run, run, "ciou", STRICT)
    assert found is not None
    assert (found.delta, found.ci95, found.p_value, found.mde) == (0.0, (0.0, 0.0), 1.0, 0.0)
    assert (found.n_samples, found.n_images) == (len(run), 60)


@pytest.mark.parametrize("metric", ["ciou", "giou", "precision_0.5"])
def test_delta_is_second_minus_first_and_swaps_sign(run: ScoreTable, make_score: MakeScore, metric: str) -> None:
    better = shifted(run, np.random.default_rng(1), make_score, 0.08)
    there, back = paired_delta(run, better, metric, STRICT), paired_delta(better, run, metric, STRICT)
    assert there is not None
    assert back is not None
    values = [summarise(t, STRICT) for t in (run, better)]
    flat = [m.precision[0.5] if metric == "precision_0.5" else getattr(m, metric) for m in values]
    assert there.delta == flat[1] - flat[0] > 0
    assert there.ci95[0] < there.delta < there.ci95[1]
    assert back.delta == -there.delta
    assert back.ci95 == pytest.approx((-there.ci95[1], -there.ci95[0]))
    assert back.p_value == there.p_value < 0.05


def test_pairing_is_narrower_than_two_separate_intervals(run: ScoreTable, make_score: MakeScore) -> None:
    other = shifted(run, np.random.default_rng(2), make_score, 0.02)
    paired, alone = paired_delta(run, other, "ciou", STRICT), intervals(run, STRICT)["ciou"]
    assert paired is not None
    assert alone is not None
    assert paired.ci95[1] - paired.ci95[0] < 0.6 * (alone[1] - alone[0])


@pytest.mark.parametrize("seed", range(30))
def test_p_value_and_interval_say_the_same(run: ScoreTable, make_score: MakeScore, seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = paired_delta(run, shifted(run, rng, make_score, rng.uniform(-0.03, 0.03)), "giou", STRICT)
    assert found is not None
    excludes = not found.ci95[0] <= 0 <= found.ci95[1]
    assert 0 < found.p_value <= 1
    if not 0.04 < found.p_value < 0.06:
        assert excludes == (found.p_value < 0.05)


def test_runs_on_different_expressions_are_refused_and_can_be_restricted(
    run: ScoreTable, make_score: MakeScore
) -> None:
    other = shifted(run, np.random.default_rng(2), make_score, 0.0).rows(np.arange(len(run)) % 3 > 0)
    with pytest.raises(UsageError, match="not the same"):
        paired_delta(run, other, "ciou", STRICT)
    first, second = common_rows(run, other)
    assert first.sample_ids == second.sample_ids == other.sample_ids
    found = paired_delta(first, second, "ciou", STRICT)
    assert found is not None
    assert found.n_samples == len(other)


def test_metrics_that_do_not_apply_have_no_difference(run: ScoreTable, make_score: MakeScore) -> None:
    assert paired_delta(run, run, "n_acc", GRES) is None
    assert paired_delta(run, run, "precision_0.5", GRES) is None
    one = ScoreTable.of([make_score("a"), make_score("b")])
    assert paired_delta(one, one, "ciou", STRICT) is None


def test_minimum_detectable_effect() -> None:
    assert minimum_detectable_effect(0.01) == pytest.approx(0.028016, abs=1e-5)
    assert minimum_detectable_effect(0.01, alpha=0.1, power=0.9) == pytest.approx(0.029264, abs=1e-5)
    assert minimum_detectable_effect(0.0) == 0.0


# ---------------------------------------------------------------------------------------------- simulations


@pytest.mark.slow
@pytest.mark.parametrize(("images", "spread"), [(150, 1.0), (300, 1.0), (400, 1.6)])
def test_the_interval_covers_the_truth_as_often_as_it_says(images: int, spread: float) -> None:
    """500 simulated suites with correlated expressions: cIoU and gIoU are covered in 93 to 97 % of them."""
    _, shared, union = expressions(np.random.default_rng(10), 400_000, spread)
    truth = {"ciou": shared.sum() / union.sum(), "giou": float((shared / union).mean())}
    rng = np.random.default_rng(11)
    covered = dict.fromkeys(truth, 0)
    for repeat in range(500):
        cluster, shared, union = expressions(rng, images, spread)
        for name, ratio in {
            "ciou": Ratio(shared, union),
            "giou": Ratio(shared / union, np.ones(len(union))),
        }.items():
            found = clustered_ci(ratio, cluster, seed=repeat)
            assert found is not None
            covered[name] += found[0] <= truth[name] <= found[1]
    assert all(0.93 <= count / 500 <= 0.97 for count in covered.values()), covered


@pytest.mark.slow
def test_the_paired_test_raises_false_alarms_as_often_as_it_says_and_finds_its_detectable_effect(
    make_score: MakeScore,
) -> None:
    """Two runs that are exchangeable differ at the 5 % level 3 to 7.5 % of the time; at the MDE, 70 to 90 %."""
    rng = np.random.default_rng(12)
    alarms, found_effects, mde = 0, 0, []
    for repeat in range(300):
        cluster, shared, union = expressions(rng, 150)
        first, second = (_noisy(rng, cluster, shared, union) for _ in range(2))
        null = paired_delta(
            table_of(make_score, cluster, *first), table_of(make_score, cluster, *second), "ciou", STRICT, seed=repeat
        )
        assert null is not None
        alarms += null.p_value < 0.05
        mde.append(null.mde)
        gained = np.floor(second[0] + float(np.mean(mde)) * second[1])
        effect = paired_delta(
            table_of(make_score, cluster, *first), table_of(make_score, cluster, gained, second[1]), "ciou", STRICT
        )
        assert effect is not None
        found_effects += effect.p_value < 0.05
    assert 0.03 <= alarms / 300 <= 0.075, alarms
    assert 0.70 <= found_effects / 300 <= 0.90, found_effects


def _noisy(rng: np.random.Generator, cluster: Ints, shared: Floats, union: Floats) -> tuple[Floats, Floats]:
    noise = 0.1 * rng.normal(size=int(cluster.max()) + 1)[cluster] + 0.1 * rng.normal(size=len(cluster))
    return np.floor(np.clip(shared / union + noise, 0, 0.9) * union), union
