"""The language model over several devices, for checkpoints that do not fit one: 13B in bfloat16 on cards of 24 GB.

Its blocks are divided into consecutive runs, one for each device, and states are moved where a run ends. Everything
else (embeddings, output layer, vision tower, head, SAM) lies on the first device, which gets fewer blocks for it. One
device works at a time: this buys room, not speed. For speed there are workers, each with its own devices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lens_bench.errors import UsageError
from lens_bench.lens.quantise import Bits


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

    @staticmethod
    def over(devices: Sequence[str | torch.device], blocks: nn.ModuleList, whole: nn.Module) -> Spread:
        """Divide the blocks of a model, which may lie on the meta device, by how many weights each has."""
        sizes = [sum(p.numel() for p in block.parameters()) for block in blocks]
        return Spread.of(devices, sizes, sum(p.numel() for p in whole.parameters()) - sum(sizes))

    def place(self, name: str, blocks: str) -> torch.device:
        """Device of a tensor, where names of blocks begin with ``blocks`` and a number."""
        if not name.startswith(blocks):
            return self.first
        return self.blocks[int(name.removeprefix(blocks).partition(".")[0])]


def devices_of(device: str, count: object) -> tuple[str, ...]:
    """``count`` devices beginning with this one, as argument ``devices`` of a card says.

    Raises:
        UsageError: There are not so many, or it is no number of devices.
    """
    if not isinstance(count, int) or count < 1:
        raise UsageError(f"--model-arg devices={count}: a whole number of at least 1 is needed")
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


def notes_of(devices: Sequence[object], blocks: nn.ModuleList) -> tuple[str, ...]:
    """What a load report says of blocks, by where they really lie; nothing where one device was asked for."""
    if len(devices) == 1:
        return ()
    count = Counter(str(next(block.parameters()).device) for block in blocks)
    shares = ", ".join(f"{device}: {number}" for device, number in count.items())
    return (f"the language model's blocks are spread over {len(devices)} devices ({shares})",)


def check_whole(bits: Bits | None, devices: Sequence[object]) -> None:
    """Refuse to spread quantised blocks.

    Raises:
        UsageError: They are to be.
    """
    if bits and len(devices) > 1:
        raise UsageError(f"blocks held in {bits} are not spread over devices", "take load_in or devices, not both")


def scatter(whole: nn.Module, language: nn.Module, devices: Sequence[str]) -> tuple[str, ...]:
    """Move a model to its devices, blocks to theirs, and connect them; gives the notes of a load report.

    Args:
        whole: The model.
        language: The part of it that has ``layers``, and a ``norm`` behind them; any other where there is one device.
        devices: At least one.

    Raises:
        UsageError: The language model is not of this kind.
    """
    if len(devices) == 1:
        whole.to(torch.device(devices[0]))
        return ()
    blocks, _ = parts_of(language)
    spread = Spread.over(devices, blocks, whole)
    # Moved without its blocks, so that the first device never holds more than its share.
    language.layers = nn.ModuleList()
    whole.to(spread.first)
    language.layers = blocks
    for block, device in zip(blocks, spread.blocks, strict=True):
        block.to(device)
    return link(language, spread, devices)


def parts_of(language: nn.Module) -> tuple[nn.ModuleList, nn.Module]:
    """Blocks of a language model, and the norm behind them.

    Raises:
        UsageError: It has none.
    """
    blocks, norm = getattr(language, "layers", None), getattr(language, "norm", None)
    if not isinstance(blocks, nn.ModuleList) or not isinstance(norm, nn.Module):
        raise UsageError(f"a {type(language).__name__} cannot be spread over devices", "leave out --model-arg devices")
    return blocks, norm


def name_of(blocks: nn.ModuleList, whole: nn.Module) -> str:
    """What the names of blocks begin with among a model's tensors, up to the number."""
    return next(f"{name}." for name, module in whole.named_modules() if module is blocks)


def link(language: nn.Module, spread: Spread, devices: Sequence[object]) -> tuple[str, ...]:
    """Connect the blocks of a language model that lie where ``spread`` says; gives the notes of a load report."""
    if len(devices) == 1:
        return ()
    blocks, norm = parts_of(language)
    connect(blocks, norm, spread)
    return notes_of(devices, blocks)


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
