"""Tables of ``datasets``: opening them without the network, and cells that are read when they are needed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from lens_bench.data.images import encoded_size, image_size, read_encoded
from lens_bench.data.mask_files import decode_mask, encode_sized
from lens_bench.data.paths import join
from lens_bench.data.split import Source
from lens_bench.errors import DataError, UsageError
from lens_bench.parsing import parse_json
from lens_bench.records import BoolMask, Pixels, Rle, Size

_FORMATS = {".parquet": "parquet", ".arrow": "arrow", ".jsonl": "json", ".json": "json"}


class _Values(Protocol):
    """What is used of a pyarrow list array: the rows of a dense mask."""

    def __len__(self) -> int: ...
    def value_lengths(self) -> _Numbers: ...
    def flatten(self) -> _Numbers: ...


class _Numbers(Protocol):
    """What is used of a flat pyarrow array."""

    def to_numpy(self, zero_copy_only: bool = ...) -> NDArray[np.generic]: ...


class _Cell(Protocol):
    """What is used of a pyarrow scalar."""

    @property
    def values(self) -> _Values | None: ...
    def as_py(self) -> object: ...


class _Slice(Protocol):
    """What is used of a pyarrow table."""

    def column(self, name: str) -> Sequence[_Cell]: ...


class _Dataset(Protocol):
    """What is used of ``datasets.Dataset`` in arrow format."""

    @property
    def column_names(self) -> list[str]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, row: int) -> _Slice: ...
    def select_columns(self, names: list[str]) -> _Dataset: ...


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

    def cell(self, row: int, column: str) -> _Cell:
        """One cell, not yet converted."""
        if column not in self._views:
            self._views[column] = self._data.select_columns([column])
        return self._views[column][row].column(column)[0]

    def value(self, row: int, column: str) -> object:
        """One cell as plain Python objects."""
        return self.cell(row, column).as_py()

    def dense_size(self, row: int, column: str) -> Size:
        """(height, width) of a dense mask, without reading its pixels."""
        values = self._rows(row, column)
        widths = set(values.value_lengths().to_numpy(zero_copy_only=False).tolist())
        if len(widths) != 1:
            raise DataError(f"{column} of row {row} of {self.name} is not a mask of rows of one length")
        return (len(values), int(cast("int", widths.pop())))

    def dense(self, row: int, column: str) -> BoolMask:
        """A dense mask, bool [H, W]."""
        height, width = self.dense_size(row, column)
        flat = self._rows(row, column).flatten().to_numpy(zero_copy_only=False)
        mask: BoolMask = flat.reshape(height, width) != 0
        return mask

    def _rows(self, row: int, column: str) -> _Values:
        values = getattr(self.cell(row, column), "values", None)
        if values is None or not hasattr(values, "value_lengths"):
            raise DataError(f"{column} of row {row} of {self.name} is not a dense mask: rows of numbers")
        return cast("_Values", values)


# ---------------------------------------------------------------------------------------------- cells


@dataclass(frozen=True, slots=True)
class CellImage:
    """An image in a cell: bytes, ``datasets.Image``'s bytes or path, or a path. Implements ``records.ImageSource``."""

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
        content = self._content()
        data = _read(content) if isinstance(content, Path) else content
        return read_encoded(data, self.name, self.exif)

    def size(self) -> Size:
        """(height, width), from the image's header."""
        content = self._content()
        if isinstance(content, Path):
            return image_size(content, self.exif)
        return encoded_size(content, self.name, self.exif)

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

    def rle(self, size: Size) -> Rle:
        """The mask at ``size``. Raises ``DataError`` where it cannot be read or has another size."""
        return encode_sized(self._pixels(), size, self._name())

    def fingerprint(self) -> bytes:
        """SHA-256 of the pixels (dense) or of the file's bytes."""
        if self.dense:
            mask = self._pixels()
            return hashlib.sha256(f"{mask.shape}".encode() + np.packbits(mask).tobytes()).digest()
        return hashlib.sha256(self._bytes()).digest()

    def _name(self) -> str:
        return f"{self.column} of row {self.row} of {self.table.name}"

    def _pixels(self) -> BoolMask:
        return self.table.dense(self.row, self.column) if self.dense else decode_mask(self._bytes(), self._name())

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
    files = _data_files(path, str(split) if split else None)
    kind = _FORMATS[files[0].suffix]
    names = [str(f) for f in files]
    folder = path if path.is_dir() else path.parent
    return _load(str(path), kind, folder, lambda: datasets.load_dataset(kind, data_files=names, split="train"))


def _data_files(path: Path, split: str | None) -> list[Path]:
    if path.is_file():
        if path.suffix not in _FORMATS:
            raise DataError(f"{path} is not a table", f"known are: {', '.join(_FORMATS)}")
        return [path]
    for suffix in _FORMATS:
        files = sorted(path.rglob(f"*{suffix}"))
        wanted = files if split is None else _of_split(files, split)
        if wanted:
            return wanted
    what = "a table" if split is None else f"a table of split {split!r}"
    raise DataError(f"{path} does not hold {what}", f"looked for *{', *'.join(_FORMATS)} and save_to_disk folders")


def _of_split(files: list[Path], split: str) -> list[Path]:
    """Files named ``<split>`` or ``<split>-...``; only where there are none, ``<split>_...``."""
    exact = [f for f in files if f.stem == split or f.stem.startswith(f"{split}-")]
    return exact or [f for f in files if f.stem.startswith(f"{split}_")]


class _Opener(Protocol):
    def __call__(self) -> object: ...


def _load(name: str, what: str, folder: Path, opener: _Opener) -> Table:
    import datasets

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        data = opener()
    except (OSError, ValueError, TypeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{name} cannot be read as {what}: {reason:.200}") from error
    finally:
        if shown:
            datasets.enable_progress_bars()
    if not isinstance(data, datasets.Dataset):
        raise DataError(f"{name} holds several splits", "name one with the reader option `table_split`")
    return Table(name, cast("_Dataset", data.with_format("arrow")), folder)
