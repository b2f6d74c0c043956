"""Offline: everything is there at once; throughput over a sweep of batch sizes until it stops growing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice

from lens_bench.errors import OutOfMemoryError
from lens_bench.out_of_memory import free_cached_memory
from lens_bench.perf.bench import Bench, Measured, per_expression
from lens_bench.perf.profile_file import Circumstances, Offline, OfflinePoint
from lens_bench.perf.quantiles import rate
from lens_bench.perf.stages import CallTime, stage_table, whole_roof
from lens_bench.perf.warmup import Warmup, warm_up
from lens_bench.records import ImageTask

LEAST = 3
# Throughput grows as long as it rises by this share; the sweep ends when it did not for two sizes in a row.
GROWTH = 1.02
PATIENCE = 2


def sizes(given: Sequence[int], most: int) -> Iterator[int]:
    """The batch sizes of a sweep: those given, else powers of two, none above ``most``."""
    if given:
        yield from given
        return
    size = 1
    while size <= most:
        yield size
        size *= 2


def offline(
    bench: Bench,
    tasks: Sequence[ImageTask],
    given: Sequence[int],
    done: Offline | None,
    keep: Callable[[Offline], None],
) -> None:
    """Measure the batch sizes that an earlier session did not.

    Args:
        bench: What is measured.
        tasks: Pictures with all their expressions.
        given: Batch sizes to measure, all of them; empty to double until throughput stops growing.
        done: What an earlier session measured.
        keep: Called with everything so far after each size.
    """
    points = {p.batch_images: p for p in done.points} if done is not None else {}
    order: list[OfflinePoint] = []
    ended = "all batch sizes measured" if given else f"no more pictures: {len(tasks)} were taken"
    for size in sizes(given, len(tasks)):
        point = points.get(size) or _measure(bench, tasks, size)
        order.append(point)
        keep(Offline(False, tuple(order)))
        if not point.fits:
            ended = f"{size} pictures a call do not fit into memory"
            break
        if not given and stopped_growing([p.images_per_s.value for p in order if p.images_per_s]):
            ended = "throughput stopped growing"
            break
    keep(Offline(True, tuple(order), ended))


def stopped_growing(rates: Sequence[float]) -> bool:
    """Whether none of the last ``PATIENCE`` figures rose above the best before them by ``GROWTH``."""
    if len(rates) <= PATIENCE:
        return False
    return max(rates[-PATIENCE:]) < GROWTH * max(rates[:-PATIENCE])


def batches(tasks: Sequence[ImageTask], size: int) -> Iterator[list[ImageTask]]:
    """Batches of neighbouring tasks, from the front again when they are used up; never the same task twice in one."""
    around = cycle(tasks)
    while True:
        yield list(islice(around, size))


def _measure(bench: Bench, tasks: Sequence[ImageTask], size: int) -> OfflinePoint:
    work = batches(tasks, size)
    first = next(work)
    measured = Measured(session=bench.session)
    calls: list[CallTime] = []
    title = f"offline, {size} a call"
    bench.observer.start(f"{title}: warm-up", 1, 0)
    try:
        warmup = warm_up(lambda: bench.call(first).seconds, bench.clock, bench.duration / 2)
        bench.observer.stop()
        begin = bench.clock.now()
        bench.call(first)
        each = max(1e-9, bench.clock.now() - begin)
        bench.observer.start(title, size * max(LEAST, round(bench.duration / each)), 0)
        with bench.measure() as measured:
            begin = bench.clock.now()
            while len(calls) < LEAST or bench.clock.now() - begin < bench.duration:
                calls.append(bench.call(next(work)))
                bench.observer.advance(size, 0)
    except OutOfMemoryError:
        fits = False
    else:
        fits = True
    finally:
        bench.observer.stop()
    if not fits:  # the exception is gone here, and with it the tensors of its traceback
        free_cached_memory()
        return _too_large(size, measured)
    return _point(bench, size, calls, warmup, measured)


def _point(bench: Bench, size: int, calls: Sequence[CallTime], warmup: Warmup, measured: Measured) -> OfflinePoint:
    table = stage_table(calls, bench.ceilings)
    seconds = [call.seconds for call in calls]
    expressions = sum(call.expressions for call in calls)
    return OfflinePoint(
        batch_images=size,
        calls=len(calls),
        images=sum(call.images for call in calls),
        expressions=expressions,
        seconds=sum(seconds),
        warmup=warmup,
        images_per_s=rate([call.images for call in calls], seconds),
        expressions_per_s=rate([call.expressions for call in calls], seconds),
        stages=table.stages,
        unaccounted=table.unaccounted,
        roof=whole_roof(calls, bench.ceilings),
        energy_per_expression_j=per_expression(measured.energy_j, expressions),
        circumstances=measured.circumstances(*bench.timing_reasons(warmup, calls), *table.reasons),
    )


def _too_large(size: int, measured: Measured) -> OfflinePoint:
    nothing = Circumstances(measured.memory, session=measured.session)
    return OfflinePoint(size, 0, 0, 0, 0.0, None, None, None, (), 0.0, None, None, nothing)
