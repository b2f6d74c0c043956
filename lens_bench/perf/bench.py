"""What the scenarios share: calling the model, watching over a measurement, telling who looks on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from lens_bench.out_of_memory import Halvings
from lens_bench.perf.ceilings import Ceilings
from lens_bench.perf.clock import Clock
from lens_bench.perf.comparable import Watch, clock_reason
from lens_bench.perf.memory import Memory, forget_peak, memory_now
from lens_bench.perf.nvml import Device
from lens_bench.perf.profile_file import Circumstances
from lens_bench.perf.stages import CallTime
from lens_bench.perf.warmup import Warmup
from lens_bench.records import ImageTask

Call: TypeAlias = Callable[[Sequence[ImageTask]], CallTime]


class Observer(Protocol):
    """Whoever looks on; ``progress.BarProgress`` fits."""

    def start(self, title: str, total: int, done: int) -> None:
        """Something of about ``total`` steps begins."""
        ...

    def advance(self, answered: int, errors: int) -> None:
        """So many more steps are done."""
        ...

    def stop(self) -> None:
        """It ended."""
        ...


@dataclass(slots=True)
class Measured:
    """Filled when a measurement ends: what it used and what speaks against it."""

    memory: Memory = field(default_factory=lambda: Memory(None, 0.0))
    energy_j: float | None = None
    reasons: list[str] = field(default_factory=list)
    session: int = 1

    def circumstances(self, *more: str | None) -> Circumstances:
        """As a record, with further reasons."""
        found = dict.fromkeys([*self.reasons, *(reason for reason in more if reason)])
        return Circumstances(self.memory, self.energy_j, tuple(found), self.session)


@dataclass(frozen=True, slots=True)
class Bench:
    """One model on one device, ready to be measured.

    Attributes:
        call: Asks the model and says how long it took, the device waited for at both ends.
        ask: Only asks; for where time is measured from outside. What it gives holds the answers to their contract when
            it is called, after the time.
        device: ``cpu`` or ``cuda:N``.
        duration: Seconds that a figure is measured for.
        driver: The device's, where it can be asked.
        ceilings: Of the device, where the model says what work it does.
        standing: Reasons that hold for everything that is measured here.
        halvings: Of batches inside the model, since the bench was made: they speak against all that comes after them.
    """

    call: Call
    ask: Callable[[Sequence[ImageTask]], Callable[[], object]]
    clock: Clock
    device: str
    duration: float
    observer: Observer
    session: int = 1
    driver: Device | None = None
    ceilings: Ceilings | None = None
    standing: tuple[str, ...] = ()
    halvings: Halvings = field(default_factory=Halvings)

    @contextmanager
    def measure(self) -> Iterator[Measured]:
        """Watch over a measurement, also one that is interrupted."""
        found = Measured(session=self.session)
        forget_peak(self.device)
        watch = Watch(self.device, self.clock, self.driver)
        before = self.driver.energy_j() if self.driver is not None else None
        try:
            with watch:
                yield found
        finally:
            after = self.driver.energy_j() if self.driver is not None else None
            found.energy_j = after - before if after is not None and before is not None else None
            found.memory = memory_now(self.device)
            halved = [self.halvings.reason] if self.halvings.reason else []
            found.reasons = [*self.standing, *halved, *watch.reasons]

    def timing_reasons(self, warmup: Warmup | None, calls: Sequence[CallTime]) -> list[str]:
        """What speaks against the times themselves: a coarse clock, calls that never settled."""
        found = []
        if calls and (reason := clock_reason(self.clock, min(call.seconds for call in calls))):
            found.append(reason)
        if warmup is not None and not warmup.settled:
            spread = "unknown" if warmup.variation is None else f"{100 * warmup.variation:.0f} %"
            found.append(f"noisy: equal calls still varied by {spread} after {warmup.calls} warm-up calls")
        return found


def per_expression(energy_j: float | None, expressions: int) -> float | None:
    """Joules per expression."""
    return None if energy_j is None or not expressions else energy_j / expressions


def latencies_ms(calls: Sequence[CallTime]) -> list[float]:
    """Milliseconds of each call."""
    return [1e3 * call.seconds for call in calls]
