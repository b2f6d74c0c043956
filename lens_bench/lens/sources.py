"""Where the tensors of a checkpoint come from: shards of safetensors, Meta's ``.pt`` files, memory.

A source tells names and shapes without reading data, so that a checkpoint is checked before memory is taken.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lens_bench.errors import CheckpointError
from lens_bench.parsing import parse_json

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


def folder_shards(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a checkpoint folder, by its index where it has one.

    Raises:
        CheckpointError: The folder has none, or the index names files that are not there.
    """
    for index in sorted(folder.glob("*.safetensors.index.json")):
        return indexed_shards(index)
    files = tuple(sorted(folder.glob("*.safetensors")))
    if not files:
        raise CheckpointError(f"no safetensors files in {folder}", "is this the folder of a checkpoint?")
    return files


def indexed_shards(index: Path) -> tuple[Path, ...]:
    """The files that an index of shards names, which lie beside it.

    Raises:
        CheckpointError: It is no index of shards, or a file that it names is not there.
    """
    try:
        content = parse_json(index.read_bytes())
    except (ValueError, OSError):
        content = None
    shards = content.get("weight_map") if isinstance(content, dict) else None
    names = list(shards.values()) if isinstance(shards, dict) else []
    if not names or not all(isinstance(name, str) and _is_file_name(name) for name in names):
        raise CheckpointError(f"{index} is not an index of shards", "fetch it again")
    files = tuple(index.with_name(name) for name in sorted(set(names)))
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        shown = ", ".join(missing[:10])
        raise CheckpointError(f"{index.parent} lacks {len(missing)} of {len(files)} shards: {shown}", "fetch it again")
    return files


def _is_file_name(name: str) -> bool:
    """Whether a text names a file of the same folder: an index must not lead out of its checkpoint."""
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def pickle_source(file: Path) -> MemorySource:
    """Read a ``.pt`` file of tensors, with or without Meta's outer key ``model``; no code in it is run.

    Raises:
        CheckpointError: The file is missing, truncated, or holds something else than tensors.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise CheckpointError(f"no file {file}") from None
    except (RuntimeError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(f"{file} is not a checkpoint of tensors: {reason}", "fetch it again") from None
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict) or not all(isinstance(t, Tensor) for t in content.values()):
        raise CheckpointError(f"{file} does not hold a dictionary of tensors")
    return MemorySource(content, str(file))


def digest_files(files: Iterable[Path]) -> str:
    """SHA-256 over names and contents, in order.

    Raises:
        CheckpointError: A file cannot be read.
    """
    total = hashlib.sha256()
    for file in files:
        try:
            with file.open("rb") as handle:
                content = hashlib.file_digest(handle, "sha256").digest()
        except OSError as error:
            raise CheckpointError(f"cannot read {file}: {error.strerror}") from None
        total.update(file.name.encode() + b"\0" + content)
    return total.hexdigest()
