"""What the foreman needs of workers, wherever they are, and what they tell.

Generic in what is sent (``Parcel``: one image and what is asked about it) and what comes back (``Answer``), because the
simulation of a cluster sends numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

from lens_bench.errors import LensBenchError
from lens_bench.records import LoadReport

Parcel = TypeVar("Parcel")
ParcelIn = TypeVar("ParcelIn", contravariant=True)
Answer = TypeVar("Answer")
AnswerOut = TypeVar("AnswerOut", covariant=True)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a worker is: what must be the same everywhere, and what it runs on.

    Attributes:
        weight_digest: Of the model as it is found there.
        environment: As in the manifest.
        node: Where it runs, for messages.
        hardware: Fingerprint of what it computes on.
    """

    node: str
    pid: int
    hardware: str
    weight_digest: str
    environment: dict[str, object]


@dataclass(frozen=True, slots=True)
class Placed:
    """A worker found room and constructed the model. It waits to be told to load."""

    worker: int
    identity: Identity


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker has loaded the model."""

    worker: int
    report: LoadReport
    load_s: float


@dataclass(frozen=True, slots=True)
class Refused:
    """A worker cannot be used: the model does not load there."""

    worker: int
    error: LensBenchError


@dataclass(frozen=True, slots=True)
class Answered(Generic[AnswerOut]):
    """A worker answered what it was given last."""

    worker: int
    answer: AnswerOut


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker is gone: killed, crashed, or out of reach."""

    worker: int
    reason: str


Event: TypeAlias = Placed | Ready | Refused | Answered[Answer] | Lost


class Pool(Protocol[ParcelIn, Answer]):
    """Workers somewhere. One call at a time is made to each of them, and every call ends in one event."""

    def start(self, worker: int) -> None:
        """Ask for a worker under a new number; ``Placed``, ``Refused`` or ``Lost`` follows once there is room."""
        ...

    def load(self, worker: int) -> None:
        """Tell a placed worker to load; ``Ready``, ``Refused`` or ``Lost`` follows."""
        ...

    def submit(self, worker: int, parcels: Sequence[ParcelIn], ahead: Sequence[ParcelIn]) -> None:
        """Give an idle worker work; ``Answered`` or ``Lost`` follows. ``ahead`` is likely to be next."""
        ...

    def dismiss(self, worker: int) -> None:
        """End a worker, whatever it does; nothing more is heard of it."""
        ...

    def wait(self, timeout: float) -> list[Event[Answer]]:
        """Events since the last call; waits for the first one, but no longer than ``timeout`` seconds."""
        ...

    def room(self) -> int:
        """How many workers fit on what there is now, whether or not others use it."""
        ...

    def now(self) -> float:
        """Seconds on a clock that never goes back."""
        ...

    def close(self) -> None:
        """End all workers."""
        ...
