"""Scores to and from the lines of ``scores.jsonl``."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from typing import TypeVar, cast

from lens_bench.errors import DataError
from lens_bench.records import Score, Status

T = TypeVar("T")
STATUSES = ("ok", "no_mask", "error")
MOST_PIXELS = 2**53  # of a mask: beyond any image, and exact as a float


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
    }


def score_from_json(obj: Mapping[str, object]) -> Score:
    """Read what ``score_to_json`` wrote. Keys it does not know are left alone.

    Raises:
        DataError: A key is missing or holds something of another kind.
    """
    status = _take(obj, "status", _is_text)
    if status not in STATUSES:
        raise DataError(f"a score has the status {reprlib.repr(status)}", f"expected one of {', '.join(STATUSES)}")
    tags = _take(obj, "tags", _is_list)
    return Score(
        sample_id=_take(obj, "sample_id", _is_text),
        image_id=_take(obj, "image_id", _is_text),
        status=cast("Status", status),
        intersection=_take(obj, "intersection", _is_count),
        union=_take(obj, "union", _is_count),
        pred_area=_take(obj, "pred_area", _is_count),
        gt_area=_take(obj, "gt_area", _is_count),
        iou=_take(obj, "iou", _is_fraction),
        box_iou=_take(obj, "box_iou", _is_fraction),
        boundary_iou=_take(obj, "boundary_iou", _is_fraction),
        no_target=_take(obj, "no_target", _is_flag),
        has_mask=_take(obj, "has_mask", _is_flag),
        predicted_empty=_take(obj, "predicted_empty", _is_flag),
        counted=_take(obj, "counted", _is_flag),
        tags=tuple(str(tag) for tag in tags),
    )


def _take(obj: Mapping[str, object], key: str, read: Callable[[object], tuple[bool, T]]) -> T:
    if key not in obj:
        raise DataError(f"a score has no {key!r}", "score the run again with `lens-bench score RUN_DIR`")
    fits, value = read(obj[key])
    if not fits:
        raise DataError(
            f"a score has {key!r} = {reprlib.repr(obj[key])}", "score the run again with `lens-bench score RUN_DIR`"
        )
    return value


def _is_text(value: object) -> tuple[bool, str]:
    return isinstance(value, str), cast("str", value)


def _is_list(value: object) -> tuple[bool, list[object]]:
    return isinstance(value, list), cast("list[object]", value)


def _is_flag(value: object) -> tuple[bool, bool]:
    return isinstance(value, bool), cast("bool", value)


def _is_count(value: object) -> tuple[bool, int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_PIXELS, cast("int", value)


def _is_fraction(value: object) -> tuple[bool, float | None]:
    if value is None:
        return True, None
    fits = isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value <= 1.0
    return fits, float(cast("float", value)) if fits else None
