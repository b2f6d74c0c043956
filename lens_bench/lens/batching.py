"""Batches by length, rows of unequal length side by side, and what to do when they do not fit.

Results never depend on the batch (that is tested); only memory and speed do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from lens_bench.errors import LensBenchError, OutOfMemoryError
from lens_bench.lens.config import whole
from lens_bench.out_of_memory import count_halving, free_cached_memory, is_out_of_memory

Item = TypeVar("Item")
Result = TypeVar("Result")


class Budget:
    """How many items a stage takes at once. Halved when memory runs out, for good; never raised.

    Args:
        size: Where to begin.
        what: Name of the stage for the message.
    """

    def __init__(self, size: int, what: str) -> None:
        if size < 1:
            raise ValueError(f"batch size {size} of {what}")
        self.size = size
        self.what = what

    def run(
        self,
        items: Sequence[Item],
        work: Callable[[Sequence[Item]], Sequence[Result]],
        length: Callable[[Item], int] | None = None,
    ) -> list[Result]:
        """Work through items in batches of similar length; results in the order of the items.

        A batch that runs out of memory is done again in halves, so ``work`` must not leave traces when it fails.

        Raises:
            OutOfMemoryError: A single item does not fit.
        """
        order = list(range(len(items)))
        if length is not None:
            order.sort(key=lambda i: -length(items[i]))
        out: dict[int, Result] = {}
        at = 0
        while at < len(order):
            batch = order[at : at + self.size]
            try:
                results = work([items[i] for i in batch])
            except (MemoryError, RuntimeError, OSError, LensBenchError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(batch) == 1:
                    if isinstance(error, OutOfMemoryError):  # of a budget inside this one, which says what did not fit
                        raise
                    raise OutOfMemoryError(
                        f"{self.what}: one item does not fit into memory", "lower the image size or dtype"
                    ) from error
                results = None
            if results is None:  # the exception is gone here, and with it the tensors of its traceback
                self.size = max(1, len(batch) // 2)
                count_halving(self.what)
                free_cached_memory()
                continue
            out.update(zip(batch, results, strict=True))
            at += len(batch)
        return [out[i] for i in range(len(items))]


def row_budget(device: torch.device, bytes_per_row: int, cap: int = 512) -> int:
    """Rows to begin with: what fits into half of the free device memory, or 64 on the CPU.

    What torch keeps for later is free: in a training it is most of the device.
    """
    if device.type != "cuda":
        return min(cap, 64)
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(1, min(cap, int(free * 0.5) // max(1, bytes_per_row)))


def row_bytes(config: object, dtype: torch.dtype, tokens: int) -> int:
    """Keys and values of a row of ``tokens`` tokens, and as much again for what a step needs beside them.

    Args:
        config: transformers' configuration of the language model.
        dtype: Of keys and values.
        tokens: Of the row.
    """
    heads = whole(config, "num_attention_heads")
    # Not every family has these two, or sets them.
    kept = int(getattr(config, "num_key_value_heads", None) or heads)
    width = int(getattr(config, "head_dim", None) or whole(config, "hidden_size") // heads)
    return 4 * whole(config, "num_hidden_layers") * kept * width * tokens * dtype.itemsize


def padded_rows(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Rows of token ids, padded on the right to the longest: ids [B, Q], 0 where there is none, and bool [B, Q]."""
    longest = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    real = torch.zeros(len(rows), longest, dtype=torch.bool)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row, dtype=torch.long)
        real[place, : len(row)] = True
    return ids, real
