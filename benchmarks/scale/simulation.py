"""A cluster on paper, under the foreman and the dispatcher that real runs use.

Only the workers, the network and the clock are made up. What the driving process spends is put on the same clock: an
answer is journalled (``journal_s`` for each expression), then waits for the scoring thread (``score_s`` for each),
which may lag ``WAITING`` expressions behind before it holds the driver up, as ``run.scorer`` does.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from lens_bench.records import LoadReport
from lens_bench.run.workers.dispatch import Dispatcher
from lens_bench.run.workers.foreman import Done, Foreman
from lens_bench.run.workers.pool import Answered, Event, Identity, Lost, Placed, Ready

WAITING = 1024


@dataclass(frozen=True)
class Cluster:
    """What is simulated. Seconds throughout.

    Attributes:
        workers: GPUs.
        expression_s: The model's time for an expression, one worker.
        image_s: The model's time for an image, whatever is asked about it.
        spread: Half width of the uniform factor on a call's time; 0.2 is 0.8 to 1.2.
        load_s: Loading the model.
        trip_s: A message, one way.
        driver_s: The driving process, for each call: receiving an answer and sending the next task.
        journal_s: The driving process, for each expression.
        score_s: The scoring thread, for each expression.
        failure_s: Mean time between failures of one worker; infinite for none.
        joins: ``(when, workers)``: more room from then on.
    """

    workers: int
    expression_s: float = 0.25
    image_s: float = 0.1
    spread: float = 0.0
    load_s: float = 60.0
    trip_s: float = 0.0
    driver_s: float = 0.0
    journal_s: float = 0.0
    score_s: float = 0.0
    failure_s: float = math.inf
    joins: tuple[tuple[float, int], ...] = ()
    seed: int = 0


@dataclass
class PaperPool:
    """Fits ``pool.Pool``: a parcel is the number of expressions on an image, an answer the number of them in a call."""

    cluster: Cluster
    time: float = 0.0
    busy_s: float = 0.0
    lost: int = 0
    _room: int = 0
    _waiting: list[int] = field(default_factory=list)
    _alive: dict[int, float] = field(default_factory=dict)
    _events: list[tuple[float, int, Event[int] | None]] = field(default_factory=list)
    _serial: count[int] = field(default_factory=count)
    _draws: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        self._draws.seed(self.cluster.seed)
        self._room = self.cluster.workers
        for when, _ in self.cluster.joins:
            heapq.heappush(self._events, (when, next(self._serial), None))

    def start(self, worker: int) -> None:
        self._waiting.append(worker)
        self._place()

    def load(self, worker: int) -> None:
        self._later(self.cluster.load_s, Ready(worker, LoadReport(), self.cluster.load_s))

    def submit(self, worker: int, parcels: Sequence[int], ahead: Sequence[int]) -> None:
        c, asked = self.cluster, sum(parcels)
        seconds = (len(parcels) * c.image_s + asked * c.expression_s) * (1 + c.spread * self._draws.uniform(-1, 1))
        self.busy_s += seconds
        arrives = self.time + seconds + 2 * c.trip_s
        if arrives > self._alive[worker]:
            self._push(self._alive[worker], Lost(worker, "failed"))
        else:
            self._push(arrives, Answered(worker, asked))

    def dismiss(self, worker: int) -> None:
        self._alive.pop(worker, None)
        self._waiting = [w for w in self._waiting if w != worker]
        self._place()

    def wait(self, timeout: float) -> list[Event[int]]:
        first = self._events[0][0] if self._events else math.inf
        self.time = max(self.time, min(first, self.time + timeout))
        due: list[Event[int]] = []
        while self._events and self._events[0][0] <= self.time:
            _, _, event = heapq.heappop(self._events)
            if event is None:
                self._room = self.cluster.workers + sum(n for when, n in self.cluster.joins if when <= self.time)
                self._place()
            elif event.worker in self._alive:
                due.append(event)
        for event in due:
            if isinstance(event, Lost):
                self.lost += 1
                self.dismiss(event.worker)
        return due

    def room(self) -> int:
        return self._room

    def now(self) -> float:
        return self.time

    def close(self) -> None:
        pass

    def _place(self) -> None:
        while self._waiting and len(self._alive) < self._room:
            worker = self._waiting.pop(0)
            mean = self.cluster.failure_s
            self._alive[worker] = self.time + (self._draws.expovariate(1 / mean) if math.isfinite(mean) else math.inf)
            self._later(self.cluster.trip_s, Placed(worker, Identity("paper", worker, "paper", "", {})))

    def _later(self, seconds: float, event: Event[int]) -> None:
        self._push(self.time + seconds, event)

    def _push(self, when: float, event: Event[int]) -> None:
        heapq.heappush(self._events, (when, next(self._serial), event))


class _Deaf:
    def count(self, ready: int, wanted: int) -> None:
        pass

    def note(self, message: str) -> None:
        pass


@dataclass(frozen=True)
class Result:
    """What came of it.

    Attributes:
        wall_s: From the start of the clock, when the first workers were ready, to the last score.
        utilisation: Share of the workers' time in the model, of those there were at the start.
        lost: Workers that failed.
    """

    wall_s: float
    expressions_per_s: float
    utilisation: float
    lost: int
    repeated: int


def simulate(cluster: Cluster, images: Sequence[int], batch: int, wanted: int | None = None) -> Result:
    """Run a split over a cluster on paper.

    Args:
        cluster: What there is.
        images: Expressions of each image.
        batch: Images per call.
        wanted: As ``--workers``; None for auto.
    """
    pool = PaperPool(cluster)
    foreman: Foreman[int, int] = Foreman(pool, wanted, lambda _: None, _Deaf())
    foreman.gather(-(-len(images) // batch))
    began, scored = pool.time, pool.time
    dispatcher = Dispatcher(len(images), batch)
    answered = 0
    for come in foreman.run(dispatcher, images):
        if isinstance(come, Done):
            asked = sum(images[i] for i in come.fresh)
            answered += asked
            pool.time += cluster.driver_s + asked * cluster.journal_s
            scored = max(scored, pool.time) + asked * cluster.score_s
            pool.time = max(pool.time, scored - WAITING * cluster.score_s)
    wall = max(pool.time, scored) - began
    return Result(wall, answered / wall, pool.busy_s / (wall * cluster.workers), pool.lost, dispatcher.repeated)


def even(images: int, each: int) -> list[int]:
    """So many images with so many expressions each."""
    return [each] * images


def drawn(expressions: int, mean: float, seed: int = 0) -> list[int]:
    """Images with geometrically many expressions, as annotated sets have, until there are so many expressions."""
    draws, found, total = random.Random(seed), [], 0
    while total < expressions:
        here = min(1 + int(math.log(1 - draws.random()) / math.log(1 - 1 / mean)), expressions - total)
        found.append(here)
        total += here
    return found
