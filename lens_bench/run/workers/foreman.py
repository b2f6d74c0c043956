"""Keeps workers at work: hires, waits for the model to load, hands out, replaces who is lost.

Knows neither images nor models, so that the simulation of a cluster runs this very code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol

from lens_bench.errors import LensBenchError, RunError
from lens_bench.records import LoadReport
from lens_bench.run.workers.dispatch import Chunk, Dispatcher, Handout
from lens_bench.run.workers.pool import Answer, Answered, Event, Identity, Lost, Parcel, Placed, Pool, Ready, Refused

EARLY_DEATHS = 3  # in a row, of workers that never loaded: then no more are hired
_POLL_S = 1.0
_LOOK_S = 5.0  # between two looks at how much room there is
_GRACE_S = 10.0  # beyond the time the first took to load, how long the others are waited for


class Watcher(Protocol):
    """Who is told what becomes of the workers."""

    def count(self, ready: int, wanted: int) -> None:
        """So many of the wanted workers have loaded the model."""
        ...

    def note(self, message: str) -> None:
        """Something worth a line."""
        ...


@dataclass(slots=True)
class Member:
    """A worker that was asked for and is not gone. ``identity`` from when it is placed, ``report`` once it is ready."""

    identity: Identity | None = None
    report: LoadReport | None = None
    load_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Done(Generic[Answer]):
    """A worker answered ``chunk``, of which ``fresh`` are the images that nobody had answered before."""

    worker: int
    chunk: Chunk
    fresh: Chunk
    answer: Answer


@dataclass(frozen=True, slots=True)
class GivenUp:
    """Images that nobody survives."""

    images: Chunk
    reason: str


class Foreman(Generic[Parcel, Answer]):
    """Workers of one command.

    Args:
        pool: Where they come from.
        wanted: How many; None for as many as there is room for, now and later.
        accept: Asked about every placed worker; returns why it cannot be used, or None.
        watcher: Is told.
    """

    def __init__(
        self,
        pool: Pool[Parcel, Answer],
        wanted: int | None,
        accept: Callable[[Identity], LensBenchError | None],
        watcher: Watcher,
    ) -> None:
        self._pool = pool
        self._wanted = wanted
        self._accept = accept
        self._watcher = watcher
        self._numbers = 0
        self._refusals: list[LensBenchError] = []
        self._early_deaths = 0
        self._last_death = ""
        self._room = (0, float("-inf"))
        self.members: dict[int, Member] = {}
        self.lost = 0
        self.late = 0
        self.gathered = False

    @property
    def ready(self) -> dict[int, LoadReport]:
        """Workers that have loaded the model, and what they found."""
        return {worker: m.report for worker, m in self.members.items() if m.report is not None}

    def gather(self, chunks: int) -> LoadReport:
        """Hire for so many chunks, and wait until those that there is room for are ready: the clock starts fair.

        Somebody who takes far longer than the first is not waited for.

        Raises:
            LensBenchError: No worker can load the model; the error is the first one's.
            RunError: Workers die while loading.
        """
        began = self._pool.now()
        first = began if self.ready else None
        self.gathered = False
        self._hire(chunks)
        if not self._capacity():
            self._watcher.note("there is no room for a worker yet: waiting")
        while not self.ready or not self._enough(began, first):
            for event in self._pool.wait(_POLL_S):
                self._heed(event)
                self._watcher.count(len(self.ready), len(self.members))
            if self.ready and first is None:
                first = self._pool.now()
            self._hire(chunks)
            self._somebody_left()
        self.gathered = True
        return next(iter(self.ready.values()))

    def run(self, dispatcher: Dispatcher, parcels: Sequence[Parcel]) -> Iterator[Done[Answer] | GivenUp]:
        """Have every image answered; yields what comes, when it comes.

        Raises:
            LensBenchError: As ``gather``, when all are gone.
        """
        given: dict[int, Handout] = {}

        def feed(worker: int) -> None:
            if handout := dispatcher.next(worker, self._pool.now()):
                given[worker] = handout
                self._pool.submit(worker, [parcels[i] for i in handout.chunk], [parcels[i] for i in handout.ahead])

        for worker in self.ready:
            dispatcher.join(worker)
        while not dispatcher.finished:
            self._hire(dispatcher.chunks_left)
            for worker in dispatcher.idle:
                feed(worker)
            for event in self._pool.wait(_POLL_S):
                if event.worker not in self.members:  # dismissed a moment ago
                    continue
                self._heed(event)
                if isinstance(event, Ready):
                    dispatcher.join(event.worker)
                elif isinstance(event, Answered):
                    fresh = dispatcher.answered(event.worker, self._pool.now())
                    chunk = given.pop(event.worker).chunk
                    feed(event.worker)  # first: what follows takes time
                    yield Done(event.worker, chunk, fresh, event.answer)
                elif isinstance(event, Lost) and (gone := dispatcher.leave(event.worker, died=True)):
                    yield GivenUp(gone, event.reason)
                if not isinstance(event, Answered):
                    self._watcher.count(len(self.ready), len(self.members))
            self._somebody_left()
        for worker in dispatcher.busy:  # overtaken by others, or hung
            self.dismiss(worker)

    def dismiss(self, worker: int, error: LensBenchError | None = None) -> None:
        """End a worker; with an error it is not replaced."""
        self.members.pop(worker, None)
        self._refusals += [error] if error else []
        self._pool.dismiss(worker)

    def _heed(self, event: Event[Answer]) -> None:
        member = self.members.get(event.worker, Member())
        if isinstance(event, Placed):
            member.identity = event.identity
            if error := self._accept(event.identity):
                self._refuse(event.worker, member, error)
            else:
                self._pool.load(event.worker)
        elif isinstance(event, Ready):
            member.report, member.load_s = event.report, event.load_s
            self._early_deaths = 0
            self.late += self.gathered
        elif isinstance(event, Refused):
            self._refuse(event.worker, member, event.error)
        elif isinstance(event, Lost):
            self.members.pop(event.worker, None)
            self.lost += 1
            self._early_deaths += member.report is None
            self._last_death = event.reason
            self._watcher.note(f"worker {event.worker}{_where(member)} was lost: {event.reason}")

    def _refuse(self, worker: int, member: Member, error: LensBenchError) -> None:
        if self.ready:  # else the error may be what the run ends with
            self._watcher.note(f"worker {worker}{_where(member)} is not used: {error.message}")
        self.dismiss(worker, error)

    def _goal(self, chunks: int) -> int:
        """How many workers there should be, those refused left out."""
        wanted = self._capacity() if self._wanted is None else self._wanted
        return max(min(wanted - len(self._refusals), chunks), 0)

    def _capacity(self) -> int:
        """How many workers there is room for, looked up now and then."""
        room, looked = self._room
        if self._pool.now() - looked >= _LOOK_S:
            room = self._pool.room()
            self._room = room, self._pool.now()
        return room

    def _hire(self, chunks: int) -> None:
        goal = self._goal(chunks)
        while len(self.members) < goal and self._early_deaths < EARLY_DEATHS:
            self._numbers += 1
            self.members[self._numbers] = Member()
            self._pool.start(self._numbers)

    def _enough(self, began: float, first: float | None) -> bool:
        if len(self.ready) >= min(len(self.members), self._capacity()):
            return True
        return first is not None and self._pool.now() - first > (first - began) + _GRACE_S

    def _somebody_left(self) -> None:
        """Raise where nobody is at work and nobody can be expected."""
        if any(m.identity is not None for m in self.members.values()):
            return
        if self._refusals and (not self.members or not self.gathered):
            raise self._refusals[0]
        if self._early_deaths >= EARLY_DEATHS:
            raise RunError(
                f"{self._early_deaths} workers in a row died before they had loaded the model: {self._last_death}",
                "what was answered is kept; is there memory for so many workers?",
            )


def _where(member: Member) -> str:
    return f" on {member.identity.node} (process {member.identity.pid})" if member.identity else ""
