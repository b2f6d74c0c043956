"""Images, decoded a little ahead of the model by threads, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeAlias

from lens_bench.data.images import fingerprint
from lens_bench.errors import DataError
from lens_bench.records import EncodedImage, ImageSource, ImageTask, Sample

_THREADS = 2

Work: TypeAlias = tuple[ImageTask, tuple[Sample, ...]]


@dataclass(frozen=True, slots=True)
class Decoded:
    """A task with its pixels, or with the reason why there are none.

    ``fingerprint`` is that of the bytes which the pixels were decoded from, or of the pixels where a source has no
    bytes; empty where no image was read.
    """

    task: ImageTask
    error: DataError | None = None
    fingerprint: str = ""


def decode_ahead(work: Iterable[Work], ahead: int, *, read: bool) -> Iterator[Decoded]:
    """Yield the tasks in order, with at most ``ahead`` images decoded in advance.

    Args:
        work: Tasks without pixels, with their samples.
        ahead: Bound on the images held in memory beside the model's batch.
        read: Whether the model reads images; without, nothing is opened.
    """
    if not read:
        yield from (Decoded(task) for task, _ in work)
        return
    waiting: deque[Future[Decoded]] = deque()
    source = iter(work)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="decode") as pool:
        try:
            for task, samples in source:
                waiting.append(pool.submit(decode, task, samples[0].image))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def decode(task: ImageTask, source: ImageSource) -> Decoded:
    """Read the image of a task. One that cannot be read, or has another size than its annotation, is an error."""
    try:
        if isinstance(source, EncodedImage):
            data = source.encoded()
            pixels, mark = source.decode(data), fingerprint(data)
        else:
            pixels = source.read()
            mark = fingerprint(pixels.tobytes())
    except DataError as error:
        return Decoded(task, error)
    if pixels.shape[:2] != task.size:
        height, width = pixels.shape[:2]
        message = f"{source.name} is {width}x{height}, its annotation {task.size[1]}x{task.size[0]}"
        return Decoded(task, DataError(message), mark)
    return Decoded(replace(task, pixels=pixels), fingerprint=mark)
