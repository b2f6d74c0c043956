"""What a model's answer must be before it is written down.

Everything that the journal or the scoring would stumble over later is refused here, where it costs one sample: an
adapter is somebody else's code. Harmless differences (numpy numbers, lists for tuples) are made plain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import get_args

from lens_bench.data.jsonio import shown
from lens_bench.errors import RunError
from lens_bench.masks import area, rle_from_json
from lens_bench.records import Box, ImageTask, Prediction, Rle, Size, Status, Tokens

_STATUSES: tuple[str, ...] = get_args(Status)


def checked(tasks: Sequence[ImageTask], predictions: Sequence[Prediction]) -> list[Prediction]:
    """Hold a model to its contract: one prediction per query, in order, each of plain and sound values.

    Raises:
        RunError: What is wrong, naming the sample.
        DataError: A mask's run lengths do not fill the image.
    """
    wanted = [(q.sample_id, t.size) for t in tasks for q in t.queries]
    if not isinstance(predictions, Sequence) or not all(isinstance(p, Prediction) for p in predictions):
        raise RunError("the model did not return a list of predictions")
    if [p.sample_id for p in predictions] != [sample_id for sample_id, _ in wanted]:
        raise RunError(f"the model gave {len(predictions)} predictions for {len(wanted)} expressions, or not in order")
    return [plain(p, size) for p, (_, size) in zip(predictions, wanted, strict=True)]


def plain(prediction: Prediction, size: Size) -> Prediction:
    """The prediction with plain Python values. Raises as ``checked``."""
    where = f"the prediction of {prediction.sample_id}"
    status = prediction.status
    if status not in _STATUSES:
        raise RunError(f"{where} has the status {shown(status)}", f"one of: {', '.join(_STATUSES)}")
    mask = None if prediction.mask is None else _mask(prediction.mask, size, where)
    if mask is not None and status != "ok" and area(mask):
        raise RunError(f"{where} has a mask and the status {status}")
    tokens = prediction.tokens
    return Prediction(
        sample_id=prediction.sample_id,
        status=status,
        mask=mask,
        box=None if prediction.box is None else _box(prediction.box, where),
        score=None if prediction.score is None else _number(prediction.score, f"the score in {where}"),
        text=_text(prediction.text, f"the text in {where}"),
        tokens=None if tokens is None else Tokens(_count(tokens.prompt, where), _count(tokens.completion, where)),
        stages_ms={
            str(stage): _number(ms, f"the time of stage {stage} in {where}")
            for stage, ms in prediction.stages_ms.items()
        },
        error=_text(prediction.error, f"the error in {where}"),
    )


def _mask(mask: object, size: Size, where: str) -> Rle:
    if not isinstance(mask, Rle):
        raise RunError(f"{where} has a mask of type {type(mask).__name__}", "lens_bench.masks.encode makes an Rle")
    rle = rle_from_json({"size": list(mask.size), "counts": mask.counts}, f"the mask in {where}")
    if rle.size != size:
        raise RunError(f"{where}: the mask has size {rle.size}, the image {size}")
    return rle


def _box(box: Sequence[float], where: str) -> Box:
    if isinstance(box, str) or len(box) != 4:
        raise RunError(f"{where} has a box of {len(box)} numbers", "a box is (x1, y1, x2, y2) in pixels")
    x1, y1, x2, y2 = (_number(v, f"the box in {where}") for v in box)
    return (x1, y1, x2, y2)


def _number(value: object, what: str) -> float:
    try:
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except (OverflowError, TypeError):  # an integer that no float holds
        number = math.nan
    if not math.isfinite(number):
        raise RunError(f"{what} holds {shown(value)}, which is not a finite number")
    return number


def _count(value: object, where: str) -> int:
    number = _number(value, f"the token counts in {where}")
    if number < 0 or number != int(number):
        raise RunError(f"the token counts in {where} hold {shown(value)}")
    return int(number)


def _text(value: object, what: str) -> str | None:
    """Text as UTF-8 can hold it: a decoder may emit half of a surrogate pair."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise RunError(f"{what} is of type {type(value).__name__}")
    return value.encode("utf-8", "replace").decode()
