"""The command line's entry point, which is ready for Ctrl-C before anything slow is imported."""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # importing `typing` for it takes several milliseconds, in which Ctrl-C ends in a traceback
if TYPE_CHECKING:
    from types import FrameType


def main() -> None:
    """Entry point of ``lens-bench``."""
    # Unless somebody had it ignored, as `nohup` does.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, stop)
    from lens_bench.cli.app import run

    run(sys.argv[1:])


def stop(_signal: int, _frame: FrameType | None) -> None:
    """Handler of SIGINT before a command begins: an exception in the middle of an import ends in a traceback."""
    os.write(2, b"interrupted: nothing was changed\n")
    os._exit(130)


def end(_signal: int, _frame: FrameType | None) -> None:
    """Handler of SIGINT after a command, while the interpreter shuts down."""
    os._exit(130)
