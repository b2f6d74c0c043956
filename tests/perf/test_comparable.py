"""What makes figures incomparable, each reason by itself."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import pytest
import torch

from lens_bench.perf import comparable
from lens_bench.perf.clock import StageClock, WallClock, tick
from lens_bench.perf.comparable import (
    CpuTime,
    Watch,
    clock_reason,
    cpu_reasons,
    cpu_time,
    debug_reasons,
    device_reasons,
    family_seconds,
)
from lens_bench.perf.nvml import others_among
from lens_bench.perf.speed import Speed

from .paper import PaperClock, bench


@dataclass
class Driver:
    """A driver that says what one tells it."""

    others: int = 0
    slowed: tuple[str, ...] = ()
    used: float = 0.0

    def energy_j(self) -> float | None:
        self.used += 5.0
        return self.used

    def slowed_by(self) -> tuple[str, ...]:
        return self.slowed

    def other_processes(self) -> int:
        return self.others


def test_other_work_on_the_processors_is_a_reason() -> None:
    before = CpuTime(busy=100.0, own=10.0, throttled=0)
    assert cpu_reasons(before, CpuTime(112.0, 20.0, 0), 10.0, 4) == []  # 2 s of 40
    assert cpu_reasons(before, CpuTime(122.0, 20.0, 0), 10.0, 4) == ["other processes used 30 % of the 4 processors"]
    assert cpu_reasons(before, CpuTime(None, 20.0, 0), 10.0, 4) == []


def test_a_short_measurement_is_not_judged_by_a_tick() -> None:
    assert cpu_reasons(CpuTime(1.0, 0.0, 0), CpuTime(1.05, 0.0, 0), 0.01, 1) == []


def test_throttled_processors_are_a_reason() -> None:
    assert cpu_reasons(CpuTime(None, 0.0, 3), CpuTime(None, 0.0, 5), 1.0, 2) == [
        "the processors were throttled 2 times"
    ]


@pytest.mark.parametrize("which", ["_CGROUP", "_THERMAL"])
@pytest.mark.parametrize("content", [None, "nr_throttled many\n"])
def test_counters_that_cannot_be_read_end_no_measurement_and_are_a_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, which: str, content: str | None
) -> None:
    core = tmp_path / "cpu0" / "thermal_throttle" / "core_throttle_count"
    counter = tmp_path / "cpu.stat" if which == "_CGROUP" else core
    core.parent.mkdir(parents=True)
    core.write_text("3\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 1\nnr_throttled 4\n")
    monkeypatch.setattr(comparable, "_CGROUP", tmp_path / "cpu.stat")
    monkeypatch.setattr(comparable, "_THERMAL", tmp_path)
    assert cpu_time().throttled == 7
    counter.unlink()
    assert cpu_time().throttled == (3 if which == "_CGROUP" else 4)  # not there: nobody counts
    if content is None:
        counter.mkdir()  # reading fails, for root too
    else:
        counter.write_text(content)
    with Watch("cpu", PaperClock()) as watch:
        pass
    unknown = "not known whether the processors were throttled: the system's counters cannot be read"
    assert unknown in watch.reasons
    assert cpu_reasons(CpuTime(None, 0.0, 3), CpuTime(None, 0.0, None), 1.0, 2) == [unknown]


def test_processors_whose_accounts_cannot_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(comparable, "_STAT", tmp_path)
    assert cpu_time().busy is None


def test_the_machine_s_accounts_can_be_read() -> None:
    found = cpu_time()
    assert found.own > 0 and (found.throttled is None or found.throttled >= 0)
    assert found.busy is None or found.busy > 0


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs the accounts of /proc")
def test_what_a_child_computes_is_our_own() -> None:
    before = family_seconds()
    code = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\nprint(1)\ninput()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert family_seconds() - before >= 0.25
        child.communicate(b"\n")
    assert family_seconds() - before >= 0.25


def test_debug_builds_and_tracers_are_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    assert debug_reasons() == []
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    monkeypatch.setattr(sys, "gettrace", lambda: print)
    assert debug_reasons() == ["a debugger or tracer is attached", "CUDA_LAUNCH_BLOCKING is set"]


def test_development_mode_is_a_reason() -> None:
    code = "from lens_bench.perf.comparable import debug_reasons; print(debug_reasons())"
    done = subprocess.run([sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True, check=True)
    assert "development mode" in done.stdout


def test_torch_s_anomaly_detection_is_a_reason() -> None:
    import torch

    with torch.autograd.set_detect_anomaly(True):
        assert "torch's anomaly detection is on" in debug_reasons()


def test_the_driver_s_word_counts() -> None:
    assert device_reasons(None) == device_reasons(Driver()) == []
    assert device_reasons(Driver(2, ("heat (hardware)",))) == [
        "2 other processes computed on the device",
        "the device was slowed down by heat (hardware)",
    ]


def test_both_ends_of_a_measurement_are_looked_at() -> None:
    driver = Driver()
    with Watch("cuda", PaperClock(), driver) as watch:
        driver.others = 1
    assert watch.reasons == ["1 other processes computed on the device"]


def test_a_device_that_cannot_be_asked_is_a_reason() -> None:
    with Watch("cuda:1", PaperClock()) as watch:
        pass
    assert watch.reasons == ["not known whether others used the device: the package nvidia-ml-py tells"]


def test_a_measurement_collects_energy_memory_and_reasons_also_when_interrupted() -> None:
    where = bench(lambda _: 0.1, driver=Driver(1))
    with pytest.raises(KeyboardInterrupt), where.measure() as found:
        raise KeyboardInterrupt
    assert found.energy_j == 5.0 and found.memory.peak_rss_mb > 0
    assert {"1 other processes computed on the device", "more"} <= set(found.circumstances("more", None).reasons)


def test_a_run_says_the_same_of_its_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lens_bench.perf.speed.Nvml.open", lambda device: Driver(1))
    alone, crew = Speed("cuda"), Speed("cuda")
    with alone.loop():
        pass
    with crew.loop():
        crew.workers[0] = None  # type: ignore[assignment]
    assert alone.reasons == ["1 other processes computed on the device"] and crew.reasons == []


def test_a_run_notices_other_work_on_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    times = [CpuTime(100.0, 10.0, 0), CpuTime(100.0 + 1e6, 20.0, 2)]
    read = cycle(times)
    monkeypatch.setattr(comparable, "cpu_time", lambda: next(read))
    alone, crew = Speed("cpu"), Speed("cpu")
    with alone.loop():
        pass
    with crew.loop():
        crew.workers[0] = None  # type: ignore[assignment]
    assert [r.partition(" ")[0] for r in alone.reasons] == ["the", "other"] and crew.reasons == []
    assert alone.to_json()["comparable"] is False


def test_a_run_on_a_quiet_machine_is_comparable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparable, "cpu_time", lambda: CpuTime(100.0, 10.0, 0))
    speed = Speed("cpu")
    with speed.loop():
        pass
    assert speed.reasons == []


def test_a_run_on_a_device_that_cannot_be_asked_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lens_bench.perf.speed.Nvml.open", lambda device: None)
    speed = Speed("cuda")
    with speed.loop():
        pass
    assert speed.reasons == ["not known whether others used the device: the package nvidia-ml-py tells"]


def test_the_own_process_is_none_of_the_others() -> None:
    assert others_among([], 7) == others_among([7], 7) == others_among([4711], 7) == 0  # a container numbers otherwise
    assert others_among([7, 8], 7) == others_among([4711, 4712], 7) == 1


def test_a_clock_is_judged_by_what_it_measures() -> None:
    assert clock_reason(PaperClock(reading=1e-6), shortest_s=1.0) is None
    assert "too coarse" in str(clock_reason(PaperClock(reading=1e-2), shortest_s=0.1))
    assert tick(PaperClock(reading=0.5)) == 0.5 and 0 < tick(WallClock()) < 1e-3


def test_waiting_ends_no_earlier_than_asked() -> None:
    clock = WallClock()
    start = time.perf_counter()
    clock.sleep(0.003)
    clock.sleep(-1.0)
    assert time.perf_counter() - start >= 0.003


def test_stages_on_a_cpu_add_up_and_survive_exceptions() -> None:
    clock = StageClock("cpu")
    with clock.stage("a"):
        pass
    with pytest.raises(ValueError), clock.stage("a"):
        raise ValueError
    with clock.stage("b"):
        time.sleep(0.002)
    found = clock.seconds()
    assert list(found) == ["a", "b"] and found["b"] >= 0.002 and found == clock.seconds()


def test_stages_on_a_gpu_are_bracketed_in_the_stream_of_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's events are replaced by ones that read a clock which the test moves on."""
    now, streams, waits = [0.0], list[str](), list[str]()

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing
            self.at = -1.0

        def record(self, stream: str) -> None:
            self.at = now[0]
            streams.append(stream)

        def elapsed_time(self, end: Event) -> float:
            assert waits, "read before the device was waited for"
            return 1e3 * (end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    clock = StageClock("cuda:1")
    with clock.stage("a"):
        now[0] += 2.0
    now[0] += 100.0
    with pytest.raises(ValueError), clock.stage("a"):
        now[0] += 0.5
        raise ValueError
    with clock.stage("b"):
        now[0] += 4.0
    assert not waits
    assert clock.seconds() == {"a": 2.5, "b": 4.0} == clock.seconds()
    assert waits == ["cuda:1"] and streams == ["stream of cuda:1"] * 6
