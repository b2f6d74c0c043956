"""Devices and ranks as ``accelerate launch`` set them up, and how a model lies on them.

What is not known to work is refused here, before anything is loaded.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Literal, TypeAlias, TypeVar, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DeepSpeedPlugin,
    FullyShardedDataParallelPlugin,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    broadcast_object_list,
)
from torch.distributed.fsdp import CPUOffloadPolicy

from lens_bench.errors import LensBenchError, RunError, UsageError
from lens_bench.train.config import TrainRecipe

# How long a process waits for the others. The first one alone makes data and writes checkpoints, 46 GB for LENS-3B:
# that fits at 13 MB/s. torch's default for NCCL is 10 minutes.
PATIENCE = timedelta(hours=1)
# A model whole on every rank; divided over them; or whole, with gradients and moments divided.
Layout: TypeAlias = Literal["plain", "fsdp", "deepspeed"]
T = TypeVar("T")
_FSDP = "see lens_bench/train/recipes/accelerate/fsdp.yaml"
_DEEPSPEED = "see lens_bench/train/recipes/accelerate/deepspeed-zero2.yaml"


def layout() -> Layout:
    """What ``accelerate launch`` was told. accelerate itself knows FSDP and DeepSpeed on GPUs only."""
    for name in ("fsdp", "deepspeed"):
        if os.environ.get(f"ACCELERATE_USE_{name.upper()}", "false").lower() == "true":
            return "fsdp" if name == "fsdp" else "deepspeed"
    return "plain"


def make_accelerator(recipe: TrainRecipe) -> Accelerator:
    """Devices and ranks, with the recipe's precision and accumulation.

    Raises:
        UsageError: A step does not divide by ranks and micro batches, or the recipe does not fit how it was launched.
    """
    kind, cuda = layout(), torch.cuda.is_available()
    if kind == "deepspeed" and importlib.util.find_spec("deepspeed") is None:
        raise UsageError("DeepSpeed is asked for, and is not installed here", "pip install deepspeed")
    # One process trains the stages of a chain, which may differ in precision; accelerate keeps the first one's.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        # DeepSpeed would cast the weights themselves.
        mixed_precision="no" if kind == "deepspeed" else recipe.runtime.precision,
        cpu=not cuda and kind != "deepspeed",
        # Divided gradients are summed behind every micro batch; else they would be kept whole up to the last one.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1, sync_each_batch=kind != "plain"),
        kwargs_handlers=[
            InitProcessGroupKwargs(backend="gloo" if kind == "deepspeed" and not cuda else None, timeout=PATIENCE)
        ],
    )
    units, world = recipe.batch.units, accelerator.num_processes
    if units % world:
        raise UsageError(
            f"a step of {units} units does not divide by {world} processes",
            "launch a number of processes that divides it; a training that is not begun yet may change batch.units",
        )
    share, rest = divmod(units // world, recipe.batch.micro)
    if rest:
        raise UsageError(
            f"{units // world} units, the share of each of {world} processes, do not divide by batch.micro "
            f"({recipe.batch.micro})",
            f"e.g. --set batch.micro={math.gcd(units // world, recipe.batch.micro)}",
        )
    accelerator.gradient_accumulation_steps = share
    if kind != "plain":
        _require_divisible(recipe, accelerator.num_processes)
    if kind == "fsdp":
        _require_fsdp(sharding())
    if kind == "deepspeed":
        _set_deepspeed(accelerator.state.deepspeed_plugin, recipe, share)
    return accelerator


def autocast(accelerator: Accelerator, recipe: TrainRecipe, *, cache: bool = True) -> torch.autocast:
    """The recipe's precision for a block. ``cache``: keep what weights were cast to until the end of the block."""
    half = recipe.runtime.precision == "bf16"
    return torch.autocast(accelerator.device.type, torch.bfloat16, enabled=half, cache_enabled=cache)


def sharding() -> FullyShardedDataParallelPlugin:
    """The configuration of FSDP that this was launched with."""
    return FullyShardedDataParallelPlugin()


