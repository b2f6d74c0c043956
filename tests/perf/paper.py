"""A clock on paper and models that take the time one gives them, so that no test waits or measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lens_bench.perf.bench import Bench
from lens_bench.perf.ceilings import Ceilings
from lens_bench.perf.nvml import Device
from lens_bench.perf.stages import CallTime
from lens_bench.records import Cost, ImageTask, Query


@dataclass
class PaperClock:
    """Time passes only where somebody sleeps or works; reading it takes a nanosecond, as on a good clock."""

    time: float = 0.0
    reading: float = 1e-9

    def now(self) -> float:
        self.time += self.reading
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += max(0.0, seconds)


@dataclass
class Watcher:
    """Remembers what it was told."""

    titles: list[str] = field(default_factory=list)
    open: bool = False

    def start(self, title: str, total: int, done: int) -> None:
        assert total > 0
        self.titles.append(title)
        self.open = True

    def advance(self, answered: int, errors: int) -> None:
        assert self.open

    def stop(self) -> None:
        self.open = False


def tasks(count: int, queries: int = 1) -> list[ImageTask]:
    return [ImageTask(f"i{n}", (10, 10), tuple(Query(f"i{n}/{k}", "x") for k in range(queries))) for n in range(count)]


def bench(
    seconds: Callable[[Sequence[ImageTask]], float],
    *,
    duration: float = 10.0,
    clock: PaperClock | None = None,
    stages: Mapping[str, float] | None = None,
    costs: Mapping[str, Cost] | None = None,
    ceilings: Ceilings | None = None,
    driver: Device | None = None,
    device: str = "cpu",
    session: int = 1,
) -> Bench:
    """A bench whose model takes ``seconds(tasks)`` for a call; ``stages`` are shares of it."""
    time = clock or PaperClock()

    def call(asked: Sequence[ImageTask]) -> CallTime:
        taken = seconds(asked)
        time.sleep(taken)
        return CallTime(
            seconds=taken,
            images=len(asked),
            expressions=sum(len(t.queries) for t in asked),
            stages={name: share * taken for name, share in (stages or {}).items()},
            costs=costs or {},
            tokens=4,
        )

    def ask(asked: Sequence[ImageTask]) -> Callable[[], None]:
        call(asked)
        return lambda: None

    return Bench(
        call=call,
        ask=ask,
        clock=time,
        device=device,
        duration=duration,
        observer=Watcher(),
        session=session,
        driver=driver,
        ceilings=ceilings,
    )
