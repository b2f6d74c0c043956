"""profile.json: what is written is read back, what is damaged is named; and what people type."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lens_bench.errors import DataError, UsageError
from lens_bench.perf import knobs
from lens_bench.perf.ceilings import Ceilings
from lens_bench.perf.memory import Memory, memory_now
from lens_bench.perf.offline import offline
from lens_bench.perf.profile_file import (
    Circumstances,
    Offline,
    Profile,
    SingleStream,
    profile_from_json,
    profile_to_json,
)
from lens_bench.perf.server import Bound, server
from lens_bench.perf.single_stream import single_stream
from lens_bench.records import Cost

from .paper import bench, tasks

EMPTY = Profile(
    suite="refcoco",
    split="val",
    suite_hash="ab",
    model="m",
    weight_digest="cd",
    digest="01234567",
    args={"x": 1, "y": None, "z": True},
    work={},
    knobs={"duration_s": 1.0},
    device="cpu",
    dtype="float32",
    engine=None,
    hardware="some processor",
    environment={"packages": {"torch": "2"}},
    sees_ground_truth=False,
    seed=0,
    sessions=("now",),
)


def measured(reasons: tuple[str, ...] = (), session: int = 1) -> Profile:
    """A profile with every scenario, measured on paper."""
    parts: dict[str, object] = {}
    ceilings = Ceilings(1e12, 1e10, "float32")
    where = bench(
        lambda asked: 0.1 + 0.05 * len(asked),
        stages={"a": 0.5, "b": 0.2},
        costs={"a": Cost(1e9, 1e6)},
        ceilings=ceilings,
        session=session,
    )
    single_stream(where, tasks(8), lambda found: parts.update(single_stream=found))
    offline(where, tasks(8, 2), (1, 4), None, lambda found: parts.update(offline=found))
    server(where, tasks(8), Bound(0.9, 1.0), 4, 0, None, lambda found: parts.update(server=found))
    found = replace(EMPTY, ceilings=ceilings, parameters=7, **parts)  # type: ignore[arg-type]
    return cleaned(found, reasons)


def cleaned(profile: Profile, reasons: tuple[str, ...]) -> Profile:
    """With these reasons alone: on a busy machine the measurement on paper has found others."""

    def of(circumstances: Circumstances) -> Circumstances:
        return replace(circumstances, reasons=reasons)

    single, swept, served = profile.single_stream, profile.offline, profile.server
    assert single is not None and swept is not None and served is not None
    return replace(
        profile,
        single_stream=replace(single, circumstances=of(single.circumstances)),
        offline=replace(swept, points=tuple(replace(p, circumstances=of(p.circumstances)) for p in swept.points)),
        server=replace(served, trials=tuple(replace(t, circumstances=of(t.circumstances)) for t in served.trials)),
    ).judged()


def test_what_is_written_is_read_back() -> None:
    profile = measured()
    content = profile_to_json(profile)
    assert next(iter(content)) == "schema_version" and content["schema_version"] == 2
    assert profile_from_json(json.loads(json.dumps(content, allow_nan=False)), "p") == profile
    assert profile_from_json(profile_to_json(EMPTY), "p") == EMPTY


def test_another_schema_and_damage_are_named() -> None:
    content = profile_to_json(measured())
    with pytest.raises(DataError, match=r"p.json has schema version 9, this is version 2"):
        profile_from_json({**content, "schema_version": 9}, "p.json")
    single = content["single_stream"]
    assert isinstance(single, dict)
    single["calls"] = "many"
    with pytest.raises(DataError, match=r"p.json: single_stream.calls"):
        profile_from_json(content, "p.json")
    with pytest.raises(DataError, match="suite"):
        profile_from_json({"schema_version": 2}, "p.json")


def test_nothing_against_it_makes_it_comparable() -> None:
    profile = measured()
    assert profile.comparable and profile.reasons == ()
    assert EMPTY.judged().comparable


def test_a_reason_anywhere_makes_it_incomparable_and_is_said_once_a_scenario() -> None:
    profile = measured(("other processes used 12 % of the 2 processors",))
    assert not profile.comparable and len(profile.reasons) == 3
    assert profile.reasons_of("offline") == ("offline: other processes used 12 % of the 2 processors",)
    assert isinstance(profile.single_stream, SingleStream) and isinstance(profile.offline, Offline)
    point = profile.offline.points[1]
    louder = replace(point, circumstances=replace(point.circumstances, reasons=("other processes used 99 % of all",)))
    swept = replace(profile.offline, points=(profile.offline.points[0], louder))
    assert len(replace(profile, offline=swept).judged().reasons_of("offline")) == 2


def test_parts_of_several_sessions_are_a_resumed_profile() -> None:
    profile = replace(measured(), single_stream=measured(session=2).single_stream).judged()
    assert not profile.comparable
    assert profile.reasons == ("resumed: parts were measured in 2 sessions",)
    assert profile.reasons_of("server") == profile.reasons


def test_the_best_point_is_that_of_the_highest_throughput() -> None:
    swept = measured().offline
    assert swept is not None and swept.best is not None and swept.best.batch_images == 4
    assert Offline(True).best is None


def test_memory_of_a_process_without_a_device() -> None:
    found = memory_now("cpu")
    assert found.rss_mb is not None and 10 < found.rss_mb <= found.peak_rss_mb
    assert found.peak_allocated_mb is None and Memory(None, 1.0).rss_mb is None


def test_what_people_type() -> None:
    assert knobs.scenarios(["server,offline"]) == ("offline", "server")
    assert knobs.scenarios([]) == ("single-stream", "offline", "server")
    assert knobs.batch_sizes("auto") == () and knobs.batch_sizes("8,1,8") == (1, 8)
    assert knobs.latency_bound("p99=2s") == Bound(0.99, 2.0)
    assert knobs.latency_bound("p99.9=350ms") == Bound(0.999, 0.35)
    assert knobs.latency_bound("p99.9999999=1s") == Bound(0.999999999, 1.0)
    assert knobs.image_size("8192") == (8192, 8192)
    assert knobs.image_size("640x480") == (480, 640) and knobs.image_size("512") == (512, 512)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        *((knobs.batch_sizes, t) for t in ("", "0", "1,,2", "-1", "many", "²")),
        *(
            (knobs.latency_bound, t)
            for t in (
                "2s",
                "p99",
                "p0=1s",
                "p100=1s",
                "p99=0s",
                "p99=-1s",
                "p99=2h",
                "p99=2s ",
                "p99.99999999999=1s",
                "p0.00000000001=1s",
            )
        ),
        *(
            (knobs.image_size, t)
            for t in ("", "640x", "x", "1x2x3", "0x4", "640*480", "100000x100000", "8193x1", "8193")
        ),
        (lambda t: knobs.scenarios([t]), "multi-stream"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_an_example(read: object, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(text)  # type: ignore[operator]
    assert caught.value.hint


def test_the_work_is_that_of_a_run_unless_asked_otherwise() -> None:
    assert knobs.Knobs().work() == {} and knobs.Knobs(duration=1.0, images=3).work() == {}
    other = knobs.Knobs(image_size=(480, 640), new_tokens=32, random_weights=True)
    assert other.work() == {"image_size": "640x480", "new_tokens": 32, "weights": "random"}
    assert knobs.Knobs().manner()["latency_bound"] == "p99=2s"
    assert knobs.Knobs(bound=Bound(0.999999999, 1.0)).manner()["latency_bound"] == "p99.9999999=1s"
