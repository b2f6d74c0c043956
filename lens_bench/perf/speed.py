"""Speed of a run, from the same calls that produced its predictions.

Latency is what somebody who asks waits for: the duration of the call that an expression was part of. Throughput is
expressions by the wall clock of the whole loop, reading, decoding and scoring included, loading the model excluded. The
first call, of each worker where there are several, is kept apart (compilation, caches, allocation). Percentiles are
those of ``quantiles``, so that a run and a profile mean the same by them.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from lens_bench.perf.clock import WallClock
from lens_bench.perf.comparable import Watch, debug_reasons
from lens_bench.perf.crew import WorkerMemory, crew_figures, steady_calls
from lens_bench.perf.hardware import fingerprint, peak_rss_mb
from lens_bench.perf.nvml import Nvml
from lens_bench.perf.quantiles import rank
from lens_bench.records import Prediction


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a segmenter, by which worker, where there are several."""

    seconds: float
    images: int
    expressions: int
    worker: int = 0


@dataclass(slots=True)
class Speed:
    """Collects the calls of one session. ``reasons`` say why its figures compare with no other run's.

    ``workers`` is empty where this process is the only one. ``halvings`` counts how often memory ran out and a batch
    was halved, that of a call or one inside the model.
    """

    device: str
    calls: list[Call] = field(default_factory=list)
    load_s: float = 0.0
    wall_s: float = 0.0
    reasons: list[str] = field(default_factory=list)
    halvings: int = 0
    workers: dict[int, WorkerMemory] = field(default_factory=dict)
    _stages: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _tokens: list[int] = field(default_factory=list)
    _answered: int = 0

    @contextmanager
    def loop(self) -> Iterator[None]:
        """Measures the wall clock of the loop, also when it is left by an exception, and what speaks against it."""
        watch = Watch(self.device, WallClock(), Nvml.open(self.device))
        start = time.perf_counter()
        try:
            with watch:
                yield
        finally:
            self.wall_s += time.perf_counter() - start
            # Workers compute on other machines, too, and are no children of this process: the watch takes them for
            # strangers, and sees nothing of theirs.
            seen = debug_reasons() if self.workers else watch.reasons
            self.reasons = list(dict.fromkeys([*self.reasons, *seen]))

    @contextmanager
    def call(self, images: int, expressions: int) -> Iterator[None]:
        """Measures one call of the model."""
        start = time.perf_counter()
        yield
        self.calls.append(Call(time.perf_counter() - start, images, expressions))

    def answers(self, predictions: Sequence[Prediction]) -> None:
        """Add the stage times and token counts that the model reported."""
        for prediction in predictions:
            self._answered += 1
            for stage, milliseconds in prediction.stages_ms.items():
                self._stages[stage] += milliseconds
            if prediction.tokens is not None:
                self._tokens.append(prediction.tokens.completion)

    def to_json(self) -> dict[str, object]:
        """The ``perf`` block of ``summary.json``; figures that do not apply are null."""
        expressions = sum(c.expressions for c in self.calls)
        images = sum(c.images for c in self.calls)
        steady = steady_calls(self.calls)
        waits = np.repeat([c.seconds * 1e3 for c in steady], [c.expressions for c in steady])
        waits.sort()
        return {
            "comparable": not self.reasons,
            "reasons": list(self.reasons),
            "halvings": self.halvings,
            "device": self.device,
            "hardware": fingerprint(self.device),
            "expressions": expressions,
            "images": images,
            "calls": len(self.calls),
            "batch_images": max((c.images for c in self.calls), default=0),
            "load_s": round(self.load_s, 3),
            "wall_s": round(self.wall_s, 3),
            "model_s": round(sum(c.seconds for c in self.calls), 3),
            "first_call_ms": round(self.calls[0].seconds * 1e3, 3) if self.calls else None,
            "expressions_per_s": round(expressions / self.wall_s, 3) if self.wall_s and expressions else None,
            "images_per_s": round(images / self.wall_s, 3) if self.wall_s and images else None,
            "latency_ms": (
                {f"p{p}": round(float(waits[rank(waits.size, p / 100) - 1]), 3) for p in (50, 90, 99)}
                if waits.size
                else None
            ),
            "stages_ms": {k: round(v / self._answered, 3) for k, v in sorted(self._stages.items())},
            "completion_tokens": round(float(np.mean(self._tokens)), 2) if self._tokens else None,
            "peak_rss_mb": peak_rss_mb(),
            "peak_device_mb": peak_device_mb(self.device),
        } | crew_figures(self.workers, self.calls)


def peak_device_mb(device: str) -> float | None:
    """Peak memory that torch allocated on the device, in MiB; None on CPU or where torch was never imported."""
    torch = sys.modules.get("torch")
    if torch is None or not device.startswith("cuda"):
        return None
    return round(float(torch.cuda.max_memory_allocated(device)) / 2**20, 1)
