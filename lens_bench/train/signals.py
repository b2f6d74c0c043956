"""Signals by which a scheduler asks a training to stop: they are noted, and the loop stops after its step."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Self

_ASKING = (signal.SIGTERM, signal.SIGUSR1)


class Signals:
    """While entered, SIGTERM and SIGUSR1 are noted instead of ending the process. Ctrl-C stays what it is.

    Handlers belong to the main thread; entered in another one this does nothing.
    """

    def __init__(self) -> None:
        self._before: dict[int, object] = {}
        self._asked = False

    def asked(self) -> bool:
        """Whether one of the signals has come."""
        return self._asked

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _ASKING}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            # None: a handler that was not set from Python, and cannot be put back from it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # type: ignore[arg-type]
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
