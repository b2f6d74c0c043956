"""Which worker gets which images next: a pure policy, the same for real workers and for the simulation of a cluster.

Images are handed out in chunks of one call, in order, to whoever is free. The chunks are the calls that one process
would make, so a model is asked the same things together. What a lost worker was busy with goes to another. The clock is
the caller's: every method that needs the time is told it.

A chunk that a worker died on may be innocent: it is tried again whole, then in halves, until the image that kills
workers stands alone; when that has killed ``ALONE_DEATHS`` workers alone, it is given up. So one such image among ``b``
costs at most ``1 + ceil(log2 b) + ALONE_DEATHS`` workers, and never its neighbours.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

Chunk: TypeAlias = tuple[int, ...]  # numbers of images

ALONE_DEATHS = 3
OVERDUE = 3.0  # times the longest call so far: then somebody idle is asked the same
PATIENCE_S = 5.0  # but never before this


@dataclass(frozen=True, slots=True)
class Handout:
    """What a worker is to do now, and what it can expect to be given next, so that it may decode ahead."""

    chunk: Chunk
    ahead: Chunk = ()


@dataclass(slots=True)
class _Run:
    chunk: Chunk
    since: float


class Dispatcher:
    """Hands out the images of one split. Workers are named by numbers.

    Args:
        images: How many there are; they are numbered from 0.
        batch: Images per chunk.
    """

    def __init__(self, images: int, batch: int) -> None:
        self._queue: deque[Chunk] = deque(
            tuple(range(start, min(start + batch, images))) for start in range(0, images, batch)
        )
        self._open = set(range(images))
        self._workers: set[int] = set()
        self._running: dict[int, _Run] = {}
        self._reserved: dict[int, Chunk] = {}
        self._deaths: Counter[int] = Counter()
        self._alone: Counter[int] = Counter()
        self._longest: float | None = None
        self.repeated = 0

    @property
    def finished(self) -> bool:
        """Whether every image was answered or given up."""
        return not self._open

    @property
    def chunks_left(self) -> int:
        """How many workers could be busy at once."""
        return len(self._queue) + len(self._reserved) + len(self._running)

    @property
    def busy(self) -> tuple[int, ...]:
        """Workers from which an answer is awaited."""
        return tuple(self._running)

    @property
    def idle(self) -> tuple[int, ...]:
        """Workers that wait, in the order of their numbers."""
        return tuple(sorted(self._workers - self._running.keys()))

    def join(self, worker: int) -> None:
        """A worker is ready for its first chunk."""
        self._workers.add(worker)

    def next(self, worker: int, now: float) -> Handout | None:
        """What an idle worker is to do; None where there is nothing (yet)."""
        chunk = self._left(self._reserved.pop(worker, ())) or self._from_queue() or self._overdue(now)
        if not chunk:
            return None
        self._running[worker] = _Run(chunk, now)
        if len(self._queue) >= len(self._workers):  # near the end nothing is set aside: whoever is free takes it
            self._reserved[worker] = self._queue.popleft()
        return Handout(chunk, self._reserved.get(worker, ()))

    def answered(self, worker: int, now: float) -> Chunk:
        """The chunk that a worker was given is answered; returns the images of it that nobody answered before."""
        run = self._running.pop(worker)
        self._longest = max(self._longest or 0.0, now - run.since)
        fresh = self._left(run.chunk)
        self._open.difference_update(fresh)
        return fresh

    def reopen(self, images: Iterable[int]) -> None:
        """Images that came back unanswered through no fault of theirs are to be asked again."""
        again = tuple(images)
        self._open.update(again)
        self._queue.appendleft(again)

    def leave(self, worker: int, *, died: bool) -> Chunk:
        """A worker is gone, and what it had goes back; ``died`` if its own death may be its chunk's fault.

        Returns:
            Images that are given up, because they killed too many.
        """
        self._workers.discard(worker)
        if reserved := self._left(self._reserved.pop(worker, ())):
            self._queue.appendleft(reserved)
        run = self._running.pop(worker, None)
        lost = self._left(run.chunk) if run else ()
        if died:
            self._deaths.update(lost)
            self._alone.update(lost if len(lost) == 1 else ())
        elsewhere = {image for other in self._running.values() for image in other.chunk}
        return self._put_back(tuple(image for image in lost if image not in elsewhere))

    def _put_back(self, chunk: Chunk) -> Chunk:
        if not chunk:
            return ()
        if len(chunk) == 1 and self._alone[chunk[0]] >= ALONE_DEATHS:
            self._open.difference_update(chunk)
            return chunk
        if len(chunk) > 1 and max(self._deaths[image] for image in chunk) > 1:
            middle = (len(chunk) + 1) // 2
            self._queue.extendleft((chunk[middle:], chunk[:middle]))
        else:
            self._queue.appendleft(chunk)
        return ()

    def _from_queue(self) -> Chunk:
        """The next chunk of the queue; when that is empty, one that was set aside for a busy worker."""
        while self._queue:
            if chunk := self._left(self._queue.popleft()):
                return chunk
        while self._reserved:
            if chunk := self._left(self._reserved.pop(next(iter(self._reserved)))):
                return chunk
        return ()

    def _overdue(self, now: float) -> Chunk:
        """A chunk whose worker seems to hang: the oldest that takes far longer than any did and that only one has."""
        if self._longest is None:
            return ()
        patience = max(PATIENCE_S, OVERDUE * self._longest)
        for run in self._running.values():  # in the order in which they were given out
            if now - run.since < patience:
                break
            left = self._left(run.chunk)
            if left and sum(1 for other in self._running.values() if set(other.chunk) & set(left)) == 1:
                self.repeated += 1
                return left
        return ()

    def _left(self, chunk: Chunk) -> Chunk:
        return tuple(image for image in chunk if image in self._open)
