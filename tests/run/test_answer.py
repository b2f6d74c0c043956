"""A model's failures cost its samples and nothing else."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_bench.errors import OutOfMemoryError
from lens_bench.masks import full
from lens_bench.records import ImageTask, LoadReport, Prediction, Query
from lens_bench.run import answer as answering
from lens_bench.run.answer import BatchSize, answer

SIZE = (4, 6)


def tasks(*counts: int) -> list[ImageTask]:
    return [
        ImageTask(f"i{i}", SIZE, tuple(Query(f"i{i}/q{q}", "thing") for q in range(count)))
        for i, count in enumerate(counts)
    ]


def ids(group: Sequence[ImageTask]) -> list[str]:
    return [q.sample_id for t in group for q in t.queries]


class Model:
    """Answers with full masks; ``before`` may raise. Remembers the calls."""

    def __init__(self, before: Callable[[list[str]], None] = lambda _: None) -> None:
        self.before = before
        self.calls: list[list[str]] = []

    def load(self) -> LoadReport:
        return LoadReport()

    def segment(self, group: Sequence[ImageTask]) -> list[Prediction]:
        self.calls.append(ids(group))
        self.before(self.calls[-1])
        return [Prediction(i, "ok", mask=full(SIZE)) for i in self.calls[-1]]

    def close(self) -> None:
        pass


@given(
    counts=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    guilty=st.sets(st.integers(0, 29), max_size=4),
)
def test_exactly_the_guilty_samples_fail(counts: list[int], guilty: set[int]) -> None:
    group = tasks(*counts)
    bad = {i for n, i in enumerate(ids(group)) if n in guilty}

    def before(call: list[str]) -> None:
        if bad & set(call):
            raise ValueError("broken\n  pipe")

    found = answer(Model(before), group, BatchSize(len(group)))
    assert [p.sample_id for p in found] == ids(group)
    assert {p.sample_id for p in found if p.status == "error"} == bad
    assert all(p.error == "ValueError: broken pipe" for p in found if p.status == "error")


@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=6), limit=st.integers(1, 6))
def test_out_of_memory_halves_for_good(counts: list[int], limit: int) -> None:
    def before(call: list[str]) -> None:
        if len(call) > limit:
            raise OutOfMemoryError("too much")

    group, size, model = tasks(*counts), BatchSize(8), Model(before)
    assert all(p.status == "ok" for p in answer(model, group, size))
    halvings = size.halvings
    assert (halvings > 0) == (sum(counts) > limit)
    if size.queries is not None:  # single images were too much: the next call starts at what fitted
        model.calls.clear()
        answer(model, tasks(limit), size)
        assert size.halvings == halvings


def test_out_of_memory_on_a_single_expression_is_its_error() -> None:
    def before(call: list[str]) -> None:
        raise MemoryError

    found = answer(Model(before), tasks(2, 1), BatchSize(2))
    assert [p.status for p in found] == ["error"] * 3


class Tensor:
    """Something that a failed call holds."""


class OutOfMemoryErrorOfTorch(RuntimeError):
    pass


OutOfMemoryErrorOfTorch.__name__ = "OutOfMemoryError"


def test_torch_is_recognised_by_name() -> None:
    def before(call: list[str]) -> None:
        if len(call) > 1:
            raise OutOfMemoryErrorOfTorch

    size = BatchSize(4)
    assert all(p.status == "ok" for p in answer(Model(before), tasks(1, 1, 1), size))
    assert size.images == 1


def test_a_cpu_that_runs_out_is_recognised_and_its_batch_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's CPU allocator raises a bare RuntimeError. What is freed is freed once the traceback is gone."""
    tensors: list[weakref.ref[Tensor]] = []
    alive: list[bool] = []
    monkeypatch.setattr(answering, "free_cached_memory", lambda: alive.append(tensors[-1]() is not None))

    def before(call: list[str]) -> None:
        held = Tensor()
        tensors.append(weakref.ref(held))
        if len(call) > 2:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"
            )

    size = BatchSize(4)
    assert all(p.status == "ok" for p in answer(Model(before), tasks(1, 1, 1, 1), size))
    assert (size.images, size.halvings, alive) == (2, 1, [False])


def test_interruptions_pass() -> None:
    def before(call: list[str]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer(Model(before), tasks(1), BatchSize(1))


class Wrong(Model):
    def __init__(self, change: Callable[[list[Prediction]], list[Prediction]]) -> None:
        super().__init__()
        self.change = change

    def segment(self, group: Sequence[ImageTask]) -> list[Prediction]:
        return self.change(super().segment(group))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found[:-1], "0 predictions for 1"),
        (lambda found: [Prediction("other", "ok")], "not in order"),
        (lambda found: [Prediction(p.sample_id, "ok", mask=full((6, 4))) for p in found], "has size"),
        (lambda found: [Prediction(p.sample_id, "ok", box=(0, 0, float("nan"), 1)) for p in found], "not a finite"),
        (lambda found: [Prediction(p.sample_id, "no_mask", mask=full(SIZE)) for p in found], "no_mask"),
    ],
)
def test_a_model_is_held_to_its_contract(change: Callable[[list[Prediction]], list[Prediction]], message: str) -> None:
    (found,) = answer(Wrong(change), tasks(1), BatchSize(1))
    assert found.status == "error"
    assert message in (found.error or "")
