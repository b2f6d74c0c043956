"""Writing whole files: a reader sees the old content or the new, and nothing stays behind of a writer that was killed.

A writer holds an advisory lock on its temporary file until that has its final name. A temporary file that nobody holds
is therefore left over from a killed process, on whatever machine that was, and may be removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from lens_bench.errors import RunError

_DEVICES = {Path("/dev"), Path("/dev/fd"), Path("/proc/self/fd")}
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Say which file had no room: the system's error of a write does not.

    Raises:
        RunError: There is no space left, or the quota is used up.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        what = "no space left" if error.errno == errno.ENOSPC else "the disk quota is used up"
        raise RunError(
            f"{what} to write {path}", "make room, then give the same command again: it continues with what is there"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A stream whose content replaces the file when the block is left, and is thrown away if it is left by an error.

    A device or a pipe, such as ``/dev/stdout``, is written to and not replaced.

    Raises:
        RunError: There is no room.
    """
    if path.parent in _DEVICES or (path.exists() and not path.is_file()):
        with naming_full_disk(path), path.open("ab") as device:
            yield device
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with naming_full_disk(path):
        sweep(path.parent, f".{path.name}.*.tmp")
        stream = _held(temporary)
        try:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            with suppress(OSError):  # what is still buffered after a failed write fails again
                stream.close()


def _held(path: Path) -> BinaryIO:
    """A new file, locked. On a file system without locks it is not, and then nobody takes it for left over, either."""
    while True:
        stream = path.open("wb")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError:
            return stream
        if _is(stream.fileno(), path):
            return stream
        stream.close()  # somebody swept it away before it was locked


def _is(descriptor: int, path: Path) -> bool:
    """Whether a path still leads to what was opened under it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def write_text(path: Path, text: str) -> None:
    """Replace a file atomically: a reader sees the old content or the new, also after a crash.

    Raises:
        RunError: There is no room; the message names the file.
    """
    with replacing(path) as stream:
        stream.write(text.encode("utf-8"))


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Mark a temporary folder as one that is being written, so that ``sweep`` leaves it alone."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sweep(folder: Path, pattern: str = ".*.tmp") -> None:
    """Remove temporary files and folders that nobody is writing; those of living processes stay."""
    for path in folder.glob(pattern):
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is(descriptor, path):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(descriptor)
