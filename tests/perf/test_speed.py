"""Speed figures from calls."""

from __future__ import annotations

import pytest

from lens_bench.perf.single_stream import latency_of
from lens_bench.perf.speed import Call, Speed
from lens_bench.records import Prediction, Tokens


def speed_of(calls: list[Call], wall_s: float = 10.0) -> dict[str, object]:
    speed = Speed("cpu", calls=calls, wall_s=wall_s)
    return speed.to_json()


def test_latency_is_that_of_the_call_an_expression_was_in_and_the_first_call_is_apart() -> None:
    found = speed_of([Call(9.0, 1, 1), Call(0.1, 1, 3), Call(0.3, 2, 1)])
    assert found["first_call_ms"] == 9000
    assert found["latency_ms"]["p50"] == pytest.approx(100)
    assert found["latency_ms"]["p99"] == pytest.approx(300)  # somebody waited so long: nothing lies between waits
    assert (found["expressions"], found["images"], found["calls"], found["batch_images"]) == (5, 4, 3, 2)
    assert found["expressions_per_s"] == 0.5
    assert found["images_per_s"] == 0.4


def test_percentiles_are_those_of_a_profile() -> None:
    calls = [Call(9.0, 1, 1), *(Call(n / 1000, 1, 1) for n in range(1, 12))]
    found = speed_of(calls)["latency_ms"]
    profiled = latency_of([float(n) for n in range(1, 12)])
    assert found == {"p50": profiled.p50.value, "p90": profiled.p90.value, "p99": profiled.p99.value}


def test_a_single_call_is_all_there_is() -> None:
    assert speed_of([Call(0.5, 1, 2)])["latency_ms"]["p50"] == 500


def test_nothing_measured_is_null() -> None:
    found = speed_of([], wall_s=0.0)
    assert found["latency_ms"] is None
    assert found["expressions_per_s"] is None
    assert found["first_call_ms"] is None


def test_stages_and_tokens_are_means_over_answers() -> None:
    speed = Speed("cpu")
    speed.answers([Prediction("a", "ok", stages_ms={"encode": 4.0}, tokens=Tokens(1, 10)), Prediction("b", "ok")])
    found = speed.to_json()
    assert found["stages_ms"] == {"encode": 2.0}
    assert found["completion_tokens"] == 10.0


def test_a_reason_makes_it_incomparable() -> None:
    assert Speed("cpu").to_json()["comparable"] is True
    assert Speed("cpu", reasons=["resumed"]).to_json()["comparable"] is False
