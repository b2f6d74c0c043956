"""Errors that a person is meant to read: one line of message, one line of hint, one exit code per kind.

The command line prints ``message`` and ``hint`` and exits with ``exit_code``; ``--debug`` shows the traceback instead.
Anything that is not a ``LensBenchError`` is a defect of ours and is shown with its traceback.
"""

from __future__ import annotations

from typing import ClassVar


class LensBenchError(Exception):
    """Base of every error the package raises on purpose.

    Args:
        message: One line: what is wrong, naming the thing that is wrong.
        hint: One line: what to do about it. Empty where nothing helpful can be said.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class RunError(LensBenchError):
    """Something failed while running: a model, a worker, too many errors."""

    exit_code = 1


class UsageError(LensBenchError):
    """The command, an option or a card asks for something that does not exist or does not fit together."""

    exit_code = 2


class GateError(LensBenchError):
    """A regression gate says no."""

    exit_code = 3


class DataError(LensBenchError):
    """A file of a suite is missing, unreadable, unsafe or not what its card promises."""

    exit_code = 4


class CheckpointError(LensBenchError):
    """A checkpoint is missing, truncated, or does not fit the model."""

    exit_code = 5


class OutOfMemoryError(LensBenchError):
    """A segmenter ran out of device memory on this batch.

    Adapters may raise it; ``torch.OutOfMemoryError`` and ``MemoryError`` are treated alike by the run loop, which
    halves the batch and goes on.
    """

    exit_code = 1


class Preempted(LensBenchError):
    """A signal asked for the end of a run; what was done is kept, and the same command continues.

    The exit code is ``EX_TEMPFAIL`` of ``sysexits.h``: a scheduler may start the same command again.
    """

    exit_code = 75
