"""Warming up: calls whose times do not count, until they differ no more from each other than noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lens_bench.perf.clock import Clock
from lens_bench.perf.quantiles import variation

WINDOW = 5
SETTLED = 0.05


@dataclass(frozen=True, slots=True)
class Warmup:
    """How warming up went.

    Attributes:
        calls: Calls made, the first included.
        first_call_ms: Of the very first one: compilation, allocation, caches.
        variation: Coefficient of variation of the last ``WINDOW`` calls, all of the same work; None for fewer.
        settled: It fell to ``SETTLED``.
    """

    calls: int
    first_call_ms: float
    variation: float | None
    settled: bool


def warm_up(call: Callable[[], float], clock: Clock, limit_s: float, most: int = 200) -> Warmup:
    """Repeat one call until its times settle.

    Args:
        call: Does the same work each time, and says how many seconds it took.
        clock: For the limit.
        limit_s: Stop after so many seconds, settled or not, but never before ``WINDOW`` calls.
        most: Stop after so many calls.
    """
    start = clock.now()
    times: list[float] = []
    spread = float("inf")
    while len(times) < most:
        times.append(call())
        # The first call is another kind of call: it is never in the window that is judged.
        if len(times) > WINDOW:
            spread = variation(times[-WINDOW:])
            if spread <= SETTLED or clock.now() - start > limit_s:
                break
    known = spread if spread != float("inf") else None
    return Warmup(len(times), times[0] * 1e3, known, spread <= SETTLED)
