"""Stages held against the wall clock, and the roof over them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_bench.perf.ceilings import Ceilings, measure_ceilings
from lens_bench.perf.roofline import roof
from lens_bench.perf.stages import OTHER, CallTime, stage_table, whole_roof
from lens_bench.records import UNKNOWN_COST, Cost

CEILINGS = Ceilings(matmul_flops=1e12, copy_bytes=1e11, dtype="float32")


def calls(stages: dict[str, float], count: int = 4, **more: object) -> list[CallTime]:
    return [CallTime(2.0, 1, 2, {k: v for k, v in stages.items()}, **more) for _ in range(count)]  # type: ignore[arg-type]


def test_stages_within_five_percent_stand_for_the_whole() -> None:
    table = stage_table(calls({"a": 1.5, "b": 0.42}), None)
    assert [s.name for s in table.stages] == ["a", "b"]
    assert table.unaccounted == pytest.approx(0.04) and not table.reasons
    assert (table.stages[0].mean_ms, table.stages[0].share) == pytest.approx((1500, 0.75))


def test_the_rest_is_shown_where_it_is_more() -> None:
    table = stage_table(calls({"a": 1.5}), None)
    assert [s.name for s in table.stages] == ["a", OTHER]
    assert table.stages[1].mean_ms == pytest.approx(500)
    assert sum(s.share for s in table.stages) == pytest.approx(1)


def test_stages_that_overlap_are_a_reason() -> None:
    table = stage_table(calls({"a": 1.5, "b": 0.9}), None)
    assert table.reasons == ["the stages add up to 120 % of the wall clock"]


def test_a_model_without_stages_has_none() -> None:
    assert stage_table(calls({}), None).stages == () and stage_table([], None).stages == ()


@given(st.lists(st.tuples(st.floats(0.1, 5), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8))
def test_shares_and_the_rest_are_the_wall_clock(rows: list[tuple[float, float, float]]) -> None:
    table = stage_table([CallTime(s, 1, 1, {"a": s * x / 2, "b": s * y / 2}) for s, x, y in rows], None)
    named = sum(s.share for s in table.stages if s.name != OTHER)
    assert named + table.unaccounted == pytest.approx(1)


def test_a_stage_that_occurs_in_some_calls_only_is_spread_over_all() -> None:
    table = stage_table([CallTime(1.0, 1, 1, {"a": 1.0}), CallTime(1.0, 1, 1, {"a": 0.5, "b": 0.5})], None)
    assert [(s.name, s.mean_ms) for s in table.stages] == [("a", 750), ("b", 250)]


def test_the_nearer_ceiling_bounds_a_stage() -> None:
    computing = roof(Cost(flops=5e11, moved=1e9), 1.0, CEILINGS)
    moving = roof(Cost(flops=1e9, moved=8e10), 1.0, CEILINGS)
    assert computing is not None and moving is not None
    assert (computing.bound, computing.attained, computing.mfu) == ("compute", 0.5, 0.5)
    assert (moving.bound, moving.attained, moving.mfu) == ("memory", 0.8, 0.001)
    assert roof(Cost(), 1.0, CEILINGS) is None and roof(Cost(1.0), 0.0, CEILINGS) is None


def test_work_is_that_of_an_expression() -> None:
    found = calls({"a": 1.0, "b": 1.0}, costs={"a": Cost(4e11, 0.0)})
    table = stage_table(found, CEILINGS)
    assert table.stages[0].roof is not None and table.stages[0].roof.flops == 2e11  # two expressions a call
    assert table.stages[0].roof.mfu == pytest.approx(0.4) and table.stages[1].roof is None
    whole = whole_roof(found, CEILINGS)
    assert whole is not None and whole.mfu == pytest.approx(0.2)
    assert whole_roof(calls({"a": 1.0}), CEILINGS) is None and whole_roof(found, None) is None


def test_where_the_work_of_a_stage_is_not_known_none_is_given_for_the_whole() -> None:
    found = calls({"a": 1.0, "b": 1.0}, costs={"a": Cost(4e11, 0.0), "b": UNKNOWN_COST})
    known, unknown = stage_table(found, CEILINGS).stages
    assert known.known and known.roof is not None
    assert not unknown.known and unknown.roof is None
    assert whole_roof(found, CEILINGS) is None
    assert roof(Cost(1e9, 1e9) + UNKNOWN_COST, 1.0, CEILINGS) is None


def test_ceilings_of_this_machine_are_positive_and_named() -> None:
    found = measure_ceilings("cpu", "float32", rounds=1)
    assert found.matmul_flops > 1e8 and found.copy_bytes > 1e7 and found.dtype == "float32"
