"""Putting tensors into a model that lies on the meta device, and moving one that is whole.

A model is built without memory and its parameters are replaced by the tensors of a plan, one by one, so that the peak
is the model plus one tensor and nothing can stay at a random value unnoticed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lens_bench.errors import CheckpointError
from lens_bench.lens.attention import prefer_flash
from lens_bench.lens.filling import recompute_buffers, require_filled
from lens_bench.lens.layouts import Plan, Slot, tied_names
from lens_bench.lens.modeling import LensModel

# The language model's blocks among our tensors.
BLOCKS = "qwen.model.language_model.layers."


@dataclass(frozen=True, slots=True)
class Precision:
    """Precision of the three parts."""

    text: torch.dtype = torch.float32
    head: torch.dtype = torch.float32
    sam: torch.dtype = torch.float32

    def of(self, name: str) -> torch.dtype:
        """Of one of our tensors, by its first name."""
        return {"qwen": self.text, "head": self.head, "sam": self.sam}[name.split(".", 1)[0]]


def assign(
    model: LensModel,
    plan: Plan,
    device: str | torch.device,
    precision: Precision | None = None,
    place_of: Callable[[str], str | torch.device] | None = None,
) -> None:
    """Fill a model that lies on the meta device from a plan that covers all of it.

    Args:
        model: The model.
        plan: Where each tensor comes from.
        device: Where to.
        precision: Of the parts.
        place_of: Where to by name, if elsewhere.

    Raises:
        CheckpointError: As ``fill``.
    """
    fill(model, plan, device, precision or Precision(), place_of)
    finish(model, device)


def fill(
    model: LensModel,
    plan: Plan,
    device: str | torch.device,
    precision: Precision,
    place_of: Callable[[str], str | torch.device] | None = None,
) -> None:
    """Put every tensor of a plan in its place; plans that cover the model together are followed by ``finish``.

    Args:
        model: On the meta device.
        plan: Where each tensor comes from.
        device: Where to.
        precision: Of the parts.
        place_of: Where to by name, if elsewhere.

    Raises:
        CheckpointError: The file holds an output layer that differs from the embedding it is tied to.
    """
    rows: dict[str, dict[int, Tensor]] = {}
    tied = tied_names(model)
    for slot, key in plan.keys.items():
        if slot.name in tied:
            continue
        where = device if place_of is None else place_of(slot.name)
        tensor = plan.source.tensor(key).to(device=where, dtype=precision.of(slot.name))
        if slot.row is None:
            _place(model, slot.name, tensor)
        else:
            rows.setdefault(slot.name, {})[slot.row] = tensor
    for name, parts in rows.items():
        _place(model, name, torch.cat([parts[n] for n in sorted(parts)]))
    for name in plan.absent:
        shape = model.get_parameter(name).shape
        _place(model, name, torch.zeros(shape, device=device, dtype=precision.of(name)))
    _check_tied(model, plan, tied)


def place(model: LensModel, device: str | torch.device, precision: Precision) -> LensModel:
    """Move a model and cast its parts; the rotary tables stay float32, which ``Module.to`` would cast as well."""
    parts: list[tuple[nn.Module, torch.dtype]] = [
        (model.qwen, precision.text),
        (model.head, precision.head),
        (model.sam, precision.sam),
    ]
    for part, dtype in parts:
        part.to(device=device, dtype=dtype)
    finish(model, device)
    choose_attention(model)
    return model


def finish(model: LensModel, device: str | torch.device) -> None:
    """Tie the embeddings, recompute the rotary tables that no file holds, and make sure that nothing is left empty."""
    if tied_names(model):
        model.qwen.lm_head.weight = model.embedding.weight
    recompute_buffers(model, device)
    require_filled(model)


def choose_attention(model: LensModel) -> None:
    """FlashAttention 2 for the vision tower where it is installed and fits."""
    prefer_flash(model.qwen.model.visual, model.device, model.text_dtype)


def _check_tied(model: LensModel, plan: Plan, tied: tuple[str, ...]) -> None:
    for name in tied:
        key = plan.keys.get(Slot(name))
        if key is None:
            continue
        embedding = model.embedding.weight
        if not torch.equal(plan.source.tensor(key).to(embedding), embedding):
            raise CheckpointError(
                f"{plan.source.what}: {key} differs from the embedding although the configuration ties them",
                "set tie_word_embeddings to false in its config.json",
            )


def _place(model: nn.Module, name: str, tensor: Tensor) -> None:
    where, _, leaf = name.rpartition(".")
    module = model.get_submodule(where)
    if leaf in module._parameters:
        # A tensor read from a file may be a view of its mapping; parameters own their memory.
        module._parameters[leaf] = nn.Parameter(tensor.clone() if tensor.is_cpu else tensor)
    else:
        module._buffers[leaf] = tensor
