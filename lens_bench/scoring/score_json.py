"""Scores to and from the lines of ``scores.jsonl``."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from typing import Final, cast

from lens_bench.errors import DataError
from lens_bench.records import Score

STATUSES = ("ok", "no_mask", "error")
MOST_PIXELS = 2**53  # of a mask: beyond any image, and exact as a float
_SCORE_AGAIN: Final = "score the run again with `lens-bench score RUN_DIR`"


def score_to_json(score: Score) -> dict[str, object]:
    """One score as a JSON object with a fixed order of keys.

    ``json.dumps`` writes floats by ``repr``, the shortest text that reads back to the same number, so the same scores
    are the same bytes.
    """
    return {
        "sample_id": score.sample_id,
        "image_id": score.image_id,
        "status": score.status,
        "intersection": score.intersection,
        "union": score.union,
        "pred_area": score.pred_area,
        "gt_area": score.gt_area,
        "iou": score.iou,
        "box_iou": score.box_iou,
        "boundary_iou": score.boundary_iou,
        "no_target": score.no_target,
        "has_mask": score.has_mask,
        "predicted_empty": score.predicted_empty,
        "counted": score.counted,
        "tags": list(score.tags),
        **({"unread": True} if score.unread else {}),
    }


def score_from_json(obj: Mapping[str, object]) -> Score:
    """Read what ``score_to_json`` wrote. Keys it does not know are left alone.

    Raises:
        DataError: A key is missing or holds something of another kind.
    """
    values: dict[str, object] = {key: _take(obj, key, fits) for key, fits in _FIELDS}
    values["tags"] = tuple(cast("list[str]", values["tags"]))
    values["unread"] = _take({"unread": False, **obj}, "unread", _is_flag)
    return Score(**values)  # type: ignore[arg-type]  # every value was checked just above


def _take(obj: Mapping[str, object], key: str, fits: Callable[[object], bool]) -> object:
    try:
        value = obj[key]
    except KeyError:
        raise DataError(f"a score has no {key!r}", _SCORE_AGAIN) from None
    if not fits(value):
        raise DataError(f"a score has {key!r} = {reprlib.repr(value)}", _SCORE_AGAIN)
    return value


def _is_status(value: object) -> bool:
    return value in STATUSES


def _is_text(value: object) -> bool:
    return type(value) is str


def _is_list_of_texts(value: object) -> bool:
    return type(value) is list and all(type(tag) is str for tag in value)


def _is_flag(value: object) -> bool:
    return type(value) is bool


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < MOST_PIXELS


def _is_fraction(value: object) -> bool:
    return value is None or ((type(value) is float or type(value) is int) and 0.0 <= value <= 1.0)


_FIELDS: tuple[tuple[str, Callable[[object], bool]], ...] = (
    ("sample_id", _is_text),
    ("image_id", _is_text),
    ("status", _is_status),
    ("intersection", _is_count),
    ("union", _is_count),
    ("pred_area", _is_count),
    ("gt_area", _is_count),
    ("iou", _is_fraction),
    ("box_iou", _is_fraction),
    ("boundary_iou", _is_fraction),
    ("no_target", _is_flag),
    ("has_mask", _is_flag),
    ("predicted_empty", _is_flag),
    ("counted", _is_flag),
    ("tags", _is_list_of_texts),
)
