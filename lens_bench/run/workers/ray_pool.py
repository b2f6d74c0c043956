"""Workers that Ray holds: on this machine, or wherever a cluster has room. The only module that imports Ray."""

from __future__ import annotations

import logging
import math
import os
import re
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import ray
from ray.exceptions import AuthenticationError, RayError, RayTaskError

from lens_bench.errors import LensBenchError, UsageError
from lens_bench.records import ImageTask
from lens_bench.run.workers.options import Workers
from lens_bench.run.workers.pool import Answered, Event, Lost, Placed, Ready, Refused
from lens_bench.run.workers.worker import ImageAnswer, ImageParcel, Job, Worker

_STORE_BYTES = 128 * 2**20  # small things travel: tasks, run-length encodings
_FAREWELL_S = 5.0
_KNOCK_S = 10.0
_JOINS = 4
_SILENCES = 2  # of these, how many may pass without an answer: Ray waits half a minute for each
_CAUSE = re.compile(r"The actor is dead because (?:its |the )?([^.\n]+)")

Doing: TypeAlias = Literal["introduce", "load", "answer"]


@dataclass(frozen=True, slots=True)
class Share:
    """What one worker takes of a node."""

    cpus: float
    gpus: float

    def fits(self, resources: dict[str, float]) -> int:
        """How many of it a node with these resources holds."""
        by_cpu = math.floor(resources.get("CPU", 0.0) / self.cpus)
        if not self.gpus:
            return by_cpu
        gpus = resources.get("GPU", 0.0)
        if self.gpus >= 1:
            return min(by_cpu, math.floor(gpus / self.gpus))
        return min(by_cpu, math.floor(gpus) * math.floor(1 / self.gpus + 1e-9))  # a worker is on one device


class RayPool:
    """Fits ``pool.Pool``. Connects on construction.

    Args:
        job: What workers are made of.
        workers: As the user asked for.
        share: What each takes.
        expected: All tasks of the command, for a model that wants to know them; else None.

    Raises:
        UsageError: There is no cluster at the address, or this machine has not so many devices.
    """

    def __init__(self, job: Job, workers: Workers, share: Share, expected: Sequence[ImageTask] | None) -> None:
        self._share = share
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, tuple[int, Doing]] = {}
        self._ours = not ray.is_initialized()
        if self._ours:
            _connect(workers, share)
        try:
            if workers.address is None:
                self._check_room(workers)
            self._job = ray.put(job)
            self._expected = ray.put(expected)
            self._kind = ray.remote(Worker)
        except BaseException:
            self.close()
            raise

    def start(self, worker: int) -> None:
        """Ask Ray for an actor; it waits for room where there is none."""
        wish = self._kind.options(
            num_cpus=self._share.cpus, num_gpus=self._share.gpus, max_restarts=0, max_task_retries=0
        )
        self._actors[worker] = wish.remote(self._job, worker)
        self._call(worker, "introduce")

    def load(self, worker: int) -> None:
        """Load the model there."""
        self._call(worker, "load", self._expected)

    def submit(self, worker: int, parcels: Sequence[ImageParcel], ahead: Sequence[ImageParcel]) -> None:
        """Send images to be answered."""
        self._call(worker, "answer", list(parcels), list(ahead))

    def dismiss(self, worker: int) -> None:
        """Kill the actor."""
        self._calls = {call: (who, what) for call, (who, what) in self._calls.items() if who != worker}
        if actor := self._actors.pop(worker, None):
            ray.kill(actor)

    def wait(self, timeout: float) -> list[Event[ImageAnswer]]:
        """Whatever calls have ended."""
        if not self._calls:
            time.sleep(timeout)
            return []
        calls = list(self._calls)
        ended, _ = ray.wait(calls, num_returns=1, timeout=timeout)
        if ended and len(calls) > 1:
            ended, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
        return [event for call in ended for event in self._event(call)]

    def room(self) -> int:
        """How many workers fit on the nodes that are alive, whatever else runs there."""
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        return sum(self._share.fits(node["Resources"]) for node in nodes if node["Alive"])

    def now(self) -> float:
        """The monotonic clock."""
        return time.monotonic()

    def close(self) -> None:
        """Let idle workers free their models, end all, and leave the cluster; one of our own ends with it."""
        busy = {worker for worker, _ in self._calls.values()}
        closing = [actor.close.remote() for worker, actor in self._actors.items() if worker not in busy]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=_FAREWELL_S)
        for worker in list(self._actors):
            self.dismiss(worker)
        if self._ours:
            ray.shutdown()

    def _check_room(self, workers: Workers) -> None:
        room = self.room()
        if room < (workers.count or 1):
            asked = f"{workers.count or 1} workers with {self._share.gpus:g} GPU each"
            raise UsageError(
                f"{asked} do not fit on this machine: there is room for {room}",
                "--gpus-per-worker 0.5 puts two on a GPU, --device cpu needs none",
            )

    def _call(self, worker: int, doing: Doing, *arguments: object) -> None:
        call = getattr(self._actors[worker], doing).remote(*arguments)
        self._calls[call] = (worker, doing)

    def _event(self, call: Any) -> Iterator[Event[ImageAnswer]]:
        worker, doing = self._calls.pop(call)
        try:
            found = ray.get(call)
        except RayTaskError:
            raise  # a defect of ours: a worker returns what it may fail with
        except RayError as error:
            self.dismiss(worker)
            yield Lost(worker, _why(error))
            return
        if isinstance(found, LensBenchError):
            yield Refused(worker, found)
        elif doing == "introduce":
            yield Placed(worker, found)
        elif doing == "load":
            yield Ready(worker, *found)
        else:
            yield Answered(worker, found)


