"""Images, decoded a little ahead of the model by threads, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeAlias

from lens_bench.errors import DataError
from lens_bench.records import ImageTask, Sample

_THREADS = 2

Work: TypeAlias = tuple[ImageTask, tuple[Sample, ...]]


@dataclass(frozen=True, slots=True)
class Decoded:
    """A task with its pixels, or with the reason why there are none."""

    task: ImageTask
    samples: tuple[Sample, ...]
    error: DataError | None = None


def decode_ahead(work: Iterable[Work], ahead: int, *, read: bool) -> Iterator[Decoded]:
    """Yield the tasks in order, with at most ``ahead`` images decoded in advance.

    Args:
        work: Tasks without pixels, with their samples.
        ahead: Bound on the images held in memory beside the model's batch.
        read: Whether the model reads images; without, nothing is opened.
    """
    if not read:
        yield from (Decoded(task, samples) for task, samples in work)
        return
    waiting: deque[Future[Decoded]] = deque()
    source = iter(work)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="decode") as pool:
        try:
            for item in source:
                waiting.append(pool.submit(_decode, *item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _decode(task: ImageTask, samples: tuple[Sample, ...]) -> Decoded:
    source = samples[0].image
    try:
        pixels = source.read()
    except DataError as error:
        return Decoded(task, samples, error)
    if pixels.shape[:2] != task.size:
        height, width = pixels.shape[:2]
        message = f"{source.name} is {width}x{height}, its annotation {task.size[1]}x{task.size[0]}"
        return Decoded(task, samples, DataError(message))
    return Decoded(replace(task, pixels=pixels), samples)
