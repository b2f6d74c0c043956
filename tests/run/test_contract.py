"""What a model may answer, and what costs the sample."""

from __future__ import annotations

import numpy as np
import pytest

from lens_bench.errors import DataError, RunError
from lens_bench.masks import empty, full
from lens_bench.records import Prediction, Rle, Tokens
from lens_bench.run.contract import plain

SIZE = (4, 6)


def test_numpy_values_are_made_plain() -> None:
    box = tuple(np.float32(v) for v in (0.5, 1, 2, 3))
    raw = Prediction(
        "a",
        "ok",
        mask=full(SIZE),
        box=box,  # type: ignore[arg-type]
        score=np.float64(0.25),
        text="half \ud83d of a pair",
        tokens=Tokens(np.int64(7), np.int32(2)),  # type: ignore[arg-type]
        stages_ms={"decode": np.float32(1.5)},  # type: ignore[dict-item]
    )
    found = plain(raw, SIZE)
    assert (found.box, found.score, found.tokens) == ((0.5, 1.0, 2.0, 3.0), 0.25, Tokens(7, 2))
    numbers = (*(found.box or ()), found.score, *found.stages_ms.values())
    assert {type(v) for v in numbers} == {float}
    assert found.tokens is not None
    assert type(found.tokens.prompt) is int
    assert found.text == "half ? of a pair"


def test_counts_may_be_a_string_and_an_empty_mask_may_stand_beside_no_mask() -> None:
    text = Rle(SIZE, full(SIZE).counts.decode())  # type: ignore[arg-type]
    assert plain(Prediction("a", "ok", mask=text), SIZE).mask == full(SIZE)
    assert plain(Prediction("a", "no_mask", mask=empty(SIZE)), SIZE).mask == empty(SIZE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "OK"}, "status 'OK'"),
        ({"mask": Rle(SIZE, b"zzzz")}, "the mask in"),
        ({"mask": Rle(SIZE, b"01")}, "covers"),
        ({"mask": full((6, 4))}, "has size"),
        ({"mask": np.ones(SIZE, dtype=bool)}, "mask of type ndarray"),
        ({"status": "no_mask", "mask": full(SIZE)}, "a mask and the status no_mask"),
        ({"status": "error", "mask": full(SIZE)}, "a mask and the status error"),
        ({"box": (1.0, 2.0, 3.0)}, "a box of 3 numbers"),
        ({"box": (1.0, 2.0, 3.0, float("inf"))}, "not a finite number"),
        ({"box": ("a", 1, 2, 3)}, "not a finite number"),
        ({"score": "high"}, "not a finite number"),
        ({"score": True}, "not a finite number"),
        ({"tokens": Tokens(-1, 2)}, "token counts"),
        ({"tokens": Tokens(1.5, 2)}, "token counts"),
        ({"stages_ms": {"decode": float("nan")}}, "stage decode"),
        ({"text": b"bytes"}, "type bytes"),
    ],
)
def test_what_is_refused(change: dict[str, object], message: str) -> None:
    values = {"sample_id": "a", "status": "ok", **change}
    with pytest.raises((RunError, DataError), match=message):
        plain(Prediction(**values), SIZE)  # type: ignore[arg-type]
