"""The cluster on paper agrees with arithmetic where there is a closed form."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from lens_bench.registry import import_file

sim: Any = import_file(Path(__file__).resolve().parents[3] / "benchmarks" / "scale" / "simulation.py")


@pytest.mark.parametrize(("workers", "images", "batch"), [(1, 10, 1), (3, 10, 1), (8, 64, 4), (5, 3, 1), (7, 100, 8)])
def test_equal_calls_take_whole_rounds(workers: int, images: int, batch: int) -> None:
    """Each call of b images with 3 expressions takes b (0.1 + 3 * 0.25) s; the last may be shorter."""
    found = sim.simulate(sim.Cluster(workers), sim.even(images, 3), batch)
    calls = -(-images // batch)
    rounds = -(-calls // workers)
    shorter = (calls * batch - images) * 0.85 if calls % workers == 1 or workers == 1 else 0.0
    assert found.wall_s == pytest.approx(rounds * batch * 0.85 - shorter)
    assert found.expressions_per_s == pytest.approx(images * 3 / found.wall_s)


def test_one_worker_waits_for_two_messages_each_call() -> None:
    found = sim.simulate(sim.Cluster(1, trip_s=0.05, driver_s=0.01), sim.even(20, 2), 2)
    assert found.wall_s == pytest.approx(10 * (2 * 0.6 + 2 * 0.05) + 0.01)  # the driver works while the worker does
    assert found.utilisation == pytest.approx(10 * 1.2 / found.wall_s)


@pytest.mark.parametrize("driver_s", [0.01, 0.05])
def test_a_driver_that_needs_longer_than_all_workers_together_is_the_limit(driver_s: float) -> None:
    found = sim.simulate(sim.Cluster(400, driver_s=driver_s), sim.even(8000, 1), 1)
    assert 400 / 0.35 > 1 / driver_s  # what the workers could do
    assert found.expressions_per_s == pytest.approx(1 / driver_s, rel=0.02)


@pytest.mark.parametrize("score_s", [0.002, 0.01])
def test_scoring_is_the_limit_where_it_is_slower_than_the_workers(score_s: float) -> None:
    found = sim.simulate(sim.Cluster(64, score_s=score_s), sim.even(10000, 4), 2)
    workers = 64 * 4 / 1.1
    assert found.expressions_per_s == pytest.approx(min(workers, 1 / score_s), rel=0.03)


def test_what_joins_halfway_halves_the_rest() -> None:
    """60 s of loading, then 100 s of work for 10 workers: 10 more at 110 s, ready 60 s (and a look every 5 s) later."""
    images = sim.even(int(10 * 200 / 0.85), 3)
    alone = sim.simulate(sim.Cluster(10), images, 1).wall_s
    joined = sim.simulate(sim.Cluster(10, joins=((60 + 40.0, 10),)), images, 1).wall_s
    at = 40 + 60
    assert joined == pytest.approx(at + (alone - at) / 2, abs=5)


def test_failures_cost_their_lost_calls_and_the_loading_of_others() -> None:
    images = sim.even(16000, 2)
    calm = sim.simulate(sim.Cluster(20), images, 4)
    rough = sim.simulate(sim.Cluster(20, failure_s=600.0), images, 4)
    assert rough.lost > 8
    expected = calm.wall_s + rough.lost * (60 + 1.2) / 20  # each failure loses half a call and a loading of one worker
    assert rough.wall_s == pytest.approx(expected, rel=0.1)
    assert rough.expressions_per_s * rough.wall_s == pytest.approx(32000)


def test_work_is_drawn_to_the_asked_number_and_mean() -> None:
    images = sim.drawn(20000, 2.8)
    assert sum(images) == 20000
    assert min(images) >= 1
    assert sum(images) / len(images) == pytest.approx(2.8, rel=0.03)
    assert math.isfinite(sim.simulate(sim.Cluster(50, spread=0.3), images, 8).wall_s)
