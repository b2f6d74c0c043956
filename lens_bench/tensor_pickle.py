"""Looking through the pickles of a ``.pt`` file before torch runs them.

``torch.load(weights_only=True)`` calls nothing that a checkpoint names, apart from a short list. It does hash what a
pickle tells it to: some 500 bytes, a tuple of twice the same tuple of twice the same and so on, sixty times, as a key,
keep it busy for ever, in C code that Ctrl-C does not reach. The machine here runs the same operations on stand-ins, in
time and memory linear in the size of the pickle, and refuses what no checkpoint of tensors has.
"""

from __future__ import annotations

import mmap
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lens_bench.pickle_machine import Broken, Forbidden, Machine, table

_MOST_LEAVES: Final = 1_000_000  # of a tuple; those of shapes and strides have a few
_MOST_LEVELS: Final = 50
_LEGACY: Final = 5  # pickles before the tensors of a file from before torch 1.6
# Of what torch admits: these allocate or hash as much as their arguments say, and no checkpoint of tensors has them.
_REFUSED: Final = frozenset({"builtins.bytearray", "builtins.set", "collections.Counter", "builtins.complex"})


@dataclass(frozen=True, slots=True, eq=False)
class _Tuple:
    """Stands for a tuple: how many values it holds where repeated ones count each time, and how deep it is."""

    leaves: int
    levels: int


class _Thing:
    """Stands for a name, a storage, a tensor: anything that torch makes."""


class _Checker(Machine):
    def tuple(self, items: list[object]) -> object:
        inner = [item for item in items if isinstance(item, _Tuple)]
        leaves = len(items) - len(inner) + sum(item.leaves for item in inner)
        levels = 1 + max((item.levels for item in inner), default=0)
        if leaves > _MOST_LEAVES or levels > _MOST_LEVELS:
            raise Forbidden(f"a tuple of {leaves:,} values in {levels} levels")
        return _Tuple(leaves, levels)

    def hashable(self, value: object) -> object:
        return value if isinstance(value, _Tuple | _Thing) else super().hashable(value)

    def name(self, module: object, name: object) -> None:
        """Push a name; torch says whether it is admitted."""
        if f"{module}.{name}" in _REFUSED or f"{module}.{name}".replace("__builtin__", "builtins") in _REFUSED:
            raise Forbidden(f"{module}.{name}")
        self.stack.append({} if (module, name) == ("collections", "OrderedDict") else _Thing())

    def reduce(self) -> None:
        """Call a name: an ordered dictionary is one, everything else a thing."""
        self.stack.pop()
        self.stack.append({} if isinstance(self.stack.pop(), dict) else _Thing())


def _persistent(machine: Machine) -> None:
    machine.stack[-1] = _Thing()


def _build(machine: Machine) -> None:
    """Attributes of an object; ``torch.save`` gives ordered dictionaries one, ``_metadata``."""
    machine.stack.pop()


_Checker.operations = table({b"Q": _persistent, b"b": _build, b"\x81": lambda m: m.reduce()})


def check_pickles(file: Path) -> None:
    """Refuse a ``.pt`` or ``.bin`` file whose pickles would keep torch busy for ever or eat the memory.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is damaged, or a pickle asks for what no checkpoint of tensors needs.
    """
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                for entry in archive.infolist():
                    if entry.filename.endswith(".pkl"):
                        _Checker(archive.read(entry)).run()
            return
        with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
            at = 0
            for _ in range(_LEGACY):
                checker = _Checker(content, at)
                checker.run()
                at = checker.at
    except Forbidden as error:
        raise ValueError(f"it holds {error}") from None
    except (Broken, LookupError, TypeError, AttributeError, struct.error, zipfile.BadZipFile) as error:
        raise ValueError(f"it is no pickle of tensors: {error}") from None
