"""Keys and values of a batch, in buffers that rows of different images and lengths share.

Rows keep their own gaps: a boolean table says which columns of a row hold something real, and attention masks are made
from it. So the prefix of an image is copied, never computed again, and nothing has to be aligned.

transformers' attention layers call ``update`` and nothing else of a cache when positions and masks are passed
explicitly, so this is not a subclass of its ``Cache``, whose bookkeeping assumes rows of equal length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

GROWTH = 64
# Keys and values of one layer, [B, H, columns, d] each.
Buffers: TypeAlias = tuple[Tensor, Tensor]


class Cache(Protocol):
    """What transformers' attention layers ask of a cache."""

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Store the new columns of one layer, [B, H, Q, d] each, and return all columns."""
        ...


@dataclass(frozen=True, slots=True)
class Prefix:
    """Keys and values of one image's prompt prefix, ready to be copied into rows.

    Attributes:
        keys: Per layer [H, P, d].
        values: Per layer [H, P, d].
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def length(self) -> int:
        """Tokens of the prefix."""
        return int(self.keys[0].shape[1])


class KeyValues:
    """Growing keys and values of B rows.

    Attributes:
        real: Bool [B, columns]: which columns of a row may be attended to.
    """

    def __init__(self, layers: int, real: Tensor) -> None:
        self.real = real
        self._keys: list[Tensor | None] = [None] * layers
        self._values: list[Tensor | None] = [None] * layers
        self._start = 0

    @staticmethod
    def empty(layers: int, rows: int, device: torch.device) -> KeyValues:
        """Nothing yet."""
        return KeyValues(layers, torch.zeros(rows, 0, dtype=torch.bool, device=device))

    @staticmethod
    def of_prefixes(prefixes: Sequence[Prefix], reserve: int, room: Sequence[Buffers] | None = None) -> KeyValues:
        """Rows that begin with the given prefixes, shorter ones with a gap behind.

        Args:
            prefixes: One per row; the same object may stand in several rows.
            reserve: Columns to make room for, so that nothing is copied again soon.
            room: Per layer, zeros of the rows to write into, with at least as many columns; by default new ones.
        """
        length = max(p.length for p in prefixes)
        first = prefixes[0].keys[0]
        real = torch.zeros(len(prefixes), length, dtype=torch.bool, device=first.device)
        for row, prefix in enumerate(prefixes):
            real[row, : prefix.length] = True
        out = KeyValues(len(prefixes[0].keys), real)
        shape = (len(prefixes), first.shape[0], length + reserve, first.shape[2])
        for layer in range(len(out._keys)):
            like = prefixes[0].keys[layer]  # layers may lie on different devices
            keys, values = (like.new_zeros(shape), like.new_zeros(shape)) if room is None else room[layer]
            for row, prefix in enumerate(prefixes):
                keys[row, :, : prefix.length] = prefix.keys[layer]
                values[row, :, : prefix.length] = prefix.values[layer]
            out._keys[layer], out._values[layer] = keys, values
        return out

    @staticmethod
    def within(room: Sequence[Buffers], real: Tensor) -> KeyValues:
        """What the first columns of the given buffers hold, one for each of ``real``, bool [B, columns]."""
        out = KeyValues(len(room), real)
        out._keys, out._values = [k for k, _ in room], [v for _, v in room]
        return out

    @property
    def columns(self) -> int:
        """Columns in use."""
        return int(self.real.shape[1])

    def open(self, real: Tensor) -> Tensor:
        """Announce Q new columns and say which are real, bool [B, Q]; returns the attention mask [B, 1, Q, K].

        A new token sees the real columns before it and, whatever it is, itself, so that no row of the mask is empty.
        """
        rows, count = real.shape
        self._start = self.columns
        self.real = torch.cat([self.real, real], dim=1)
        causal = torch.ones(count, count, dtype=torch.bool, device=real.device).tril()
        own = torch.eye(count, dtype=torch.bool, device=real.device)
        past = self.real[:, None, : self._start].expand(rows, count, -1)
        new = (real[:, None, :] & causal) | own
        return torch.cat([past, new], dim=2).unsqueeze(1)

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Store the new columns of one layer, [B, H, Q, d] each, and return all columns in use.

        The signature is the one transformers' attention layers call.
        """
        end = self._start + keys.shape[2]
        held_keys = self._room(self._keys[layer], keys, end)
        held_values = self._room(self._values[layer], values, end)
        held_keys[:, :, self._start : end] = keys
        held_values[:, :, self._start : end] = values
        self._keys[layer], self._values[layer] = held_keys, held_values
        return held_keys[:, :, :end], held_values[:, :, :end]

    def _room(self, held: Tensor | None, new: Tensor, end: int) -> Tensor:
        if held is None:
            return new.new_zeros(new.shape[0], new.shape[1], end, new.shape[3])
        if held.shape[2] >= end:
            return held
        extra = new.new_zeros(new.shape[0], new.shape[1], end - held.shape[2] + GROWTH, new.shape[3])
        return torch.cat([held, extra], dim=2)

    def select(self, rows: Tensor) -> KeyValues:
        """A copy with the given rows [N] only."""
        out = KeyValues(len(self._keys), self.real[rows])
        out._keys = [None if k is None else k[rows.to(k.device)] for k in self._keys]
        out._values = [None if v is None else v[rows.to(v.device)] for v in self._values]
        return out

    def prefix(self, row: int) -> Prefix:
        """Keys and values of one row's real columns."""
        real = self.real[row]
        keys = [k[row][:, : len(real)][:, real.to(k.device)] for k in self._keys if k is not None]
        values = [v[row][:, : len(real)][:, real.to(v.device)] for v in self._values if v is not None]
        return Prefix(tuple(keys), tuple(values))
