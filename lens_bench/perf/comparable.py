"""What makes a measurement one that compares with no other: watched while it is made, told in sentences.

A ``Watch`` spans a measurement. What it cannot know it says, too: a device whose driver cannot be asked may have other
users.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

from lens_bench.perf.clock import Clock, tick
from lens_bench.perf.nvml import Device

Kind: TypeAlias = type[BaseException] | None

# Share of all processors that others may use before figures of a CPU are in doubt.
OTHERS_AT_MOST = 0.05
# Largest tick of the clock as a share of the shortest time measured with it.
TICK_AT_MOST = 0.01
_STAT, _CGROUP = Path("/proc/stat"), Path("/sys/fs/cgroup/cpu.stat")
_THERMAL = Path("/sys/devices/system/cpu")


def debug_reasons() -> list[str]:
    """Why this interpreter or its libraries run slower than they do for users."""
    found = []
    if sys.flags.dev_mode:
        found.append("Python runs in development mode (-X dev)")
    if hasattr(sys, "gettotalrefcount"):
        found.append("Python is a debug build")
    if sys.gettrace() is not None or "pydevd" in sys.modules:
        found.append("a debugger or tracer is attached")
    if sys.getprofile() is not None:
        found.append("a profiler is attached")
    if os.environ.get("CUDA_LAUNCH_BLOCKING", "0") not in ("", "0"):
        found.append("CUDA_LAUNCH_BLOCKING is set")
    if os.environ.get("PYTORCH_NO_CUDA_MEMORY_CACHING", "0") not in ("", "0"):
        found.append("PYTORCH_NO_CUDA_MEMORY_CACHING is set")
    torch = sys.modules.get("torch")
    if torch is not None and torch.version.debug:
        found.append("torch is a debug build")
    if torch is not None and torch.is_anomaly_enabled():
        found.append("torch's anomaly detection is on")
    return found


def clock_reason(clock: Clock, shortest_s: float) -> str | None:
    """Whether the clock is too coarse for the times measured with it."""
    step = tick(clock)
    if step > TICK_AT_MOST * shortest_s:
        return f"the clock ticks every {1e6 * step:.2g} us, too coarse for calls of {1e6 * shortest_s:.3g} us"
    return None


@dataclass(frozen=True, slots=True)
class CpuTime:
    """Processor seconds since some moment.

    Attributes:
        busy: Of the whole machine; None where the system does not say.
        own: Of this process and all that it started, ended or not.
        throttled: How often the container's limit or heat stopped the processors; None where the system keeps count
            and does not say.
    """

    busy: float | None
    own: float
    throttled: int | None


def cpu_time() -> CpuTime:
    """Read the system's accounts."""
    return CpuTime(_busy(), family_seconds(), _throttled())


def cpu_reasons(before: CpuTime, after: CpuTime, wall_s: float, cores: int) -> list[str]:
    """What happened to the processors meanwhile.

    Args:
        before: The accounts when the measurement began.
        after: When it ended.
        wall_s: How long it took.
        cores: Processors of the machine.
    """
    found = []
    if after.throttled is None or before.throttled is None:
        found.append("not known whether the processors were throttled: the system's counters cannot be read")
    elif after.throttled > before.throttled:
        found.append(f"the processors were throttled {after.throttled - before.throttled} times")
    if before.busy is not None and after.busy is not None and wall_s > 0:
        others = (after.busy - before.busy) - (after.own - before.own)
        share = others / (wall_s * cores)
        # The accounts advance in ticks of 10 ms, so a short measurement cannot tell.
        if share > OTHERS_AT_MOST and others > 0.1:
            found.append(f"other processes used {100 * share:.0f} % of the {cores} processors")
    return found


def device_reasons(driver: Device | None) -> list[str]:
    """What the driver says against a measurement that is made now; nothing where it cannot be asked."""
    if driver is None:
        return []
    found = []
    if others := driver.other_processes():
        found.append(f"{others} other processes computed on the device")
    if slowed := driver.slowed_by():
        found.append(f"the device was slowed down by {', '.join(slowed)}")
    return found


class Watch:
    """Spans a measurement and says afterwards what speaks against comparing it.

    Args:
        device: ``cpu`` or ``cuda:N``.
        clock: What times are measured with.
        driver: The device's, where it can be asked.

    Attributes:
        reasons: Filled when the measurement ends.
    """

    def __init__(self, device: str, clock: Clock, driver: Device | None = None) -> None:
        self.reasons: list[str] = []
        self._device, self._clock, self._driver = device, clock, driver
        self._start, self._cpu = 0.0, CpuTime(None, 0.0, 0)
        self._seen: list[str] = []

    def __enter__(self) -> Watch:
        self._start, self._cpu = self._clock.now(), cpu_time()
        self._look()
        return self

    def __exit__(self, kind: Kind, error: BaseException | None, trace: TracebackType | None) -> None:
        self._look()
        found = [*debug_reasons(), *self._seen]
        if not self._device.startswith("cuda"):
            wall = self._clock.now() - self._start
            found += cpu_reasons(self._cpu, cpu_time(), wall, os.cpu_count() or 1)
        elif self._driver is None:
            found.append("not known whether others used the device: the package nvidia-ml-py tells")
        self.reasons = list(dict.fromkeys(found))

    def _look(self) -> None:
        """Ask the driver, at both ends of the measurement."""
        self._seen += device_reasons(self._driver)


def family_seconds() -> float:
    """Processor seconds of this process and of everything that descends from it; of itself alone without ``/proc``."""
    spent: dict[int, float] = {}
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name in brackets may hold anything; what follows it is fields from the third on.
            words = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        pid = int(path.parent.name)
        parents[pid] = int(words[1])
        spent[pid] = sum(int(w) for w in words[11:15]) / os.sysconf("SC_CLK_TCK")
    own = os.getpid()
    if own not in spent:
        return sum(os.times()[:4])

    def ours(pid: int) -> bool:
        while pid not in (own, 0) and pid in parents:
            pid = parents[pid]
        return pid == own

    return sum(seconds for pid, seconds in spent.items() if ours(pid))


def _busy() -> float | None:
    """Seconds that all processors were busy; None where the system does not say."""
    try:
        words = _STAT.read_text(encoding="ascii").partition("\n")[0].split()
        user, nice, system, _, _, irq, softirq, steal = (int(w) for w in words[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _throttled() -> int | None:
    """Counts of the container and of heat, added up; None where one is there and cannot be read."""
    total = 0
    try:
        for line in _lines(_CGROUP):
            name, _, count = line.partition(" ")
            if name == "nr_throttled":
                total += int(count)
        for path in _THERMAL.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"):
            total += sum(int(line) for line in _lines(path))
    except (OSError, ValueError):
        return None
    return total


def _lines(path: Path) -> list[str]:
    """Lines of a file; none where it is not there."""
    try:
        return path.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return []
