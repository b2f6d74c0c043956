"""The language model over several devices, for checkpoints that do not fit one: 13B in bfloat16 on cards of 24 GB.

LLaMA's blocks are divided into consecutive runs, one for each device, and states are moved where a run ends. Everything
else (embeddings, output layer, vision tower, head, SAM) lies on the first device, which gets fewer blocks for it. One
device works at a time: this buys room, not speed. For speed there are workers, each with its own devices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lens_bench.errors import UsageError


@dataclass(frozen=True, slots=True)
class Spread:
    """Where the blocks lie.

    Attributes:
        first: Device of everything that is no block.
        blocks: Device of each block, in order.
    """

    first: torch.device
    blocks: tuple[torch.device, ...]

    @staticmethod
    def of(devices: Sequence[str | torch.device], block_bytes: Sequence[int], other_bytes: int) -> Spread:
        """Divide blocks so that every device holds about the same.

        Args:
            devices: At least one; the first also holds what is no block.
            block_bytes: Of each block.
            other_bytes: Of everything else.
        """
        share = (sum(block_bytes) + other_bytes) / len(devices)
        held, place, blocks = float(other_bytes), 0, []
        for size in block_bytes:
            # A block goes on to the next device where more than half of it would be beyond the share.
            while place + 1 < len(devices) and held + size / 2 > share * (place + 1):
                place += 1
            held += size
            blocks.append(torch.device(devices[place]))
        return Spread(torch.device(devices[0]), tuple(blocks))

    def place(self, name: str, blocks: str) -> torch.device:
        """Device of a tensor, where names of blocks begin with ``blocks`` and a number."""
        if not name.startswith(blocks):
            return self.first
        return self.blocks[int(name.removeprefix(blocks).partition(".")[0])]


def devices_of(device: str, count: int) -> tuple[str, ...]:
    """``count`` devices beginning with this one.

    Raises:
        UsageError: There are not so many.
    """
    if count == 1:
        return (device,)
    kind, _, index = device.partition(":")
    if kind != "cuda":
        raise UsageError(f"--model-arg devices={count} needs GPUs, and --device is {device}")
    first, there = int(index or 0), torch.cuda.device_count()
    if first + count > there:
        raise UsageError(
            f"--model-arg devices={count}: this process sees {there} GPUs",
            f"with --workers, --gpus-per-worker {count} gives each so many",
        )
    return tuple(f"cuda:{n}" for n in range(first, first + count))


def connect(blocks: nn.ModuleList, norm: nn.Module, spread: Spread) -> None:
    """Have every block, and the norm behind the last, move what it is given to where it lies."""
    for block, device in zip(blocks, spread.blocks, strict=True):
        _moving(block, device)
    _moving(norm, spread.first)


def _moving(module: nn.Module, device: torch.device) -> None:
    def move(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> tuple[object, dict[str, object]]:
        return _moved(args, device), {name: _moved(value, device) for name, value in kwargs.items()}

    module.register_forward_pre_hook(move, with_kwargs=True)


def _moved(value: object, device: torch.device) -> object:
    """Tensors, also in tuples, lists and mappings, on the device; anything else (a cache) as it is."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple | list):
        return type(value)(_moved(item, device) for item in value)
    if isinstance(value, Mapping):
        return {key: _moved(item, device) for key, item in value.items()}
    return value
