"""Clocks: time that passes, time that a test lets pass, and the stages of a model by whichever clock its device has."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

_READS = 2000
_LATE = 1e-3


class Clock(Protocol):
    """Seconds that pass, and waiting for them."""

    def now(self) -> float:
        """Seconds since some moment; never runs backwards."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class WallClock:
    """The system's monotonic clock of the highest resolution."""

    def now(self) -> float:
        """``time.perf_counter``."""
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        """Wait. The last millisecond is spent reading the clock, because the system wakes a sleeper late."""
        end = time.perf_counter() + seconds
        if seconds > _LATE:
            time.sleep(seconds - _LATE)
        while time.perf_counter() < end:
            pass


class StageClock:
    """How long each stage of a call takes, on the clock of the device.

    On a GPU a stage is bracketed by two CUDA events in the current stream, so that nothing waits before the end; on
    a CPU by a monotonic clock. Times of a stage that occurs several times are added.

    Args:
        device: ``cpu`` or a CUDA device, as torch names it.
    """

    def __init__(self, device: str) -> None:
        self._cuda = device.startswith("cuda")
        self._device = device
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what is inside; also where it is left by an exception."""
        if not self._cuda:
            start = time.perf_counter()
            try:
                yield
            finally:
                self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start
            return
        from torch.cuda import Event, current_stream

        first, last = (Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        # By name: the process's current device is another one where the model lies on cuda:1.
        first.record(current_stream(self._device))
        try:
            yield
        finally:
            last.record(current_stream(self._device))
            self._events.append((name, first, last))

    def seconds(self) -> dict[str, float]:
        """Seconds per stage so far; waits for the device once."""
        if self._events:
            synchronise(self._device)
        for name, first, last in self._events:
            elapsed = float(first.elapsed_time(last)) / 1e3
            self._seconds[name] = self._seconds.get(name, 0.0) + elapsed
        self._events = []
        return dict(self._seconds)


def synchronise(device: str) -> None:
    """Wait until a CUDA device has done everything. Nothing else is waited for, and torch is not imported for it."""
    torch = sys.modules.get("torch")
    if torch is not None and device.startswith("cuda"):
        torch.cuda.synchronize(device)


def tick(clock: Clock) -> float:
    """Smallest step of a clock that reading it shows, in seconds."""
    steps = []
    before = clock.now()
    for _ in range(_READS):
        now = clock.now()
        if now > before:
            steps.append(now - before)
        before = now
    return min(steps, default=0.0)
