"""Means that are exact over micro batches and ranks: sums and counts are added up, and divided once at the end."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor


class Meter:
    """Sums and counts by name."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, float] = {}

    def add(self, name: str, total: Tensor | float, count: float = 1.0) -> None:
        """Add a sum over ``count`` things."""
        self._sums[name] = self._sums.get(name, 0.0) + float(total)
        self._counts[name] = self._counts.get(name, 0.0) + float(count)

    def means(self, accelerator: Accelerator) -> Mapping[str, float]:
        """The mean of every name over all ranks, which must have the same names; starts anew.

        A name of which nothing came on any rank has no mean and is left out.
        """
        names = sorted(self._sums)
        table = torch.tensor([[self._sums[n], self._counts[n]] for n in names], dtype=torch.float64)
        if accelerator.num_processes > 1:
            table = accelerator.reduce(table.to(accelerator.device), reduction="sum").cpu()
        self._sums, self._counts = {}, {}
        return {n: float(total / count) for n, (total, count) in zip(names, table.tolist(), strict=True) if count}


def summed(accelerator: Accelerator, value: int) -> int:
    """A whole number summed over all ranks."""
    if accelerator.num_processes == 1:
        return value
    return int(accelerator.reduce(torch.tensor(value, device=accelerator.device), reduction="sum").item())
