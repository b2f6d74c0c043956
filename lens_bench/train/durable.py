"""Folders that are complete or not there, also after a power cut, with a digest of every file in them.

A rename alone does not do it: a file system may write the new name to the disk before the content of the files, and a
bad disk changes content behind an intact header. So files are flushed to the disk before their folder gets its name,
and whoever reads the folder compares its files with the digests in it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from lens_bench.errors import CheckpointError, RunError
from lens_bench.parsing import parse_json

DIGESTS = "digests.json"
_FETCH = "restore it from a copy, or train it again with --fresh"


def seal(folder: Path, step: int) -> None:
    """Flush a folder's files to the disk and write down their digests and the number of steps done."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        _flush(path)
    digests = {path.relative_to(folder).as_posix(): _digest(path) for path in files}
    (folder / DIGESTS).write_text(json.dumps({"step": step, "files": digests}, indent=1) + "\n", encoding="utf-8")
    _flush(folder / DIGESTS)
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        _flush(path)


def put_in_place(part: Path, target: Path) -> None:
    """Give a sealed folder its name; an older one of that name goes first."""
    old = target.with_name(f".{target.name}.old")
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    part.rename(target)
    _flush(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover(target: Path) -> None:
    """Give a folder its name back that lost it to a newer one, which a kill kept from taking it."""
    old = target.with_name(f".{target.name}.old")
    if old.is_dir() and not target.exists():
        old.rename(target)


def damage(folder: Path) -> str:
    """What is wrong with a sealed folder, in a few words; empty where nothing is."""
    if not (folder / DIGESTS).exists():
        return f"{DIGESTS} is missing"
    content = _read(folder)
    if content is None:
        return f"{DIGESTS} is not readable"
    for name, digest in content[1].items():
        try:
            if _digest(folder / name) != digest:
                return f"{name} is not what was written"
        except OSError as error:
            return f"{name}: {error.strerror}"
    return ""


def require_intact(folder: Path) -> None:
    """Check a model's folder against its digests. One without them was not written by a training and is not checked.

    Raises:
        CheckpointError: A file is missing or is not what was written.
    """
    if (folder / DIGESTS).exists() and (wrong := damage(folder)):
        raise CheckpointError(f"{folder} is damaged: {wrong}", _FETCH)


def steps_done(folder: Path) -> int | None:
    """Number of steps that a sealed folder says it was trained for; None where it does not say."""
    content = _read(folder)
    return None if content is None else content[0]


@contextmanager
def writing(target: Path, part: Path | None) -> Iterator[None]:
    """Name what could not be written, and remove the part of it that was.

    Args:
        target: What is written, for the message.
        part: Where; None where other processes still write there.

    Raises:
        RunError: The system refused, e.g. because the disk is full.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = _refusal(error)
        if reason is None:
            raise
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
        raise RunError(
            f"cannot write {target}: {reason}",
            "make room (saving.keep: fewer checkpoints); the same command continues from the last checkpoint",
        ) from error


def _refusal(error: BaseException) -> str | None:
    """The system's reason behind an exception: torch and safetensors wrap it, each in its own way."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.errno is not None:
            return os.strerror(found.errno)
        if isinstance(found, SafetensorError) and (number := re.search(r"os error (\d+)", str(found))):
            return os.strerror(int(number[1]))
        # torch.save to a path, whose writer does not pass on what the system said.
        if isinstance(found, RuntimeError) and "inline_container" in str(found):
            return "a file could not be written in full"
        found = found.__cause__ or found.__context__
    return None


def _read(folder: Path) -> tuple[int, dict[str, str]] | None:
    try:
        content = parse_json((folder / DIGESTS).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict):
        return None
    step, files = content.get("step"), content.get("files")
    if not isinstance(step, int) or not isinstance(files, dict):
        return None
    return step, {str(name): str(digest) for name, digest in files.items()}


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems know no fsync of a folder.
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)
