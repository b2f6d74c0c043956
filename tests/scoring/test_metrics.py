from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_bench.answers import UNREAD
from lens_bench.errors import DataError
from lens_bench.records import Prediction, Sample, Score
from lens_bench.scoring.counts import Scorer
from lens_bench.scoring.metrics import by_tag, summarise
from lens_bench.scoring.protocols import GRES, GSEVAL, LISA, STRICT
from lens_bench.scoring.score_json import score_from_json, score_to_json
from lens_bench.scoring.table import ScoreTable

MakeScore = Callable[..., Score]
MakeSample = Callable[..., Sample]
SILENT = {"has_mask": False, "predicted_empty": True}


def test_metrics_by_hand(make_score: MakeScore) -> None:
    scores = [
        make_score("a", "x", 9, 10, box_iou=0.9, boundary_iou=0.5),
        make_score("b", "x", 50, 100, box_iou=0.5, boundary_iou=None),
        make_score("c", "y", 0, 90, status="no_mask", **SILENT, box_iou=0.0, boundary_iou=0.0),
        make_score("d", "z", 0, 100, status="error", **SILENT, box_iou=None, boundary_iou=0.0),
        make_score("e", "z", 0, 0, iou=1.0, no_target=True, predicted_empty=True, box_iou=None, boundary_iou=None),
    ]
    metrics = summarise(scores, STRICT)
    assert metrics.to_json() == {
        "ciou": 59 / 300,
        "giou": pytest.approx((0.9 + 0.5 + 1.0) / 5),
        "precision": {"0.5": 3 / 5, "0.6": 2 / 5, "0.7": 2 / 5, "0.8": 2 / 5, "0.9": 2 / 5},
        "box_acc_0.5": 2 / 3,
        "mean_box_iou": pytest.approx(1.4 / 3),
        "n_acc": 1.0,
        "t_acc": 2 / 4,
        "no_mask_rate": 1 / 5,
        "error_rate": 1 / 5,
        "boundary_iou": pytest.approx(0.5 / 3),
    }
    assert (metrics.n_samples, metrics.n_images) == (5, 3)
    assert summarise(scores, GRES).precision == {0.5: None, 0.6: None, 0.7: 1 / 4, 0.8: 1 / 4, 0.9: 1 / 4}


def test_no_scores_have_no_metrics() -> None:
    metrics = summarise([], STRICT)
    assert (metrics.n_samples, metrics.n_images) == (0, 0)
    flat = metrics.to_json()
    assert set(flat.pop("precision").values()) == {None}  # type: ignore[attr-defined]
    assert set(flat.values()) == {None}


def test_dropped_scores_leave_the_sums_but_not_the_rates(make_score: MakeScore) -> None:
    scores = [make_score("a"), make_score("b", "j", 0, 10, status="error", iou=None, counted=False)]
    metrics = summarise(scores, STRICT)
    assert (metrics.ciou, metrics.giou, metrics.n_samples, metrics.n_images) == (0.5, 0.5, 1, 1)
    assert metrics.error_rate == 0.5
    everything_dropped = summarise([replace(s, counted=False, iou=None) for s in scores], LISA)
    assert everything_dropped.ciou is None
    assert everything_dropped.giou is None


def test_box_denominators(make_score: MakeScore) -> None:
    """With boxes from masks a row without comparable box is left out; GSEval counts every row."""
    scores = [make_score("a", box_iou=1.0), make_score("b", box_iou=None), make_score("c", box_iou=None)]
    assert summarise(scores, STRICT).box_acc == 1.0
    assert summarise(scores, GSEVAL).box_acc == 1 / 3
    assert summarise(scores[1:], GSEVAL).box_acc is None


def test_box_metrics_do_not_apply_to_a_model_that_answered_nothing(make_score: MakeScore) -> None:
    scores = [make_score("a", status="no_mask", has_mask=False, predicted_empty=True, intersection=0, box_iou=0.0)]
    metrics = summarise(scores, STRICT)
    assert (metrics.ciou, metrics.giou, metrics.box_acc, metrics.no_mask_rate) == (0.0, 0.0, None, 1.0)


def test_box_only_answers_among_masks_are_empty_masks(make_score: MakeScore) -> None:
    box_only = make_score("a", intersection=0, union=10, has_mask=False)
    assert summarise([box_only], STRICT).giou is None
    assert summarise([box_only, make_score("b", "i", 10, 10)], STRICT).giou == 0.5


