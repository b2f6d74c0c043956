"""Weights in parts (FSDP): a rank holds its share of every tensor; a layer is gathered while it is passed.

``fully_shard`` is torch's and is called here, not by accelerate: accelerate divides models on GPUs only, and here a CPU
does the same; frozen towers stay whole, so that their features can be computed and kept image by image; and arithmetic
stays autocast's, as on one device, so that policy, reference and sampler still agree.

Gathering is a thing that all ranks do together. A training step passes every layer equally often on every rank;
sampling and evaluation do not, because answers differ in length, and ranks would wait for each other for ever. So
these, and saving, read a ``Twin``, which is given all weights at once and lets go of them afterwards.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from lens_bench.lens.modeling import LensModel
from lens_bench.train.config import Stage
from lens_bench.train.parameters import group_of
from lens_bench.train.trainee import Trainee


class Twin:
    """The same model without weights of its own. Make it before the model is divided.

    What stays whole is shared with the model. Filled, it takes as much memory on every rank as the whole model.

    Args:
        model: Sampled from, evaluated, saved.
        whole: Parameters that will stay whole.
        device: Where weights are gathered.
    """

    def __init__(self, model: LensModel, whole: set[nn.Parameter], device: torch.device) -> None:
        self._model = model
        memo: dict[int, Tensor] = {id(b): b for b in model.buffers()} | {id(p): p for p in whole}
        for parameter in model.parameters():
            empty = torch.empty(0, dtype=parameter.dtype, device=device)
            memo.setdefault(id(parameter), nn.Parameter(empty, requires_grad=parameter.requires_grad))
        self.lens = copy.deepcopy(model, memo)
        self._hollow = {name: p for name, p in self.lens.named_parameters() if p not in whole}

    @contextmanager
    def filled(self) -> Iterator[None]:
        """All weights, as they are now, for the time of the block. Every rank must enter it."""
        for module in self._model.modules():
            # Behind a pass without gradients the outermost weights are still gathered.
            if isinstance(module, FSDPModule):
                module.reshard()
        divided = dict(self._model.named_parameters())
        for name, parameter in self._hollow.items():
            parameter.data = full(divided[name])
        try:
            yield
        finally:
            for parameter in self._hollow.values():
                parameter.data = parameter.data.new_empty(0)


def frozen_towers(lens: LensModel, stage: Stage) -> set[nn.Parameter]:
    """The parameters of towers that do not train: small beside the language model, and run one image at a time."""
    towers = ("vision", "sam_image")
    return {p for name, p in lens.named_parameters() if not p.requires_grad and group_of(name, stage) in towers}


def divide(trainee: Trainee, whole: set[nn.Parameter], device: torch.device, *, regather: bool) -> None:
    """Divide a model over all ranks, layer by layer, and put it onto their devices.

    Args:
        trainee: On any device.
        whole: Parameters that stay whole, on every rank.
        device: This rank's.
        regather: Let go of a layer behind its forward pass, and gather it again for its backward pass.
    """
    lens = trainee.lens
    blocks = [*lens.qwen.model.language_model.layers, *lens.qwen.model.visual.blocks]
    # A reference has no way to masks.
    blocks += [part for name in ("connector", "pool") if (part := getattr(lens.head, name, None)) is not None]
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for parameter in whole:
        parameter.data = parameter.data.to(device)
    for block in blocks:
        if any(p not in whole for p in block.parameters()):
            fully_shard(block, mesh=mesh, reshard_after_forward=regather, ignored_params=whole)
    frozen = not any(p.requires_grad for p in trainee.parameters())
    # The outermost weights are needed at both ends of a step, and so are gathered once.
    fully_shard(trainee, mesh=mesh, reshard_after_forward=frozen, ignored_params=whole)


# ---------------------------------------------------------------------------------------------- tensors


def full(tensor: Tensor) -> Tensor:
    """The whole of a tensor, without gradient; of a divided one every rank must ask for it."""
    plain = tensor.detach()
    return plain.full_tensor() if isinstance(plain, DTensor) else plain


@torch.no_grad()
def put(parameter: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into a parameter, of which this rank may hold a part."""
    if isinstance(parameter, DTensor):
        parameter.to_local().copy_(_share(parameter, value).to_local())
    else:
        parameter.copy_(value)


def whole_state(optimiser: Optimizer, *, keep: bool) -> dict[str, object]:
    """An optimiser's state as one process has it. Where it is divided, every rank must ask.

    Args:
        optimiser: With its state.
        keep: Whether this rank wants what is gathered; else it gets None in its place.
    """
    found = optimiser.state_dict()
    state = {
        number: {name: _gathered(value, keep=keep) for name, value in moments.items()}
        for number, moments in found["state"].items()
    }
    return {**found, "state": state}


def _gathered(value: object, *, keep: bool) -> object:
    if not isinstance(value, DTensor):
        return value
    whole = full(value)
    return whole.cpu() if keep else None


def load_state(optimiser: Optimizer, state: dict[str, object]) -> None:
    """Put an optimiser's state of one process in place, of which this rank may hold parts."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    moments, groups = state["state"], state["param_groups"]
    if not isinstance(moments, dict) or not isinstance(groups, list):
        raise TypeError("an optimiser's state without a table")
    # Fused or not is a matter of the devices of now.
    groups = [{**saved, "fused": own["fused"]} for saved, own in zip(groups, optimiser.param_groups, strict=True)]
    shared = {
        number: {
            name: _share(parameters[number], value)
            if isinstance(parameters[number], DTensor) and value.shape == parameters[number].shape
            else value
            for name, value in values.items()
        }
        for number, values in moments.items()
    }
    optimiser.load_state_dict({**state, "state": shared, "param_groups": groups})


def _share(like: DTensor, value: Tensor) -> DTensor:
    """This rank's part of a tensor that every rank has, divided like another."""
    return distribute_tensor(value.to(like.device, like.dtype), like.device_mesh, like.placements, src_data_rank=None)
