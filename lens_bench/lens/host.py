"""What images and masks cost outside the model, in threads: resizing before it, run-length encoding behind it.

Both are numpy, Pillow and OpenCV on large arrays, which let other threads run. With a GPU, pixels lie in pinned memory,
so that a copy goes on while the model works, and a mask is turned to columns on the device, where that is free.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import torch
from torch import Tensor

from lens_bench import masks
from lens_bench.lens.images import Patching, Prepared, prepare
from lens_bench.lens.recipe import Recipe
from lens_bench.records import Pixels, Rle

_THREADS = min(8, os.cpu_count() or 1)
_WAITING = 64  # masks held dense


class Host:
    """Threads beside one model on ``device``. Results are those of doing the work in place."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="host")
        self._waiting: deque[Future[Rle]] = deque()

    def prepare(self, images: Sequence[Pixels], recipe: Recipe, patching: Patching, sam_size: int) -> list[Prepared]:
        """``images.prepare`` of every image, in order; pinned where the model is on a GPU.

        Raises:
            DataError: An image cannot be asked about.
        """

        def one(pixels: Pixels) -> Prepared:
            made = prepare(pixels, recipe, patching, sam_size)
            if self._cuda:
                made = replace(made, patches=made.patches.pin_memory(), square=made.square.pin_memory())
            return made

        return list(self._threads.map(one, images))

    def encode(self, mask: Tensor) -> Future[Rle]:
        """Encode a bool mask [H, W] of any device, which must not be written to afterwards."""
        while len(self._waiting) >= _WAITING:
            # Waited for, not asked: an error belongs to whoever holds that future, not to a later call.
            self._waiting.popleft().exception()
        future = self._threads.submit(_encode, *self._to_host(mask))
        self._waiting.append(future)
        return future

    def _to_host(self, mask: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        """The columns of the mask in host memory, and the event after which they are there."""
        columns = mask.T
        if not self._cuda:
            return columns, None
        columns = columns.contiguous()
        landed = torch.empty(columns.shape, dtype=columns.dtype, pin_memory=True)
        landed.copy_(columns, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(mask.device))
        return landed, event


def _encode(columns: Tensor, event: torch.cuda.Event | None) -> Rle:
    if event is not None:
        event.synchronize()
    return masks.encode(columns.numpy().T)
