"""A child process that answers requests over stdin and stdout; the frames are described in ``foreign_server.py``."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, cast

from lens_bench.errors import UsageError
from lens_bench.parsing import parse_json
from lens_bench.run.foreign_server import MAGIC, PREFIX

# They would make the child import this environment's packages, or believe to be in its virtual environment.
_NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
_ALIVE_CHECK_S = 0.2
_CLOSE_S = 10.0
_JUNK_BYTES = 1 << 20
_HEADER_BYTES = 1 << 30
_PIPE_BYTES = 1 << 20
_TAIL_BYTES = 8192
_TAIL_LENGTH = 400


class ChildDied(Exception):
    """The child ended, or broke the protocol and was killed. The text says how, and ends with its last words."""


class ChildHung(Exception):
    """The child did not answer in time and was killed."""


class Child:
    """A server process in a process group of its own, so that it can be ended with everything it started.

    Args:
        interpreter: Of the foreign environment; not resolved, because a virtual environment's is a link.
        server: The file it runs.
        log: Takes the child's output, appended.

    Raises:
        UsageError: The interpreter cannot be started.
    """

    def __init__(self, interpreter: Path, server: Path, log: Path) -> None:
        self.log = log
        self._log_start = log.stat().st_size if log.exists() else 0
        self._greeted = False
        self._asking = False
        try:
            with log.open("ab") as output:
                self._process = subprocess.Popen(  # noqa: S603 - the interpreter that the model card names
                    [str(interpreter), str(server)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=output,
                    bufsize=0,
                    env=_environment(interpreter),
                    start_new_session=True,
                )
        except OSError as error:
            raise UsageError(f"{interpreter} cannot be started: {error.strerror}") from error
        self._in, self._out = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)
        for stream in (self._in, self._out):
            os.set_blocking(stream.fileno(), False)
            _widen(stream)
        self._finalizer = weakref.finalize(self, _end, self._process)

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its group."""
        return self._process.pid

    def ask(
        self, request: Mapping[str, object], payload: Sequence[memoryview] = (), *, timeout: float
    ) -> dict[str, object]:
        """Send a request, wait for its answer.

        Args:
            request: The header.
            payload: Buffers sent after it, one after the other.
            timeout: Seconds for everything together.

        Raises:
            ChildDied: It ended or answered with something else than a frame.
            ChildHung: No answer in time.
        """
        deadline = time.monotonic() + timeout
        self._log_start = self.log.stat().st_size
        self._asking = True
        try:
            header = json.dumps(request).encode("ascii")
            prefix = PREFIX.pack(MAGIC, len(header), sum(p.nbytes for p in payload))
            for buffer in (memoryview(prefix + header), *payload):
                self._write(buffer.cast("B"), deadline)
            answer = self._read_frame(deadline)
        except ChildHung:
            self.kill()
            raise ChildHung(f"no answer within {timeout:g} s") from None
        except ChildDied:
            self.kill()
            raise
        self._asking = False
        return answer

    def close(self) -> None:
        """Let the child end by itself, unless it is in the middle of something; then end all of its group."""
        if not self._asking and self._process.poll() is None:
            with contextlib.suppress(ChildDied, ChildHung):
                self.ask({"op": "close"}, timeout=_CLOSE_S)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=_CLOSE_S)
        self.kill()

    def kill(self) -> None:
        """End the child and everything in its process group, and collect it: no zombie stays behind."""
        self._finalizer()

    def tail(self) -> str:
        """The last lines that the child wrote during the last request, as one line."""
        with self.log.open("rb") as stream:
            end = stream.seek(0, os.SEEK_END)
            stream.seek(max(self._log_start, end - _TAIL_BYTES))
            lines = stream.read().decode("utf-8", "replace").split("\n")
        text = " | ".join(_without_stack([line.strip() for line in lines if line.strip()]))
        return text if len(text) <= _TAIL_LENGTH else "..." + text[-_TAIL_LENGTH:]

    # ------------------------------------------------------------------------------------------ pipes

    def _write(self, data: memoryview, deadline: float) -> None:
        while data:
            self._wait(self._in, deadline, writing=True)
            try:
                data = data[os.write(self._in.fileno(), data) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise self._died() from None

    def _read_frame(self, deadline: float) -> dict[str, object]:
        if not self._greeted:
            prefix = self._skip_junk(deadline)
            self._greeted = True
        else:
            prefix = self._read(PREFIX.size, deadline)
        magic, header_length, payload_length = PREFIX.unpack(prefix)
        if magic != MAGIC or header_length > _HEADER_BYTES or payload_length:
            raise ChildDied(f"it wrote something else than an answer to its standard output: {bytes(prefix)!r}")
        try:
            answer = parse_json(self._read(header_length, deadline))
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ChildDied("its answer is not a JSON object")
        return answer

    def _skip_junk(self, deadline: float) -> bytes:
        """Find the first frame: wrappers and start-up files of an environment print before the server runs."""
        data = bytearray()
        while (start := data.find(MAGIC)) < 0:
            data += self._read(1, deadline)
            if len(data) > _JUNK_BYTES:
                raise ChildDied("it never sent an answer, only other output")
        if start:
            with self.log.open("ab") as stream:
                stream.write(bytes(data[:start]) + b"\n")
        return bytes(data[start:]) + self._read(PREFIX.size - len(MAGIC), deadline)

    def _read(self, length: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < length:
            self._wait(self._out, deadline, writing=False)
            try:
                piece = os.read(self._out.fileno(), length - len(data))
            except BlockingIOError:
                continue
            if not piece:
                raise self._died()
            data += piece
        return bytes(data)

    def _wait(self, stream: IO[bytes], deadline: float, *, writing: bool) -> None:
        """Until the pipe is ready. A dead child is noticed even where a grandchild keeps the pipe open."""
        watched: tuple[list[IO[bytes]], list[IO[bytes]]] = ([], [stream]) if writing else ([stream], [])
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise ChildHung
            if any(select.select(*watched, [], min(left, _ALIVE_CHECK_S))):
                return
            if self._process.poll() is not None:
                raise self._died()

    def _died(self) -> ChildDied:
        try:
            code = self._process.wait(timeout=_CLOSE_S)
        except subprocess.TimeoutExpired:
            return ChildDied("it closed its standard output")
        how = f"exit status {code}" if code >= 0 else f"signal {-code} ({signal.strsignal(-code)})"
        tail = self.tail()
        return ChildDied(f"it ended with {how}" + (f": {tail}" if tail else ""))


def _without_stack(lines: Sequence[str]) -> Sequence[str]:
    """Of the stack that Python's fault handler prints, innermost first, keep what happened and where."""
    fatal = next((n for n, line in enumerate(lines) if line.startswith("Fatal Python error")), None)
    if fatal is None:
        return lines
    current = next((n for n, line in enumerate(lines) if line.startswith("Current thread")), fatal)
    where = [line for line in lines[current:] if line.startswith("File ")]
    return [*lines[: fatal + 1], *where[:1]]


def _environment(interpreter: Path) -> dict[str, str]:
    """Our variables without what leads back to our packages; tools of the foreign environment come first in PATH."""
    kept = {k: v for k, v in os.environ.items() if k not in _NOT_INHERITED}
    path = os.pathsep.join(p for p in (str(interpreter.parent), kept.get("PATH", "")) if p)
    return {**kept, "PATH": path, "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}


def _widen(stream: IO[bytes]) -> None:
    """Ask for a large pipe where the system has them: an image goes through in a few writes instead of many."""
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):  # above the user's limit
            fcntl.fcntl(stream.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
