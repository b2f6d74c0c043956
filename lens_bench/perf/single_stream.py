"""Single-stream: one picture with one expression at a time; what somebody waits for who asks.

The scenarios and their names are those of MLPerf Inference (arXiv 1911.02549).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle

from lens_bench.perf.bench import Bench, Measured, latencies_ms, per_expression
from lens_bench.perf.profile_file import Latency, SingleStream
from lens_bench.perf.quantiles import mean, percentile, rank
from lens_bench.perf.stages import CallTime, stage_table, whole_roof
from lens_bench.perf.warmup import Warmup, warm_up
from lens_bench.records import ImageTask

LEAST = 10


def single_stream(bench: Bench, items: Sequence[ImageTask], keep: Callable[[SingleStream], None]) -> None:
    """Measure until the duration is over, but at least ``LEAST`` calls.

    Args:
        bench: What is measured.
        items: Pictures with one expression each; asked one after the other, again from the front.
        keep: Called with what was measured, also where it is interrupted (then marked as incomplete).
    """
    bench.observer.start("single-stream: warm-up", len(items), 0)
    try:
        warmup = warm_up(lambda: bench.call(items[:1]).seconds, bench.clock, bench.duration)
        begin = bench.clock.now()
        bench.call(items[:1])
        seen = 1
        for item in items[1:]:  # every shape once, as far as there is time
            if bench.clock.now() - begin > bench.duration:
                break
            bench.call([item])
            seen += 1
            bench.observer.advance(1, 0)
    finally:
        bench.observer.stop()
    expected = max(LEAST, round(bench.duration * seen / max(bench.clock.now() - begin, 1e-9)))
    calls: list[CallTime] = []
    complete = False
    measured = Measured()
    bench.observer.start("single-stream", expected, 0)
    try:
        with bench.measure() as measured:
            begin = bench.clock.now()
            for item in cycle(items):
                if len(calls) >= LEAST and bench.clock.now() - begin >= bench.duration:
                    break
                calls.append(bench.call([item]))
                bench.observer.advance(1, 0)
        complete = True
    finally:
        bench.observer.stop()
        if calls:
            keep(_summary(bench, calls, warmup, measured, complete=complete))


def latency_of(waits: Sequence[float]) -> Latency:
    """Percentiles of waits in milliseconds, and their whole distribution in steps of 1 %."""
    ordered = sorted(waits)
    curve = (ordered[0], *(ordered[rank(len(ordered), step / 100) - 1] for step in range(1, 101)))
    p50, p90, p99 = (percentile(waits, q) for q in (0.5, 0.9, 0.99))
    return Latency(mean(waits), p50, p90, p99, curve)


def _summary(
    bench: Bench, calls: Sequence[CallTime], warmup: Warmup, measured: Measured, *, complete: bool
) -> SingleStream:
    table = stage_table(calls, bench.ceilings)
    waits = latencies_ms(calls)
    tokens = [call.tokens for call in calls]
    reasons = [*bench.timing_reasons(warmup, calls), *table.reasons, *([] if complete else ["interrupted"])]
    return SingleStream(
        complete=complete,
        calls=len(calls),
        seconds=sum(call.seconds for call in calls),
        warmup=warmup,
        latency_ms=latency_of(waits),
        stages=table.stages,
        unaccounted=table.unaccounted,
        tokens=sum(tokens) / len(tokens) if any(tokens) else None,
        roof=whole_roof(calls, bench.ceilings),
        energy_per_expression_j=per_expression(measured.energy_j, len(calls)),
        circumstances=measured.circumstances(*reasons),
    )
