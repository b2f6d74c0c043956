"""Tables of ``datasets``: opening them without the network, and cells that are read when they are needed."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from lens_bench.data.dense import mask_of
from lens_bench.data.images import encoded_size, file_fingerprint, image_size, read_encoded
from lens_bench.data.images import fingerprint as fingerprint_of
from lens_bench.data.mask_files import decode_mask, encode_sized, fingerprint
from lens_bench.data.paths import join
from lens_bench.data.split import Source
from lens_bench.data.table_files import FORMATS, data_files, state_of
from lens_bench.errors import DataError, UsageError
from lens_bench.parsing import MAX_DEPTH, parse_json
from lens_bench.records import BoolMask, Pixels, Rle, Size

if TYPE_CHECKING:
    import pyarrow as pa


class _Slice(Protocol):
    """What is used of a pyarrow table."""

    def column(self, name: str) -> Sequence[pa.Scalar]: ...


class _Dataset(Protocol):
    """What is used of ``datasets.Dataset`` in arrow format."""

    @property
    def column_names(self) -> list[str]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, row: int) -> _Slice: ...
    def select_columns(self, names: list[str]) -> _Dataset: ...


# What pyarrow and `datasets` raise on damaged files; pyarrow's errors are subclasses of these.
_UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    AssertionError,
    MemoryError,
)


# ---------------------------------------------------------------------------------------------- the table


class Table:
    """A table whose cells are read one at a time; a view a column, so that reading a text decodes no image."""

    def __init__(self, name: str, data: _Dataset, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self._data = data
        self._views: dict[str, _Dataset] = {}

    def __len__(self) -> int:
        return len(self._data)

    def require(self, columns: Iterable[str]) -> None:
        """Raise ``DataError`` where a column is not there."""
        names = self._data.column_names
        for column in columns:
            if column not in names:
                raise DataError(f"{self.name} has no column {column!r}", f"it has: {', '.join(names)}")

    def cell(self, row: int, column: str) -> pa.Scalar:
        """One cell, not yet converted. Raises ``DataError`` where it cannot be read."""
        if column not in self._views:
            self._views[column] = self._data.select_columns([column])
        try:
            return self._views[column][row].column(column)[0]
        except _UNREADABLE as error:
            raise self._broken(row, column, error) from None

    def value(self, row: int, column: str) -> object:
        """One cell as plain Python objects. Raises ``DataError`` where it cannot be read."""
        cell = self.cell(row, column)
        try:
            return cast("object", cell.as_py())
        except _UNREADABLE as error:
            raise self._broken(row, column, error) from None

    def _broken(self, row: int, column: str, error: Exception) -> DataError:
        return DataError(f"{column} of row {row} of {self.name} cannot be read: {' '.join(str(error).split()):.200}")


# ---------------------------------------------------------------------------------------------- cells


@dataclass(frozen=True, slots=True)
class CellImage:
    """An image in a cell: bytes, ``datasets.Image``'s bytes or path, or a path. Implements ``records.EncodedImage``."""

    table: Table
    row: int
    column: str
    exif: bool
    images: Path | None = None

    @property
    def name(self) -> str:
        """Table and row."""
        return f"{self.column} of row {self.row} of {self.table.name}"

    def exists(self) -> bool:
        """Whether the cell holds an image or the path of a file that is there."""
        try:
            content = self._content()
        except DataError:
            return False
        return content.is_file() if isinstance(content, Path) else True

    def read(self) -> Pixels:
        """Decode to RGB uint8 [H, W, 3]. Raises ``DataError`` where the image is missing or broken."""
        return self.decode(self.encoded())

    def encoded(self) -> bytes:
        """The image file's bytes. Raises ``DataError`` where the cell holds none, or names a file that is missing."""
        content = self._content()
        return _read(content) if isinstance(content, Path) else content

    def decode(self, data: bytes) -> Pixels:
        """Decode the bytes. Raises ``DataError`` naming the cell where they are no image."""
        return read_encoded(data, self.name, self.exif)

    def mark(self) -> str:
        """``images.fingerprint`` of the bytes; empty where there are none."""
        try:
            content = self._content()
        except DataError:
            return ""
        return file_fingerprint(content) if isinstance(content, Path) else fingerprint_of(content)

    def size(self) -> Size:
        """(height, width), from the image's header."""
        content = self._content()
        if isinstance(content, Path):
            return image_size(content, self.exif)
        return encoded_size(content, self.name, self.exif)

    def fingerprint(self) -> bytes:
        """SHA-256 of the image as it is stored, or of its path."""
        content = self._content()
        return hashlib.sha256(content if isinstance(content, bytes) else bytes(content)).digest()

    def _content(self) -> bytes | Path:
        value = self.table.value(self.row, self.column)
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return value
        if isinstance(value, str):
            return join(self.images or self.table.folder, value)
        raise DataError(f"{self.name} holds no image")


