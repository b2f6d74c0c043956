"""Reading options."""

from __future__ import annotations

import pytest

from lens_bench.errors import UsageError
from lens_bench.run.options import arguments, batch, error_limit, shard_number


def test_arguments() -> None:
    assert arguments(["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}


@pytest.mark.parametrize("pairs", [["a"], ["=1"], ["a=1", "a=2"]])
def test_bad_arguments(pairs: list[str]) -> None:
    with pytest.raises(UsageError):
        arguments(pairs)


def test_batch() -> None:
    assert (batch("auto"), batch("16")) == (None, 16)
    for text in ("0", "-1", "many", "1.5"):
        with pytest.raises(UsageError):
            batch(text)


@pytest.mark.parametrize(
    ("text", "value"), [("1%", 0.01), ("0.05", 0.05), ("20", 20), ("1", 1), ("0", 0), ("100%", 1.0)]
)
def test_error_limit(text: str, value: float) -> None:
    found = error_limit(text)
    assert (found, type(found)) == (pytest.approx(value), type(value))


@pytest.mark.parametrize("text", ["-1", "1.5", "some", "%"])
def test_bad_error_limit(text: str) -> None:
    with pytest.raises(UsageError):
        error_limit(text)


def test_shards_cover_everything_counted_from_one_or_from_zero() -> None:
    one = {shard_number(f"{i}/3")[0] % 3 for i in (1, 2, 3)}
    zero = {shard_number(f"{i}/3")[0] % 3 for i in (0, 1, 2)}
    assert one == zero == {0, 1, 2}
    for text in ("4/3", "1", "a/b", "-1/3", "0/0", "1/0"):
        with pytest.raises(UsageError):
            shard_number(text)
