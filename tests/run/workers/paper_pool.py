"""A pool whose workers exist on paper, on a clock of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Generic

from lens_bench.records import LoadReport
from lens_bench.run.workers.pool import Answer, Answered, Event, Identity, Lost, Parcel, Placed, Ready


def on_paper(worker: int) -> Identity:
    return Identity(f"node{worker}", worker, "paper", "weights", {})


class PaperPool(Generic[Parcel, Answer]):
    """Workers that need one second to be placed, ``load_s`` to load and ``image_s`` for every image.

    ``fate`` is what loading ends in and ``reply`` what is answered, for each worker; by default the parcels come back.
    """

    def __init__(
        self,
        room: int,
        fate: Callable[[int], Event[Answer]] | None = None,
        load_s: Callable[[int], float] = lambda _: 3.0,
        image_s: Callable[[int], float] = lambda _: 1.0,
        reply: Callable[[int, Sequence[Parcel]], Answer] = lambda _, parcels: list(parcels),
        identity: Callable[[int], Identity] = on_paper,
    ) -> None:
        self.places = room
        self.time = 0.0
        self._fate = fate or (lambda worker: Ready(worker, LoadReport(worker), load_s(worker)))
        self._load_s, self._image_s, self._reply, self._identity = load_s, image_s, reply, identity
        self._coming: list[tuple[float, Event[Answer]]] = []
        self._waiting: list[int] = []
        self.alive: list[int] = []
        self.started = 0
        self.asked: list[tuple[int, list[Parcel]]] = []
        self.doomed: Collection[Parcel] = ()
        self.at: list[tuple[float, Callable[[], None]]] = []

    def start(self, worker: int) -> None:
        self.started += 1
        self._waiting.append(worker)
        self._place()

    def _place(self) -> None:
        while self._waiting and len(self.alive) < self.places:
            worker = self._waiting.pop(0)
            self.alive.append(worker)
            self._later(1.0, Placed(worker, self._identity(worker)))

    def load(self, worker: int) -> None:
        self._later(self._load_s(worker), self._fate(worker))

    def submit(self, worker: int, parcels: Sequence[Parcel], ahead: Sequence[Parcel]) -> None:
        self.asked.append((worker, list(parcels)))
        if any(parcel in self.doomed for parcel in parcels):
            self._later(0.5, Lost(worker, "killed"))
        else:
            self._later(self._image_s(worker) * len(parcels), Answered(worker, self._reply(worker, parcels)))

    def dismiss(self, worker: int) -> None:
        self._waiting = [w for w in self._waiting if w != worker]
        self.alive = [w for w in self.alive if w != worker]
        self._coming = [(t, e) for t, e in self._coming if e.worker != worker]
        self._place()

    def wait(self, timeout: float) -> list[Event[Answer]]:
        until = min([t for t, _ in self._coming], default=float("inf"))
        self.time = min(until, self.time + timeout)
        for _, action in [a for a in self.at if a[0] <= self.time]:
            action()
        self.at = [a for a in self.at if a[0] > self.time]
        due = [e for t, e in self._coming if t <= self.time]
        self._coming = [(t, e) for t, e in self._coming if t > self.time]
        for event in due:
            if isinstance(event, Lost):
                self.dismiss(event.worker)
        return due

    def room(self) -> int:
        return self.places

    def now(self) -> float:
        return self.time

    def close(self) -> None:
        pass

    def _later(self, seconds: float, event: Event[Answer]) -> None:
        self._coming.append((self.time + seconds, event))
