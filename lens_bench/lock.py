"""One process at a time in a folder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

from lens_bench.atomic import naming_full_disk, sweep
from lens_bench.errors import UsageError

Kind: TypeAlias = type[BaseException] | None


def require_folder(path: Path) -> None:
    """Refuse what is no folder and cannot become one, because it, or what it should lie in, is a file.

    Raises:
        UsageError: Names the file; ``--out`` is the option that all of our folders come from.
    """
    there = next((p for p in (path, *path.parents) if p.exists() or p.is_symlink()), None)
    if there is not None and not there.is_dir():
        raise UsageError(f"--out must be a folder: {there} is not one", "name another folder; it is made if need be")


class FolderLock:
    """Exclusive hold on a folder, given back when the process ends, however it ends.

    Temporary files that killed writers left in the folder are removed.

    Args:
        folder: What is held; named in the error.
        file: Marks it, and is made with its parents.

    Raises:
        UsageError: Another process holds it, or a file is where it should be.
    """

    def __init__(self, folder: Path, file: Path) -> None:
        require_folder(file.parent)
        file.parent.mkdir(parents=True, exist_ok=True)
        self._stream = file.open("a+")
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._stream.seek(0)
            holder = self._stream.read().strip() or "unknown"
            self._stream.close()
            raise UsageError(
                f"{folder} is in use by process {holder}", "wait for it, or give this one another --out"
            ) from None
        sweep(file.parent)
        self._stream.truncate(0)
        with naming_full_disk(file):
            self._stream.write(f"{os.getpid()}\n")
            self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Kind, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stream.truncate(0)
        self._stream.close()
