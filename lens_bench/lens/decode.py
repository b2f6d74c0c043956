"""Reading one new token per row: on keys and values that grow, or on buffers whose shapes and addresses stay.

Buffers that stay cost attention over columns not yet written, and rows are filled up to one of a few sizes; in return
a step is the same sequence of kernels every time, which can be compiled once or recorded and replayed
(``lens_bench.lens.steps``). What is masked is masked alike in both, so results agree to the last digits but for the
order in which a kernel sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lens_bench.lens.cache import Buffers, KeyValues, Prefix
from lens_bench.lens.steps import Board, ReadToken, Runner

# Columns to reserve for answers where keys and values can grow: most end within.
SOON = 64


class Decoder(Protocol):
    """Holds the keys and values of a batch and reads one token per row at a time."""

    def begin(self, prefixes: Sequence[Prefix], fixed: int, answer: int) -> KeyValues:
        """Rows behind their prefixes.

        Args:
            prefixes: One per row.
            fixed: Columns that will be needed beside answers.
            answer: Longest answer.
        """
        ...

    def feed(self, cache: KeyValues, ids: Tensor, live: Tensor, positions: Tensor) -> Tensor:
        """Read one token per row; hidden states [B, D].

        Args:
            cache: Of ``begin`` or ``keep``.
            ids: [B, 1].
            live: Bool [B, 1]; a row that is not leaves no trace.
            positions: [B] of the tokens.
        """
        ...

    def keep(self, cache: KeyValues, rows: Tensor) -> KeyValues:
        """The given rows [N], in ascending order; ``cache`` is not used any more."""
        ...

    def release(self) -> None:
        """Give back memory that is held between batches."""
        ...

    def preparation(self) -> float:
        """Seconds spent on compiling or recording since this was last asked."""
        ...


class GrowingDecoder:
    """Keys and values that grow with the answers; every step has its own shape.

    Args:
        read: Runs the model.
    """

    def __init__(self, read: ReadToken) -> None:
        self._read = read

    def begin(self, prefixes: Sequence[Prefix], fixed: int, answer: int) -> KeyValues:
        """Rows behind their prefixes, in new buffers."""
        return KeyValues.of_prefixes(prefixes, fixed + min(SOON, answer))

    def feed(self, cache: KeyValues, ids: Tensor, live: Tensor, positions: Tensor) -> Tensor:
        """Read one token per row."""
        return self._read(ids, positions, cache.open(live), cache)

    def keep(self, cache: KeyValues, rows: Tensor) -> KeyValues:
        """A copy of the given rows."""
        return cache.select(rows)

    def release(self) -> None:
        """Nothing is held between batches."""

    def preparation(self) -> float:
        """Nothing is prepared."""
        return 0.0


@dataclass(frozen=True, slots=True)
class Buckets:
    """The sizes that steps come in.

    Attributes:
        least: Fewest rows.
        step: Columns are a multiple of it.
    """

    least: int = 8
    step: int = 256

    def rows(self, count: int) -> int:
        """The next size: a power of two, or one and a half times one."""
        power = 1 << max(0, max(count, self.least) - 1).bit_length()
        between = power * 3 // 4
        return between if power >= 4 and between >= max(count, self.least) else power

    def columns(self, count: int) -> int:
        """The next size."""
        return -(-count // self.step) * self.step


class StaticDecoder:
    """Keys and values in one slab that serves every batch; a step reads the rows and columns of its bucket.

    Rows lie at the top of the slab. Those that are finished are left there until half are, and the others then move up,
    so that steps get cheaper in a few sizes. The slab grows when a batch needs more, and then all steps are prepared
    again.

    Args:
        runner: Runs a step on the tensors of a bucket.
        buckets: The sizes.
    """

    def __init__(self, runner: Runner, buckets: Buckets | None = None) -> None:
        self._runner = runner
        self._buckets = buckets or Buckets()
        self._slab: _Slab | None = None

    def begin(self, prefixes: Sequence[Prefix], fixed: int, answer: int) -> KeyValues:
        """Rows behind their prefixes, at the top of the slab."""
        rows = self._buckets.rows(len(prefixes))
        columns = self._buckets.columns(max(p.length for p in prefixes) + fixed + answer)
        held = self._slab
        if held is None or held.rows < rows or held.columns < columns:
            if held is not None:
                rows, columns = max(rows, held.rows), max(columns, held.columns)
            held = None
            self.release()
            self._slab = held = _Slab(prefixes[0], rows, columns)
        held.clear(self._buckets.rows(len(prefixes)))
        return KeyValues.of_prefixes(prefixes, fixed + answer, held.top(len(prefixes)))

    def feed(self, cache: KeyValues, ids: Tensor, live: Tensor, positions: Tensor) -> Tensor:
        """Read one token per row."""
        mask = cache.open(live)
        rows, columns = mask.shape[0], mask.shape[3]
        board = self._held().board(self._buckets.rows(rows), self._buckets.columns(columns))
        board.ids[:rows] = ids
        board.positions[:rows] = positions
        board.mask.zero_()
        board.mask[:rows, :, :, :columns] = mask
        # Rows that fill up the bucket see their own token alone: attention over nothing is not a number.
        board.mask[rows:, :, :, columns - 1] = True
        board.column.fill_(columns - 1)
        return self._runner(board)[:rows].clone()

    def keep(self, cache: KeyValues, rows: Tensor) -> KeyValues:
        """Move the given rows up."""
        used, room = cache.columns, self._held().top(len(rows))
        for (keys, values), (all_keys, all_values) in zip(room, self._held().layers, strict=True):
            keys[:, :, :used] = all_keys[rows, :, :used]
            values[:, :, :used] = all_values[rows, :, :used]
        return KeyValues.within(room, cache.real[rows])

    def release(self) -> None:
        """Give back the slab, and with it every prepared step."""
        self._runner.forget()
        self._slab = None

    def preparation(self) -> float:
        """Seconds spent on compiling or recording since this was last asked."""
        return self._runner.preparation()

    def _held(self) -> _Slab:
        if self._slab is None:
            raise ValueError("no batch was begun")
        return self._slab


class _Slab:
    """Buffers of a fixed size and the tensors that steps of each bucket see; all of them views of the same memory."""

    def __init__(self, like: Prefix, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        first = like.keys[0]
        shape = (rows, first.shape[0], columns, first.shape[2])
        self.layers: list[Buffers] = [(first.new_zeros(shape), first.new_zeros(shape)) for _ in like.keys]
        self._ids = torch.zeros(rows, 1, dtype=torch.long, device=first.device)
        self._positions = torch.zeros(rows, dtype=torch.long, device=first.device)
        self._mask = torch.zeros(rows, 1, 1, columns, dtype=torch.bool, device=first.device)
        self._column = torch.zeros(1, dtype=torch.long, device=first.device)
        self._boards: dict[tuple[int, int], Board] = {}

    def clear(self, rows: int) -> None:
        """Zeros in the top rows: what is masked is multiplied by nought, which an infinity would survive."""
        for keys, values in self.layers:
            keys[:rows].zero_()
            values[:rows].zero_()

    def top(self, rows: int) -> list[Buffers]:
        """The first rows, in all their columns."""
        return [(keys[:rows], values[:rows]) for keys, values in self.layers]

    def board(self, rows: int, columns: int) -> Board:
        """What a step of this bucket sees; the same object every time."""
        key = (rows, columns)
        if key not in self._boards:
            self._boards[key] = Board(
                self._ids[:rows],
                self._positions[:rows],
                self._mask[:rows, :, :, :columns],
                self._column,
                tuple(keys[:rows, :, :columns] for keys, _ in self.layers),
                tuple(values[:rows, :, :columns] for _, values in self.layers),
            )
        return self._boards[key]