@dataclass(frozen=True, slots=True)
class CellMask:
    """A mask in a cell, dense or as an image file's bytes. Implements ``records.MaskSource``."""

    table: Table
    row: int
    column: str
    dense: bool
    threshold: float | None = None

    def rle(self, size: Size) -> Rle:
        """The mask at ``size``. Raises ``DataError`` where it cannot be read or has another size."""
        return encode_sized(self._pixels(), size, self._name())

    def fingerprint(self) -> bytes:
        """SHA-256 of the pixels (dense) or of the file's bytes."""
        if self.dense:
            mask = self._pixels()
            return hashlib.sha256(f"{mask.shape}".encode() + np.packbits(mask).tobytes()).digest()
        return fingerprint(self._bytes(), self.threshold)

    def _name(self) -> str:
        return f"{self.column} of row {self.row} of {self.table.name}"

    def _pixels(self) -> BoolMask:
        if self.dense:
            return mask_of(self.table.cell(self.row, self.column), self.threshold, self._name())
        return decode_mask(self._bytes(), self._name(), self.threshold)

    def _bytes(self) -> bytes:
        content = CellImage(self.table, self.row, self.column, exif=False)._content()
        return _read(content) if isinstance(content, Path) else content


def parse_cell(value: object, where: str) -> object:
    """A cell that holds JSON text, parsed; any other as it is."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except ValueError as error:
        raise DataError(f"{where} holds text that is not JSON: {error}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


# ---------------------------------------------------------------------------------------------- opening


def open_table(source: Source) -> Table:
    """Open the table of a split: what lies under the data root (file ``data`` of the card), else the hub.

    Raises:
        DataError: It is not on disk and the card does not allow a download, ``HF_HUB_OFFLINE`` forbids it, or the
            table cannot be read.
        UsageError: The card names neither a file nor a repository.
    """
    path = source.files.get("data")
    if path is not None:
        return _from_disk(path, source)
    repo = source.options.get("repo")
    if not repo:
        raise UsageError(f"suite {source.suite} names neither a file `data` nor an option `repo`")
    if source.options.get("download") is not True:
        raise DataError(
            f"{repo} is not on disk, and suite {source.suite} does not allow a download",
            "put a copy under the data root and name it under `files`, or set the option `download: true` on the card",
        )
    if os.environ.get("HF_HUB_OFFLINE", "").strip().lower() in ("1", "true", "yes", "on"):
        raise DataError(f"{repo} is not on disk, and HF_HUB_OFFLINE forbids a download", "unset it, or copy the table")
    import datasets

    arguments = {"revision": source.options.get("revision"), "name": source.options.get("config")}
    split = str(source.options.get("table_split", source.split))
    return _load(str(repo), str(repo), source.data_root, lambda: datasets.load_dataset(repo, split=split, **arguments))


def _from_disk(path: Path, source: Source) -> Table:
    import datasets

    split = source.options.get("table_split")
    if (path / "dataset_dict.json").is_file():
        folder = path / str(split or source.split)
        return _load(str(folder), str(folder), path, lambda: datasets.load_from_disk(str(folder)))
    if (path / "state.json").is_file():
        return _load(str(path), str(path), path, lambda: datasets.load_from_disk(str(path)))
    files = data_files(path, str(split) if split else None, source.split)
    kind = FORMATS[files[0].suffix]
    if kind == "json":
        _check_json(files)
    names = [glob.escape(str(f)) for f in files]  # `datasets` takes names for patterns
    # It keeps what it has converted by name and modification time; the name says more than the time does.
    state = state_of(files)[:16]
    folder = path if path.is_dir() else path.parent
    return _load(
        str(path), kind, folder, lambda: datasets.load_dataset(kind, name=state, data_files=names, split="train")
    )


_STRING = re.compile(rb'"(?:[^"\\\n]|\\.)*"')
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _check_json(files: Iterable[Path]) -> None:
    """Refuse JSON that ends the process in pyarrow's parser: deep nesting, and ``null`` in place of the first row."""
    for file in files:
        content = file.read_bytes()
        if content.lstrip()[:1] not in (b"{", b"["):
            raise DataError(f"{file} does not begin with a row", "a table in JSON holds an object for every row")
        brackets = _STRING.sub(b"", content).translate(None, _NO_BRACKETS)
        opens = np.isin(np.frombuffer(brackets, np.uint8), np.frombuffer(b"[{", np.uint8))
        depth = np.cumsum(np.where(opens, 1, -1))
        if (depth - np.minimum.accumulate(depth)).max(initial=0) >= MAX_DEPTH:
            raise DataError(f"{file} is nested more than {MAX_DEPTH} levels deep", "is it a table?")


class _Opener(Protocol):
    def __call__(self) -> object: ...


def _load(name: str, what: str, folder: Path, opener: _Opener) -> Table:
    import datasets
    import pyarrow as pa

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        data = opener()
        if isinstance(data, datasets.Dataset) and what != "parquet":
            data.data.validate(full=True)  # damaged offsets of an Arrow file would be followed out of bounds
    except (*_UNREADABLE, pa.ArrowException, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{name} cannot be read as {what}: {reason:.200}") from error
    finally:
        if shown:
            datasets.enable_progress_bars()
    if not isinstance(data, datasets.Dataset):
        raise DataError(f"{name} holds several splits", "name one with the reader option `table_split`")
    return Table(name, cast("_Dataset", data.with_format("arrow")), folder)
