"""The gate on simulated runs whose true difference is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lens_bench.report.changes import Resampling
from lens_bench.report.gate import judge_quality
from lens_bench.scoring.protocols import STRICT
from lens_bench.scoring.table import ScoreTable

from .made_runs import score

IMAGES, PER_IMAGE = 1500, 4  # RefCOCO val has 1,500 images


def blank(images: int) -> ScoreTable:
    return ScoreTable.of(score(i, 0.5, image=i // PER_IMAGE) for i in range(PER_IMAGE * images))


def oracle_pair(blank: ScoreTable, seed: int, loss: float) -> tuple[ScoreTable, ScoreTable]:
    """Two noisy runs; the second is `loss` of cIoU worse in expectation.

    Unions are log-normal; difficulty and noise are in part shared by the expressions of an image. The noise has mean
    zero and does not depend on the union, so the expected cIoU of the second run is that of the first less `loss`.
    """
    rng = np.random.default_rng(seed)
    n, image = len(blank), blank.cluster
    union = np.exp(rng.normal(9, 0.8, n))
    truth = rng.uniform(0.45, 0.85, blank.n_images)[image] + rng.uniform(-0.1, 0.1, n)
    tables = []
    for mean in (0.0, -loss):
        noise = rng.uniform(-0.015, 0.015, blank.n_images)[image] + rng.uniform(-0.03, 0.03, n)
        pixels = np.round(union).astype(np.int64)
        found = np.round((truth + noise + mean) * pixels).astype(np.int64)
        tables.append(replace(blank, intersection=found, union=pixels, iou=found / pixels))
    return tables[0], tables[1]


def answers(images: int, loss: float, margin: float, seeds: range) -> list[str]:
    base, resampling = blank(images), Resampling(STRICT)
    return [judge_quality(*oracle_pair(base, s, loss), "ciou", margin, resampling).answer for s in seeds]


def test_a_loss_of_a_fifth_of_a_point_passes_a_margin_of_half_a_point() -> None:
    assert answers(IMAGES, 0.002, 0.005, range(20)) == ["pass"] * 20


def test_a_loss_of_two_points_fails_a_margin_of_half_a_point() -> None:
    assert answers(IMAGES, 0.02, 0.005, range(20)) == ["regression"] * 20


def test_few_images_are_inconclusive_on_a_loss_that_many_images_settle() -> None:
    few = answers(30, 0.002, 0.005, range(10))
    assert few.count("inconclusive") >= 8


@pytest.mark.parametrize("margin", [0.0, 0.005])
def test_two_hundred_pairs_without_a_difference_give_at_most_five_percent_false_alarms(margin: float) -> None:
    found = answers(200, 0.0, margin, range(1000, 1200))
    assert found.count("regression") <= 10
    if margin == 0:
        assert set(found) >= {"inconclusive"}, "without a margin chance losses are there to be mistaken"


def test_the_detectable_effect_is_found_as_often_as_it_says() -> None:
    """A true loss of the size of the MDE is a sure one (upper bound below zero) in about 80 % of pairs."""
    base, resampling = blank(200), Resampling(STRICT)
    first = judge_quality(*oracle_pair(base, 0, 0.0), "ciou", 0.005, resampling)
    assert first.mde is not None
    sure = 0
    for seed in range(200):
        paired = judge_quality(*oracle_pair(base, seed, first.mde), "ciou", 0.0, resampling).change.paired
        sure += paired is not None and paired.ci95[1] < 0
    assert 0.70 <= sure / 200 <= 0.90
