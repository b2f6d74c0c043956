"""Two training loops in one process, a step of one and then a step of the other.

Each loop runs in its own thread as its author wrote it and stops at its own callback behind every step. Only one of the
threads runs at a time, so the clocks around ``advance`` measure a step of that loop and nothing else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Lap:
    """Seconds of one step: by the wall clock and of this process's processors."""

    wall: float
    cpu: float


class Turns:
    """A loop that is let go on for one step at a time.

    Args:
        loop: Runs everything; is handed the function that it has to call behind every step.
        device: Waited for before clocks are read.
    """

    def __init__(self, loop: Callable[[Callable[[], None]], None], device: torch.device) -> None:
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._device = device
        self._error: BaseException | None = None
        self._over = False
        threads = torch.get_num_threads()

        def work() -> None:
            torch.set_num_threads(threads)  # belongs to a thread
            self._go.acquire()
            try:
                loop(self._behind_step)
            except BaseException as error:  # handed to whoever waits
                self._error = error
            self._over = True
            self._done.release()

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    def advance(self) -> Lap:
        """One step."""
        self._wait()
        wall, cpu = time.perf_counter(), time.process_time()
        self._go.release()
        self._done.acquire()
        self._wait()
        lap = Lap(time.perf_counter() - wall, time.process_time() - cpu)
        self._check()
        if self._over:
            raise RuntimeError("the loop is over")
        return lap

    def finish(self) -> None:
        """Let the loop end by itself."""
        while not self._over:
            self._go.release()
            self._done.acquire()
            self._check()
        self._thread.join()

    def _behind_step(self) -> None:
        self._done.release()
        self._go.acquire()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