scores_of = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 3), st.booleans()), max_size=12)


@given(scores_of, st.randoms())
def test_metrics_do_not_depend_on_order_and_stay_fractions(
    make_score: MakeScore, rows: list[tuple[int, int, int, bool]], random: object
) -> None:
    scores = [
        make_score(f"s{i:02}", f"i{image}", inter, inter + rest, no_target=flag, tags=("odd",) if i % 2 else ())
        for i, (inter, rest, image, flag) in enumerate(rows)
    ]
    shuffled = list(scores)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for protocol in (STRICT, LISA, GRES):
        metrics = summarise(scores, protocol)
        assert metrics == summarise(shuffled, protocol)
        assert json.dumps(by_tag(scores, protocol, draws=20)) == json.dumps(by_tag(shuffled, protocol, draws=20))
        for value in (metrics.ciou, metrics.giou, metrics.boundary_iou, *metrics.precision.values()):
            assert value is None or 0.0 <= value <= 1.0


def test_a_set_split_by_tags_is_summarised_on_each_part(make_score: MakeScore) -> None:
    scores = [
        make_score("a", "x", 1, 2, tags=("stuff", "long")),
        make_score("b", "y", 3, 4, tags=("stuff",)),
        make_score("c", "z", 0, 4, tags=("part",)),
        make_score("d", "z", 4, 4),
    ]
    groups = by_tag(scores, STRICT)
    assert list(groups) == ["long", "part", "stuff"]
    assert (groups["stuff"]["n_samples"], groups["stuff"]["n_images"], groups["stuff"]["ciou"]) == (2, 2, 4 / 6)
    assert groups["part"]["giou"] == 0.0
    for name, members in {"long": scores[:1], "part": scores[2:3], "stuff": scores[:2]}.items():
        alone = summarise(members, STRICT).to_json()
        assert {k: groups[name][k] for k in alone} == alone
    assert groups["long"]["ci95"] == {"ciou": None, "giou": None, "box_acc_0.5": None}  # one image has no interval
    low, high = groups["stuff"]["ci95"]["ciou"]  # type: ignore[index]
    assert 1 / 2 <= low < high <= 3 / 4


def test_a_sample_scored_twice_is_refused(make_score: MakeScore) -> None:
    with pytest.raises(DataError, match="s is scored twice"):
        summarise([make_score(), make_score()], STRICT)


def test_table_numbers_images_in_the_order_of_their_ids(make_score: MakeScore) -> None:
    table = ScoreTable.of(
        [make_score("c", "i9"), make_score("a", "i10"), make_score("b", "i9", iou=None, box_iou=None)]
    )
    assert table.sample_ids == ("a", "b", "c")
    assert table.cluster.tolist() == [0, 1, 1]
    assert table.n_images == 2
    assert len(table) == 3
    assert table.iou.tolist()[0::2] == [0.5, 0.5]
    assert table.iou[1] != table.iou[1]
    part = table.rows(table.cluster == 1)
    assert (part.sample_ids, part.cluster.tolist(), part.n_images) == (("b", "c"), [0, 0], 1)
    assert ScoreTable.of([]).n_images == 0


def test_answers_that_hold_numbers_but_no_box_are_counted(
    make_sample: MakeSample, answer: Callable[..., Prediction]
) -> None:
    """The mark of the adapter counts beside any status but ``error``; without one the metric is not there at all."""
    mask = np.ones((4, 4), bool)
    marked = [replace(answer(mask, name=f"s{n}"), error=UNREAD) for n in range(2)]
    given = [*marked, Prediction("s2", "no_mask", error=UNREAD), Prediction("s3", "error", error=UNREAD)]
    given += [answer(mask, name="s4"), Prediction("s5", "no_mask", error="no row in it")]
    samples = [make_sample([mask], name=f"s{n}", image=f"i{n}") for n in range(6)]
    scores = Scorer(STRICT, samples).score_all(list(zip(samples, given, strict=True)))
    assert summarise(scores, STRICT).to_json()["unread_rate"] == 3 / 6
    assert by_tag(scores, STRICT) == {}
    back = [score_from_json(json.loads(json.dumps(score_to_json(s)))) for s in scores]
    assert back == scores and ScoreTable.of(scores).rows(np.array([0, 4])).unread.tolist() == [True, False]
    assert "unread_rate" not in summarise(scores[4:], STRICT).to_json()
    assert "unread" not in score_to_json(scores[4])
