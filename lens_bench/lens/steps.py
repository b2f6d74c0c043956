"""Ways to run a decoding step of fixed shapes: as it is, compiled, or recorded once and replayed.

A decoding step launches hundreds of small kernels, which on a GPU takes longer than running them. A CUDA graph is
recorded once per bucket and launched as one; ``torch.compile`` joins kernels instead. Both need a step whose shapes and
addresses stay, and both cost time at the first step of a bucket, which is told apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from lens_bench.errors import UsageError
from lens_bench.lens.cache import Cache

Decode: TypeAlias = Literal["eager", "static", "compiled", "graphs"]
DECODES: tuple[Decode, ...] = ("eager", "static", "compiled", "graphs")
# Runs before recording: libraries choose their kernels and set up their handles in the first ones.
WARM_UP = 3


class ReadToken(Protocol):
    """Runs a model on one token per row."""

    def __call__(self, ids: Tensor, positions: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        """Hidden states [B, D].

        Args:
            ids: [B, 1].
            positions: [B].
            mask: Bool [B, 1, 1, K].
            cache: Takes the new keys and values.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Board:
    """The tensors of one bucket, R rows and W columns; a step reads and writes these and no others.

    Attributes:
        ids: [R, 1] tokens to read.
        positions: [R] of the tokens.
        mask: Bool [R, 1, 1, W].
        column: [1] where keys and values of the tokens go.
        keys: Per layer [R, H, W, d].
        values: Per layer [R, H, W, d].
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    column: Tensor
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """All of them, as ``Step`` takes them."""
        return self.ids, self.positions, self.mask, self.column, self.keys, self.values


class _InPlace:
    """Keys and values written at one column of buffers that stay."""

    def __init__(self, keys: tuple[Tensor, ...], values: tuple[Tensor, ...], column: Tensor) -> None:
        self._keys, self._values, self._column = keys, values, column

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Store the new column of one layer and return all columns."""
        self._keys[layer].index_copy_(2, self._column, keys)
        self._values[layer].index_copy_(2, self._column, values)
        return self._keys[layer], self._values[layer]


class Step:
    """One decoding step as a function of tensors alone.

    Args:
        read: Runs the model.
    """

    def __init__(self, read: ReadToken) -> None:
        self._read = read

    def __call__(
        self,
        ids: Tensor,
        positions: Tensor,
        mask: Tensor,
        column: Tensor,
        keys: tuple[Tensor, ...],
        values: tuple[Tensor, ...],
    ) -> Tensor:
        """Hidden states [R, D]; writes into ``keys`` and ``values``."""
        return self._read(ids, positions, mask, _InPlace(keys, values, column))


class Runner(Protocol):
    """Runs steps. The result is valid until the next one."""

    def __call__(self, board: Board) -> Tensor:
        """Hidden states [R, D]."""
        ...

    def forget(self) -> None:
        """Boards seen so far do not come again."""
        ...

    def preparation(self) -> float:
        """Seconds spent on compiling or recording since this was last asked."""
        ...


class PlainRunner:
    """Steps as they are.

    Args:
        step: The step.
    """

    def __init__(self, step: Step) -> None:
        self._step = step

    def __call__(self, board: Board) -> Tensor:
        """Hidden states [R, D]."""
        return self._step(*board.tensors)

    def forget(self) -> None:
        """Nothing is kept."""

    def preparation(self) -> float:
        """Nothing is prepared."""
        return 0.0


