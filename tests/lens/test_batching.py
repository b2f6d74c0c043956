"""Batches: every item once, in order, whatever the sizes; memory running out halves them for good."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lens_bench.errors import OutOfMemoryError
from lens_bench.lens import batching
from lens_bench.lens.batching import Budget, padded_rows, row_budget, row_bytes
from lens_bench.out_of_memory import Halvings


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


def test_the_cache_is_freed_when_the_failed_batch_has_let_go_of_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the exception lives, its traceback holds every tensor of the batch, and freeing the cache frees nothing."""
    tensors: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []
    monkeypatch.setattr(batching, "free_cached_memory", lambda: alive.append(tensors[-1]() is not None))

    def work(batch: Sequence[int]) -> list[int]:
        held = torch.zeros(len(batch))
        tensors.append(weakref.ref(held))
        if len(held) > 1:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        return list(batch)

    halvings = Halvings()
    assert Budget(4, "masks").run([1, 2, 3, 4], work) == [1, 2, 3, 4]
    assert alive == [False, False]
    assert halvings.count == 2 and halvings.reason == "out of memory: fewer masks at once inside the model"


def test_a_smaller_batch_is_tried_where_a_stage_inside_could_not_go_lower() -> None:
    inner = Budget(1, "features")

    def work(batch: Sequence[int]) -> list[int]:
        def features(one: Sequence[int]) -> list[int]:
            if len(batch) > 1:
                raise torch.OutOfMemoryError("full")
            return list(one)

        return inner.run(batch, features)

    assert Budget(4, "images").run([1, 2, 3], work) == [1, 2, 3]


def test_rows_on_the_cpu_do_not_depend_on_memory() -> None:
    assert row_budget(torch.device("cpu"), 1) == 64
    assert row_budget(torch.device("cpu"), 1, cap=8) == 8


def test_rows_on_a_gpu_are_what_fits_into_half_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Free for the device, or kept by torch for later and not in use."""
    device = torch.device("cuda", 1)
    for name, size in (("memory_reserved", 700), ("memory_allocated", 500)):
        monkeypatch.setattr(torch.cuda, name, lambda asked, found=size: {device: found}[asked])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda asked: {device: (1000, 2000)}[asked])
    assert row_budget(device, 10) == 60
    assert row_budget(device, 10, cap=50) == 50
    assert row_budget(device, 10_000) == 1


@given(st.lists(st.lists(st.integers(1, 9), max_size=6), min_size=1, max_size=5))
def test_padded_rows_hold_every_row_and_zeros_behind_it(rows: list[list[int]]) -> None:
    ids, real = padded_rows(rows)
    assert ids.shape == real.shape == (len(rows), max(len(row) for row in rows))
    assert [ids[n][real[n]].tolist() for n in range(len(rows))] == rows
    assert not ids[~real].any() and real.sum(dim=1).tolist() == [len(row) for row in rows]


def test_bytes_of_a_row_are_those_of_its_keys_and_values_twice() -> None:
    text = SimpleNamespace(hidden_size=64, num_attention_heads=8, num_key_value_heads=2, num_hidden_layers=3)
    keys = torch.zeros(2, 10, 64 // 8, dtype=torch.float16)
    assert row_bytes(text, torch.float16, 10) == 3 * 2 * keys.nbytes * 2
    text.head_dim, text.num_key_value_heads = 24, None
    assert row_bytes(text, torch.float16, 10) == 3 * 2 * torch.zeros(8, 10, 24, dtype=torch.float16).nbytes * 2


def test_a_budget_inside_another_has_its_name_kept_and_the_outer_one_halved() -> None:
    """Fewer images at once leave room for their expressions; where one image leaves none, expressions are named."""
    outer, inner = Budget(4, "images"), Budget(2, "expressions")
    tried: list[int] = []

    def work(images: Sequence[int]) -> Sequence[int]:
        tried.append(len(images))

        def write(rows: Sequence[int]) -> Sequence[int]:
            if len(images) > fits:
                raise torch.OutOfMemoryError("full")
            return rows

        return inner.run(images, write)

    fits = 1
    assert outer.run([1, 2, 3, 4], work) == [1, 2, 3, 4] and tried == [4, 2, 1, 1, 1, 1]
    fits = 0
    with pytest.raises(OutOfMemoryError, match="expressions: one item"):
        outer.run([1, 2], work)
