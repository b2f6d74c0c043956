"""A stage's model with its optimiser and reference, laid out over the devices."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from lens_bench.lens.modeling import LensModel
from lens_bench.train.config import TrainRecipe
from lens_bench.train.devices import autocast, layout, sharding
from lens_bench.train.lora import inject
from lens_bench.train.muon import MuonAdamW, split_matrices
from lens_bench.train.parameters import freeze, fuses, optimiser_groups
from lens_bench.train.pretrain import make_probe
from lens_bench.train.shards import Twin, divide, frozen_towers
from lens_bench.train.trainee import Outputs, Trainee, frozen_copy


@dataclass(frozen=True, slots=True)
class Assembly:
    """What is trained.

    Attributes:
        trainee: The model behind the wrappers of the devices.
        optimiser: Of what trains.
        reference: The frozen start, for the KL divergence; None where it is not needed or is the model itself.
        lens: The model to sample from, to evaluate and to save, whole inside of ``whole()``.
        whole: Where ranks hold parts of the weights, gathers them for a block that every rank enters.
    """

    trainee: nn.Module
    optimiser: Optimizer
    reference: Trainee | None
    lens: LensModel
    whole: Callable[[], AbstractContextManager[None]]


def assemble(recipe: TrainRecipe, accelerator: Accelerator, lens: LensModel) -> Assembly:
    """Say what trains, copy the reference, and hand both to the devices."""
    if recipe.lora is not None:
        inject(lens, recipe.lora, recipe.seed)
    freeze(lens, recipe)
    if recipe.runtime.gradient_checkpointing:
        lens.qwen.gradient_checkpointing_enable({"use_reentrant": False})
    chunk = recipe.runtime.logits_chunk
    copied = recipe.grpo is not None and recipe.grpo.beta > 0 and recipe.lora is None
    reference = frozen_copy(lens, chunk) if copied else None
    trainee = Trainee(lens, make_probe(recipe, lens.width), chunk).train()
    kind, device = layout(), accelerator.device
    if kind != "fsdp":
        if kind == "deepspeed":
            _autocast(trainee, accelerator, recipe)
        trainee.to(device)  # before its optimiser, which looks at where it is
        trained, optimiser = accelerator.prepare(trainee, _optimiser(trainee, recipe))
        return Assembly(trained, optimiser, reference, lens, nullcontext)
    whole = frozen_towers(lens, recipe.stage)
    twin = Twin(lens, whole, device)
    divide(trainee, whole, device, regather=bool(sharding().reshard_after_forward))
    _autocast(trainee, accelerator, recipe)
    if reference is not None:
        divide(reference, set(), device, regather=True)
    # Made last: it moves the parts, not what they are parts of.
    optimiser = accelerator.prepare_optimizer(_optimiser(trainee, recipe))
    return Assembly(trainee, optimiser, reference, twin.lens, twin.filled)


def _autocast(trainee: Trainee, accelerator: Accelerator, recipe: TrainRecipe) -> None:
    """Let the forward pass have the recipe's precision, as accelerate does for plain devices."""
    forward = trainee.forward

    @wraps(forward)
    def wrapped(*args: Any, **kwargs: Any) -> Outputs | Tensor:
        # With a cache a copy of every layer would stay until the end of the pass, whole.
        with autocast(accelerator, recipe, cache=False):
            out = forward(*args, **kwargs)
        # FSDP gathers weights on the way back where a result is asked for its gradient, and warns of views.
        masks = out.masks if isinstance(out, Outputs) else None
        return replace(out, masks=masks.clone()) if isinstance(out, Outputs) and masks is not None else out

    trainee.forward = wrapped  # type: ignore[method-assign]


def _optimiser(trainee: Trainee, recipe: TrainRecipe) -> Optimizer:
    settings = recipe.optimiser
    groups = optimiser_groups(trainee.lens, trainee.probe, recipe)
    kind = MuonAdamW if settings.muon else AdamW
    parameters = (parameter for parameter in trainee.parameters() if parameter.requires_grad)
    return kind(
        split_matrices(groups, settings.muon) if settings.muon else groups,
        betas=settings.betas,
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
        # None: as torch chooses.
        fused=True if fuses(parameters) else None,
    )
