"""Where the tensors of a checkpoint come from: shards of safetensors, Meta's ``.pt`` files, memory.

A source tells names and shapes without reading data, so that a checkpoint is checked before memory is taken.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lens_bench.checkpoint_files import TRANSFORMERS_FAILS
from lens_bench.errors import CheckpointError
from lens_bench.tensor_pickle import check_pickles

Shape = tuple[int, ...]


class TensorSource(Protocol):
    """Named tensors."""

    @property
    def what(self) -> str:
        """What to call it in a message."""
        ...

    def shapes(self) -> Mapping[str, Shape]:
        """Every tensor's shape."""
        ...

    def tensor(self, name: str) -> Tensor:
        """One tensor, read now."""
        ...


class MemorySource:
    """Tensors that are already in memory."""

    def __init__(self, tensors: Mapping[str, Tensor], what: str) -> None:
        self._tensors = tensors
        self._what = what

    @property
    def what(self) -> str:
        """What to call it in a message."""
        return self._what

    def shapes(self) -> Mapping[str, Shape]:
        """Every tensor's shape."""
        return {name: tuple(t.shape) for name, t in self._tensors.items()}

    def tensor(self, name: str) -> Tensor:
        """One tensor."""
        return self._tensors[name]


class SafetensorsSource:
    """One or several safetensors files, read lazily.

    Raises:
        CheckpointError: A file is truncated, is not safetensors, or two files hold the same name.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._files = tuple(files)
        self._where: dict[str, Path] = {}
        self._shapes: dict[str, Shape] = {}
        for file in self._files:
            for name, shape in _header(file).items():
                if name in self._where:
                    raise CheckpointError(f"tensor {name} is both in {self._where[name].name} and in {file.name}")
                self._where[name], self._shapes[name] = file, shape

    @property
    def what(self) -> str:
        """The folder, or the single file."""
        return str(self._files[0] if len(self._files) == 1 else self._files[0].parent)

    def shapes(self) -> Mapping[str, Shape]:
        """Every tensor's shape."""
        return self._shapes

    def tensor(self, name: str) -> Tensor:
        """Read one tensor to CPU memory."""
        with safe_open(self._where[name], framework="pt") as handle:
            tensor: Tensor = handle.get_tensor(name)
        return tensor


def _header(file: Path) -> dict[str, Shape]:
    try:
        with safe_open(file, framework="pt") as handle:
            return {name: tuple(handle.get_slice(name).get_shape()) for name in handle.keys()}
    except FileNotFoundError:
        raise CheckpointError(f"no file {file}") from None
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{file} is not a complete safetensors file: {reason}", "fetch it again") from None


def pickle_source(file: Path) -> MemorySource:
    """Read a ``.pt`` or ``.bin`` file of tensors, with or without Meta's outer key ``model``; no code in it is run.

    Tensors of an archive are mapped into memory, those of a file from before PyTorch 1.6 are read.

    Raises:
        CheckpointError: The file is missing, truncated, or holds something else than tensors.
    """
    try:
        archive = _is_archive(file)
        check_pickles(file)
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=archive)
    except FileNotFoundError:
        raise CheckpointError(f"no file {file}") from None
    except _NOT_TENSORS as error:
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(f"{file} is not a checkpoint of tensors: {reason}", "fetch it again") from None
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict) or not all(isinstance(t, Tensor) for t in content.values()):
        raise CheckpointError(f"{file} does not hold a dictionary of tensors")
    return MemorySource(content, str(file))


# What reading a damaged or foreign file raises.
_NOT_TENSORS = (
    *TRANSFORMERS_FAILS, pickle.UnpicklingError, zipfile.BadZipFile, struct.error, EOFError, MemoryError,
    AssertionError,
)  # fmt: skip
_MOST_PICKLE = 256 * 2**20  # bytes of names and shapes in an archive; real ones have a few hundred kilobytes


def _is_archive(file: Path) -> bool:
    """Whether a file is an archive as ``torch.save`` writes it: entries are stored, and no byte belongs to two of them.

    Raises:
        ValueError: It is one that unpacks to more than it holds.
    """
    with file.open("rb") as handle:
        if handle.read(4) != b"PK\x03\x04":
            return False
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    names = sum(e.file_size for e in entries if e.filename.endswith(".pkl"))
    stored = all(e.compress_type == zipfile.ZIP_STORED for e in entries)
    if not stored or sum(e.file_size for e in entries) > file.stat().st_size or names > _MOST_PICKLE:
        raise ValueError("the archive unpacks to more than it holds")
    return True