class CompiledRunner:
    """Steps through ``torch.compile``, once for all buckets, whose sizes are symbols in the compiled code.

    Args:
        step: The step.
        backend: Of ``torch.compile``.
    """

    def __init__(self, step: Step, backend: str = "inductor") -> None:
        self._call = torch.compile(step.__call__, fullgraph=True, dynamic=True, backend=backend)
        self._seen: set[Board] = set()
        self._seconds = 0.0

    def __call__(self, board: Board) -> Tensor:
        """Hidden states [R, D].

        Raises:
            UsageError: It cannot be compiled here.
        """
        if board in self._seen:
            return self._run(board)
        begin = _now(board)
        out = self._run(board)
        self._seconds += _now(board) - begin
        self._seen.add(board)
        return out

    def _run(self, board: Board) -> Tensor:
        try:
            return self._call(*board.tensors)
        except _compiler_errors() as error:
            why = str(error).strip().split("\n", 1)[0][:200]
            raise UsageError(f"decode=compiled: the step cannot be compiled here: {why}", "decode=eager") from None

    def forget(self) -> None:
        """Compiled code knows no addresses; only the boards are new."""
        self._seen.clear()

    def preparation(self) -> float:
        """Seconds of the first step of every bucket since this was last asked."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


class Recorder(Protocol):
    """Records what a function does to tensors, to do it again on the same memory."""

    def warm_up(self, work: Callable[[], Tensor], times: int) -> None:
        """Run it, apart from other work."""
        ...

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Record it without running it; gives what runs it, and where its result will lie."""
        ...

    def forget(self) -> None:
        """Drop memory that recordings share."""
        ...


class CudaRecorder:
    """CUDA graphs.

    All of them share one pool of memory: a step's result is read before the next one runs, and nothing else has to
    outlive a step. Warming up and recording use the same stream, so that handles that libraries keep per stream exist
    when recording begins.

    Args:
        device: A CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, work: Callable[[], Tensor], times: int) -> None:
        """Run it on the side stream."""
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            for _ in range(times):
                work()
        torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Record it into a graph."""
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile, as readers of images do that pin memory.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            out = work()
        return graph.replay, out

    def forget(self) -> None:
        """A new pool; the old one goes with the last of its graphs."""
        self._pool = torch.cuda.graph_pool_handle()


class RecordedRunner:
    """Steps that are recorded at the first use of a bucket and replayed from then on.

    Warming up writes keys and values of the very tokens that the step then reads, at the same column, so it leaves
    nothing behind that the step does not write again.

    Args:
        step: The step.
        recorder: CUDA graphs, but for tests.
    """

    def __init__(self, step: Step, recorder: Recorder) -> None:
        self._step, self._recorder = step, recorder
        self._recorded: dict[Board, tuple[Callable[[], None], Tensor]] = {}
        self._seconds = 0.0

    def __call__(self, board: Board) -> Tensor:
        """Hidden states [R, D]."""
        if board not in self._recorded:
            begin = _now(board)
            self._recorder.warm_up(lambda: self._step(*board.tensors), WARM_UP)
            self._recorded[board] = self._recorder.record(lambda: self._step(*board.tensors))
            self._seconds += _now(board) - begin
        replay, out = self._recorded[board]
        replay()
        return out

    def forget(self) -> None:
        """Recordings hold the addresses of their boards."""
        self._recorded.clear()
        self._recorder.forget()

    def preparation(self) -> float:
        """Seconds of warming up and recording since this was last asked."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


def resolve(said: str, device: torch.device) -> Decode:
    """How to decode on a device. ``auto`` is CUDA graphs on a CUDA device, and growing keys and values elsewhere.

    Raises:
        UsageError: There is no such way, or not on this device.
    """
    if said == "auto":
        return "graphs" if device.type == "cuda" else "eager"
    if said not in DECODES:
        raise UsageError(f"no way of decoding {said!r}", f"one of: auto, {', '.join(DECODES)}")
    if said == "graphs" and device.type != "cuda":
        raise UsageError(f"decode=graphs needs a CUDA device, this is {device.type}", "decode=auto, or --device cuda")
    return said


def runner(decode: Decode, read: ReadToken, device: torch.device) -> Runner:
    """What runs the steps of one of the ways with buffers that stay."""
    if decode == "compiled":
        return CompiledRunner(Step(read))
    if decode == "graphs":
        return RecordedRunner(Step(read), CudaRecorder(device))
    return PlainRunner(Step(read))


def _compiler_errors() -> tuple[type[Exception], ...]:
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    return TorchDynamoException, FailOnRecompileLimitHit


def _now(board: Board) -> float:
    if board.ids.is_cuda:
        torch.cuda.synchronize(board.ids.device)
    return time.perf_counter()
