"""What several workers add to the speed figures of a run: who they were, and what each of them did and took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lens_bench.perf.speed import Call


@dataclass(frozen=True, slots=True)
class WorkerMemory:
    """One worker at the time of its last answer: peaks so far, in MiB; ``peak_device_mb`` is None on a CPU."""

    node: str
    hardware: str
    load_s: float
    peak_rss_mb: float
    peak_device_mb: float | None


def steady_calls(calls: Sequence[Call]) -> list[Call]:
    """All but the first call of each worker; all, where that leaves none."""
    first = {c.worker: place for place, c in reversed(list(enumerate(calls)))}
    return [c for place, c in enumerate(calls) if first[c.worker] != place] or list(calls)


def crew_figures(workers: Mapping[int, WorkerMemory], calls: Sequence[Call]) -> dict[str, object]:
    """The fields of the ``perf`` block that are another with several workers; none for one process.

    The hardware names every worker's, and how many there were, so that figures of another number are never compared.
    Memory is that of the worker that took most.
    """
    if not workers:
        return {"workers": None}
    kinds = Counter(w.hardware for w in workers.values())
    named = ", ".join(f"{count} on {hardware}" for hardware, count in sorted(kinds.items()))
    device = [w.peak_device_mb for w in workers.values() if w.peak_device_mb is not None]
    return {
        "hardware": f"{len(workers)} workers: {named}",
        "peak_rss_mb": max(w.peak_rss_mb for w in workers.values()),
        "peak_device_mb": max(device, default=None),
        "workers": [_figures(number, worker, calls) for number, worker in sorted(workers.items())],
    }


def _figures(number: int, worker: WorkerMemory, calls: Sequence[Call]) -> dict[str, object]:
    own = [c for c in calls if c.worker == number]
    return {
        "node": worker.node,
        "hardware": worker.hardware,
        "calls": len(own),
        "expressions": sum(c.expressions for c in own),
        "load_s": round(worker.load_s, 3),
        "model_s": round(sum(c.seconds for c in own), 3),
        "peak_rss_mb": worker.peak_rss_mb,
        "peak_device_mb": worker.peak_device_mb,
    }
