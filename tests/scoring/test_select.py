from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest

from lens_bench.records import Prediction, Sample
from lens_bench.scoring.counts import Scorer
from lens_bench.scoring.metrics import summarise
from lens_bench.scoring.protocols import GLAMM, Select
from lens_bench.scoring.select import select_ids


@pytest.fixture(scope="module")
def crowd(make_sample: Callable[..., Sample]) -> list[Sample]:
    """20 images with 0 to 9 expressions of up to three referents."""
    return [
        make_sample([[[1, 0]]], name=f"im{i}/ref{k % 3}/sent{k}", image=f"im{i}", ref=f"{i}{k % 3}", key=str(k))
        for i in range(20)
        for k in range(i % 10)
    ]


@pytest.mark.parametrize("rule", ["all", "one_per_ref", "three_per_image"])
def test_selection_does_not_depend_on_order(crowd: list[Sample], rule: Select) -> None:
    shuffled = list(crowd)
    random.Random(1).shuffle(shuffled)
    assert select_ids(crowd, rule, 5) == select_ids(shuffled, rule, 5)


def test_three_per_image_takes_three_or_all_there_are(crowd: list[Sample]) -> None:
    chosen = select_ids(crowd, "three_per_image", 0)
    per_image = Counter(s.image_id for s in crowd if s.id in chosen)
    assert per_image == {f"im{i}": min(3, i % 10) for i in range(20) if i % 10}


def test_three_per_image_depends_on_the_seed_and_on_the_image_alone(crowd: list[Sample]) -> None:
    chosen = select_ids(crowd, "three_per_image", 0)
    assert chosen != select_ids(crowd, "three_per_image", 1)
    some = [s for s in crowd if s.image_id in ("im7", "im19")]
    assert select_ids(some, "three_per_image", 0) == chosen & {s.id for s in some}


def test_three_per_image_is_fair(make_sample: Callable[..., Sample]) -> None:
    """Over seeds every one of six expressions is drawn half of the time."""
    six = [make_sample([[[1]]], name=f"s{k}") for k in range(6)]
    drawn = Counter(name for seed in range(600) for name in select_ids(six, "three_per_image", seed))
    assert all(abs(count - 300) < 60 for count in drawn.values())
    assert len(drawn) == 6


def test_one_per_ref_takes_the_first_by_number(make_sample: Callable[..., Sample]) -> None:
    samples = [make_sample([[[1]]], name=f"sent{k}", ref="4", key=str(k)) for k in (10, 9, 100)]
    assert select_ids(samples, "one_per_ref") == {"sent9"}
    by_id = [make_sample([[[1]]], name=f"sent{k}", ref="4") for k in (10, 9, 100)]
    assert select_ids(by_id, "one_per_ref") == {"sent9"}


def test_one_per_ref_keeps_expressions_that_name_no_referent_and_tells_images_apart(
    make_sample: Callable[..., Sample],
) -> None:
    samples = [
        make_sample([[[1]]], name="a"),
        make_sample([[[1]]], name="b"),
        make_sample([[[1]]], name="c", ref="1", image="x"),
        make_sample([[[1]]], name="d", ref="1", image="y"),
    ]
    assert select_ids(samples, "one_per_ref") == {"a", "b", "c", "d"}


def test_unselected_expressions_are_scored_but_do_not_count(crowd: list[Sample]) -> None:
    scorer = Scorer(GLAMM, crowd, seed=3)
    chosen = select_ids(crowd, "three_per_image", 3)
    scores = [scorer.score(s, Prediction(s.id, "ok", mask=s.truth.parts[0])) for s in crowd]  # type: ignore[arg-type]
    assert {s.sample_id for s in scores if s.counted} == chosen
    assert all((s.iou is None) == (s.sample_id not in chosen) for s in scores)
    assert all(s.intersection == 1 for s in scores)
    assert summarise(scores, GLAMM).n_samples == len(chosen)
