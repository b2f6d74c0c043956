"""A recorder with the laws of CUDA graphs, on the CPU.

While recording, nothing happens to the tensors that the work writes to; what is recorded are operations on the very
tensors, so a number that Python computed is frozen; looking at a tensor's content is an error. A replay runs the
operations again in the same memory, and leaves the results of every other recording unreadable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READS = ("_local_scalar_dense", "nonzero", "item", "equal", "is_nonzero")


class Tape(TorchDispatchMode):
    """The operations of one recording, with their arguments and results."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self._before: list[tuple[Tensor, Tensor]] = []
        self._made: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket.__name__ in READS:
            raise RuntimeError(f"{func} reads a tensor while recording")
        for argument, given in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self._before += [(t, t.clone()) for t in tree_leaves(given) if isinstance(t, Tensor)]
        out = func(*args, **kwargs)
        self.operations.append((func, args, kwargs, out))
        self._made += new_memory(args, kwargs, out)
        return out

    def undo(self) -> None:
        """As if nothing had run: what was written is put back, what was made holds nothing."""
        for tensor, content in reversed(self._before):
            tensor.copy_(content)
        for tensor in self._made:
            if tensor.is_floating_point():
                tensor.fill_(torch.nan)

    def replay(self) -> None:
        for func, args, kwargs, out in self.operations:
            again = new_memory(args, kwargs, func(*args, **kwargs))
            for held, fresh in zip(new_memory(args, kwargs, out), again, strict=True):
                held.copy_(fresh)


def new_memory(args: Any, kwargs: Any, out: Any) -> list[Tensor]:
    """Results that are no views of an argument."""
    given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
    return [t for t in tree_leaves(out) if isinstance(t, Tensor) and t.untyped_storage().data_ptr() not in given]


class TapeRecorder:
    """A ``Recorder``; counts what it is asked to do."""

    def __init__(self) -> None:
        self.recordings: list[Tensor] = []
        self.warmed = self.replayed = self.forgotten = 0

    def warm_up(self, work: Callable[[], Tensor], times: int) -> None:
        self.warmed += times
        for _ in range(times):
            work()

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        tape = Tape()
        with tape:
            out = work()
        tape.undo()
        self.recordings.append(out)

        def replay() -> None:
            self.replayed += 1
            for other in self.recordings:
                other.fill_(torch.nan)
            tape.replay()

        return replay, out

    def forget(self) -> None:
        self.forgotten += 1
        self.recordings.clear()
