"""The files of a table below a folder: which belong to a split, whether all are there, and what tells them apart."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lens_bench.errors import DataError

FORMATS: Final = {".parquet": "parquet", ".arrow": "arrow", ".jsonl": "json", ".json": "json"}
_PART: Final = re.compile(r"(.+?)[-_]([0-9]{1,9})[-_]of[-_]([0-9]{1,9})([-_].*)?")  # test-00000-of-00003-8d7f.parquet
_NUMBERED: Final = re.compile(
    r"[-_][0-9]+(?:[-_]of[-_][0-9]+(?:[-_].*)?)?$"
)  # what a part's name has beside its table's
_SHOWN: Final = 4
_END: Final = 2**16  # bytes; Parquet's footer, with the sizes and statistics of all columns, is at the end


def data_files(path: Path, split: str | None, own: str) -> list[Path]:
    """The files of a table, sorted: the one that ``path`` is, or those below it that belong to a split.

    Hidden files and folders are passed by, such as the ``._*`` that macOS leaves.

    Args:
        path: A file, or a folder with files at any depth.
        split: Of the table, as the card gives it; None where it does not.
        own: The split's name on the card: where the card gives none of the table, the table of this name is read if
            there is one, and all files otherwise.

    Raises:
        DataError: There are none, parts are missing, or several tables may be the split.
    """
    if path.is_file():
        if path.suffix not in FORMATS:
            raise DataError(f"{path} is not a table", f"known are: {', '.join(FORMATS)}")
        return [path]
    for suffix in FORMATS:
        files = sorted(p for p in path.rglob(f"*{suffix}") if not _is_hidden(p.relative_to(path)))
        wanted = _of_split(files, split or own, exactly=split is None) or ([] if split else files)
        if wanted:
            _check_parts(wanted)
            return wanted
    what = "a table" if split is None else f"a table of split {split!r}"
    raise DataError(f"{path} does not hold {what}", f"looked for *{', *'.join(FORMATS)} and save_to_disk folders")


def state_of(files: Sequence[Path]) -> str:
    """A digest (hex) that differs after a file was replaced, even by one of the same size and modification time.

    The time at which the file system last changed a file's entry cannot be set back; where it is not kept, the end of
    the file is likely to differ.

    Raises:
        DataError: A file cannot be read.
    """
    digest = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as stream:
                size = stream.seek(0, 2)
                stream.seek(max(0, size - _END))
                end = stream.read()
            status = path.stat()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from None
        digest.update(
            f"{path}\0{size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}\0".encode("utf-8", "surrogateescape")
        )
        digest.update(hashlib.sha256(end).digest())
    return digest.hexdigest()


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _of_split(files: list[Path], split: str, *, exactly: bool) -> list[Path]:
    """The parts of the table ``<split>``; only where there is none, of the one ``<split>-...``, then ``<split>_...``.

    ``exactly`` leaves out the latter two.

    Raises:
        DataError: That are several tables, e.g. of two configurations in folders of their own.
    """
    for start in (split,) if exactly else (split, f"{split}-", f"{split}_"):
        found: dict[tuple[Path, str], list[Path]] = {}
        for file in files:
            name = _NUMBERED.sub("", file.stem)
            if name[: len(split) + 1] == start:
                found.setdefault((file.parent, name), []).append(file)
        if len(found) > 1:
            raise DataError(
                f"split {split!r} may be any of {len(found)} tables: "
                + ", ".join(str(parts[0]) for parts in list(found.values())[:_SHOWN]),
                "name the folder or the file under `files` of a card, or the whole name with the option `table_split`",
            )
        if found:
            return next(iter(found.values()))
    return []


def _check_parts(files: Sequence[Path]) -> None:
    """Of a table whose names say ``-00000-of-00003``, each part must be there once."""
    tables: dict[tuple[Path, str], list[tuple[int, int]]] = {}
    for path in files:
        match = _PART.fullmatch(path.stem)
        if match is not None:
            tables.setdefault((path.parent, match[1]), []).append((int(match[2]), int(match[3])))
    for (folder, name), parts in tables.items():
        total = max(of for _, of in parts)
        if any(of != total for _, of in parts):
            raise DataError(f"{folder} holds parts of two versions of {name}", "remove those of the old one")
        numbers = sorted(number for number, _ in parts)
        gone = next((n for n, number in enumerate([*sorted(set(numbers)), -1]) if n != number), total)
        if gone < total:
            raise DataError(
                f"{folder} holds {len(set(numbers))} of the {total} parts of {name}: part {gone:05d} is missing",
                "the download is incomplete: get the rest",
            )
        if len(numbers) != total:
            raise DataError(f"{folder} holds a part of {name} twice", "remove those of the old version")
