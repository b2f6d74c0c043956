"""What may be said about workers, and what one of them takes."""

from __future__ import annotations

import pytest

from lens_bench.errors import UsageError
from lens_bench.run.workers.options import Workers, read_workers


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ((None, None, None), None),
        (("1", None, None), None),
        (("3", None, None), Workers(3)),
        (("auto", None, None), Workers(None)),
        ((None, "auto", None), Workers(None, "auto")),
        (("1", "ray://head:10001", 0.5), Workers(1, "ray://head:10001", 0.5)),
        (("8", "10.0.0.1:6379", 2), Workers(8, "10.0.0.1:6379", 2)),
        ((None, "ray://[fe80::1]:10001", None), Workers(None, "ray://[fe80::1]:10001")),
    ],
)
def test_what_is_meant(typed: tuple[str | None, str | None, float | None], meant: Workers | None) -> None:
    assert read_workers(*typed) == meant


@pytest.mark.parametrize(
    ("typed", "option"),
    [
        (("0", None, None), "--workers 0"),
        (("-2", None, None), "--workers -2"),
        (("²", None, None), "--workers ²"),
        (("many", None, None), "--workers many"),
        (("2", "http://head", None), "--engine-address http://head"),
        (("2", "", None), "--engine-address"),
        (("2", "head:70000", None), "--engine-address head:70000"),
        (("2", None, 0.0), "--gpus-per-worker 0"),
        (("2", None, 1.5), "--gpus-per-worker 1.5"),
        ((None, None, 0.5), "--gpus-per-worker"),
        (("2", None, float("nan")), "--gpus-per-worker"),
        (("2", None, float("inf")), "--gpus-per-worker"),
    ],
)
def test_what_makes_no_sense_is_named(typed: tuple[str | None, str | None, float | None], option: str) -> None:
    with pytest.raises(UsageError, match=option):
        read_workers(*typed)


@pytest.mark.parametrize(
    ("cpus", "gpus", "node", "room"),
    [
        (1, 0, {"CPU": 3.0}, 3),
        (1, 1, {"CPU": 16.0, "GPU": 8.0}, 8),
        (1, 1, {"CPU": 4.0, "GPU": 8.0}, 4),
        (1, 0.5, {"CPU": 16.0, "GPU": 2.0}, 4),
        (1, 0.4, {"CPU": 16.0, "GPU": 2.0}, 4),  # not five: a worker is on one device
        (1, 1 / 3, {"CPU": 16.0, "GPU": 1.0}, 3),
        (1, 2, {"CPU": 16.0, "GPU": 5.0}, 2),
        (1, 1, {"CPU": 16.0}, 0),
        (1, 0, {}, 0),
    ],
)
def test_how_many_a_node_holds(cpus: float, gpus: float, node: dict[str, float], room: int) -> None:
    pytest.importorskip("ray")
    from lens_bench.run.workers.ray_pool import Share

    assert Share(cpus, gpus).fits(node) == room


def test_a_machine_without_room_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    from lens_bench.run.workers import ray_pool

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 4.0}}])
    with pytest.raises(UsageError, match=r"2 workers with 1 GPU each do not fit on this machine: .* for 0"):
        ray_pool.RayPool(None, Workers(2), ray_pool.Share(1, 1), None)  # type: ignore[arg-type]