def _connect(workers: Workers, share: Share) -> None:
    """Start Ray on this machine, or join a cluster. Nothing is reported to anybody and no page is served."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else every start prints a page about it
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if workers.address is None:
        cpus = max(math.ceil((workers.count or 1) * share.cpus), len(os.sched_getaffinity(0)))
        ray.init("local", num_cpus=cpus, include_dashboard=False, object_store_memory=_STORE_BYTES, **quiet)
        return
    try:
        _knock(workers.address)
        _join(workers.address, quiet)
    except AuthenticationError as error:
        raise UsageError(
            f"the Ray cluster at {workers.address} wants a token",
            "RAY_AUTH_MODE=token sends the one in ~/.ray/auth_token, which every node needs",
        ) from error
    except ConnectionAbortedError as error:
        raise UsageError(
            f"the Ray cluster at {workers.address} starts no server for this command: {_lines(error)[-1]}",
            "ray_client_server*.err among its head node's logs says more; the same command again tries again",
        ) from error
    except TimeoutError as error:
        raise UsageError(
            f"nobody answers as a Ray cluster in time at {workers.address}: {_lines(error)[0]}",
            "ray:// goes to port 10001; a head node that starts or is busy answers late: the same command tries again",
        ) from error
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise UsageError(
            f"there is no Ray cluster at {workers.address}: {_lines(error)[0]}",
            "`ray start --head` starts one; its address is auto on that machine, ray://HOST:10001 from elsewhere",
        ) from error


def _join(address: str, quiet: dict[str, Any]) -> None:
    """Connect; more than once where the head forks a server for every client.

    That fork is made while other threads are inside gRPC, and now and then the child dies before its first line
    (Ray 2.60: two of nine clusters on a busy machine). The next client gets another child. A head that is busy may also
    leave a client without an answer; ``_knock`` has shown that somebody listens.

    Raises:
        TimeoutError: Somebody listens at a ``ray://`` address, and no client was let in.
    """
    silences = 0
    for left in reversed(range(_JOINS)):
        try:
            ray.init(address, **quiet)
            return
        except ConnectionAbortedError:
            if not left:
                raise
        except ConnectionError as error:
            if not address.startswith("ray://"):
                raise
            silences += 1
            if not left or silences == _SILENCES:
                raise TimeoutError(_lines(error)[0]) from error
        time.sleep(1)


def _lines(error: Exception) -> list[str]:
    return str(error).strip().splitlines() or [type(error).__name__]


def _knock(address: str) -> None:
    """Raise ``OSError`` where nobody listens: Ray itself would try for minutes."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S):
        pass


def _why(error: RayError) -> str:
    """Ray's reasons are pages long; the one clause that matters."""
    found = _CAUSE.search(str(error))
    return found.group(1).strip() if found else f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