def _require_divisible(recipe: TrainRecipe, world: int) -> None:
    """Raise ``UsageError`` for what neither FSDP nor DeepSpeed can train."""
    plain = "launch it without FSDP and DeepSpeed"
    if world == 1:
        raise UsageError("FSDP and DeepSpeed divide over several processes, and there is one", plain)
    if recipe.stage in ("sam", "vision"):
        raise UsageError(f"stage {recipe.stage} trains small parts, and is offered on plain devices only", plain)
    if recipe.optimiser.muon:
        raise UsageError(
            "Muon needs whole matrices, and FSDP and DeepSpeed divide them",
            f"{plain}; a training that is not begun yet may set optimiser.muon=[]",
        )


def _require_fsdp(plugin: FullyShardedDataParallelPlugin) -> None:
    """Raise ``UsageError`` where FSDP is asked for in a way that is not offered."""
    if plugin.fsdp_version != 2:
        raise UsageError("the first version of FSDP is not offered: set fsdp_version to 2", _FSDP)
    if isinstance(plugin.cpu_offload, CPUOffloadPolicy):
        raise UsageError("weights on the host are not offered: set fsdp_offload_params to false", _FSDP)
    if plugin.activation_checkpointing:
        raise UsageError(
            "fsdp_activation_checkpointing is not offered", "set runtime.gradient_checkpointing of the recipe instead"
        )


def _set_deepspeed(plugin: DeepSpeedPlugin, recipe: TrainRecipe, share: int) -> None:
    """Tell DeepSpeed what the recipe says; raise ``UsageError`` where it is told something else."""
    config = plugin.deepspeed_config
    if plugin.zero_stage not in (1, 2):
        raise UsageError(f"ZeRO-{plugin.zero_stage} is not offered: ZeRO-1 and 2 are; FSDP divides weights", _FSDP)
    if "none" not in (plugin.offload_optimizer_device or "none"):
        raise UsageError("an optimizer on the host is not offered: set offload_optimizer_device to none", _DEEPSPEED)
    for key in ("optimizer", "scheduler"):
        if key in config:
            raise UsageError(f"DeepSpeed's configuration has its own {key}; the recipe says what it is", _DEEPSPEED)
    for key in ("bf16", "fp16"):
        if config.get(key, {}).get("enabled") is True:
            raise UsageError(f"DeepSpeed's configuration sets {key}; the recipe's runtime.precision counts", _DEEPSPEED)
    config["gradient_accumulation_steps"] = share
    config["train_micro_batch_size_per_gpu"] = recipe.batch.micro
    config["gradient_clipping"] = recipe.optimiser.max_norm


def from_first(accelerator: Accelerator, act: Callable[[], T]) -> T:
    """What the first rank computes, on every rank.

    Raises:
        LensBenchError: What the first rank raised.
    """
    found: list[T] = []
    agreed(accelerator, lambda: found.append(act()))
    if accelerator.num_processes == 1:
        return found[0]
    told: list[T | None] = [found[0] if found else None]
    broadcast_object_list(told)
    return cast("T", told[0])


def agreed(accelerator: Accelerator, act: Callable[[], object]) -> None:
    """Let the first rank do something; where it refuses, every rank ends with its message instead of waiting for it.

    Raises:
        LensBenchError: What the first rank raised; a ``RunError`` where the system refused something.
    """
    refused: list[LensBenchError | None] = [None]
    if accelerator.is_main_process:
        try:
            act()
        except LensBenchError as error:
            refused[0] = error
        except OSError as error:
            place = f" {error.filename}" if error.filename else ""
            refused[0] = RunError(f"the system refused{place}: {error.strerror or error}")
    if accelerator.num_processes > 1:
        told = [None if refused[0] is None else (type(refused[0]), refused[0].message, refused[0].hint)]
        broadcast_object_list(told)
        if told[0] is not None and refused[0] is None:
            kind, message, hint = told[0]
            refused[0] = kind(f"the first process refused: {message}", hint)
    if refused[0] is not None:
        raise refused[0]
