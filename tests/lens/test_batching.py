"""Batches: every item once, in order, whatever the sizes; memory running out halves them for good."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lens_bench.errors import OutOfMemoryError
from lens_bench.lens.batching import Budget, is_out_of_memory, row_budget


@given(st.lists(st.integers(0, 100)), st.integers(1, 7), st.integers(1, 7))
def test_results_are_in_order_and_nothing_is_lost(items: list[int], size: int, fits: int) -> None:
    budget = Budget(size, "things")
    batches: list[list[int]] = []

    def work(batch: Sequence[int]) -> list[int]:
        if len(batch) > fits:
            raise torch.OutOfMemoryError("full")
        batches.append(list(batch))
        return [2 * item for item in batch]

    assert budget.run(items, work, lambda item: item) == [2 * item for item in items]
    assert [i for batch in batches for i in batch] == sorted(items, reverse=True)
    assert all(len(b) <= min(size, fits) for b in batches)
    if len(items) >= size:
        assert budget.size <= max(fits, 1) or size <= fits


def test_a_single_item_that_does_not_fit_is_named() -> None:
    def work(batch: Sequence[int]) -> list[int]:
        raise MemoryError

    with pytest.raises(OutOfMemoryError, match="masks: one item"):
        Budget(4, "masks").run([1, 2], work)


def test_a_worker_that_loses_results_is_a_defect() -> None:
    with pytest.raises(ValueError, match="zip"):
        Budget(4, "masks").run([1, 2], lambda batch: batch[:1])
    with pytest.raises(ValueError, match="batch size 0"):
        Budget(0, "masks")


def test_what_counts_as_out_of_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("x")) and is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."))
    assert not is_out_of_memory(RuntimeError("shape mismatch")) and not is_out_of_memory(ValueError("memory"))


def test_rows_on_the_cpu_do_not_depend_on_memory() -> None:
    assert row_budget(torch.device("cpu"), 1) == 64
    assert row_budget(torch.device("cpu"), 1, cap=8) == 8
