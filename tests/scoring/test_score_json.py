from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_bench.errors import DataError
from lens_bench.records import Score
from lens_bench.scoring.score_json import score_from_json, score_to_json

fractions = st.none() | st.floats(0, 1)
counts = st.integers(0, 2**40)
scores = st.builds(
    Score,
    sample_id=st.text(),
    image_id=st.text(),
    status=st.sampled_from(["ok", "no_mask", "error"]),
    intersection=counts,
    union=counts,
    pred_area=counts,
    gt_area=counts,
    iou=fractions,
    box_iou=fractions,
    boundary_iou=fractions,
    no_target=st.booleans(),
    has_mask=st.booleans(),
    predicted_empty=st.booleans(),
    counted=st.booleans(),
    tags=st.lists(st.text(), max_size=3).map(tuple),
)


@given(scores)
def test_a_score_survives_json_to_the_last_bit(score: Score) -> None:
    line = json.dumps(score_to_json(score))
    assert score_from_json(json.loads(line)) == score
    assert json.dumps(score_to_json(score_from_json(json.loads(line)))) == line


def test_keys_come_in_a_fixed_order(make_score: Callable[..., Score]) -> None:
    assert list(score_to_json(make_score())) == [
        "sample_id",
        "image_id",
        "status",
        "intersection",
        "union",
        "pred_area",
        "gt_area",
        "iou",
        "box_iou",
        "boundary_iou",
        "no_target",
        "has_mask",
        "predicted_empty",
        "counted",
        "tags",
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("status", "fine"),
        ("status", None),
        ("sample_id", 7),
        ("intersection", -1),
        ("intersection", 1.5),
        ("union", True),
        ("iou", 1.01),
        ("iou", "0.5"),
        ("iou", float("nan")),
        ("counted", 1),
        ("tags", "part"),
    ],
)
def test_a_wrong_value_is_refused_by_name(make_score: Callable[..., Score], key: str, value: object) -> None:
    with pytest.raises(DataError, match=key):
        score_from_json({**score_to_json(make_score()), key: value})


@pytest.mark.parametrize("key", ["sample_id", "iou", "tags"])
def test_a_missing_key_is_refused_by_name(make_score: Callable[..., Score], key: str) -> None:
    obj = score_to_json(make_score())
    del obj[key]
    with pytest.raises(DataError, match=key):
        score_from_json(obj)
