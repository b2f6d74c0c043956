"""AdamW for most parameters, Muon for the matrices of transformer layers.

Muon (K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024) replaces a matrix's momentum by
the nearest orthogonal matrix, so that no direction of it learns faster than another. Scaled to the step length of Adam
as in arXiv 2502.16982, section 2.2, both share learning rates. torch has it as an optimizer of its own; this one joins
it with AdamW, because accelerate, checkpoints and schedules know one optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

# The quintic of the Newton-Schulz iteration: steepest at 0, singular values end between about 0.7 and 1.2.
_QUINTIC: Final = (3.4445, -4.7750, 2.0315)
_ROUNDS: Final = 5
_MOMENTUM: Final = 0.95
# The root mean square of Adam's updates is about this much of the learning rate (arXiv 2502.16982, equation 4).
_LIKE_ADAM: Final = 0.2


class MuonAdamW(AdamW):
    """AdamW, except for groups with ``muon`` true: these hold matrices, which Muon moves. Arguments are AdamW's."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Put a loaded state in place; AdamW's own method would look for its moments at every parameter."""
        Optimizer.__setstate__(self, state)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update. ``closure`` is not supported."""
        if closure is not None:
            raise ValueError("a closure is not supported")
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group.get("muon")]
        try:
            super().step()
        finally:
            self.param_groups = groups
        for group in groups:
            if group.get("muon"):
                self._muon(group)
        return None

    def _muon(self, group: dict[str, Any]) -> None:
        by_shape: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                by_shape.setdefault(tuple(parameter.shape), []).append(parameter)
        for shape, members in by_shape.items():
            moved = orthogonal(torch.stack([self._momentum(p) for p in members]))
            rate = group["lr"] * _LIKE_ADAM * max(shape) ** 0.5
            for parameter, update in zip(members, moved.unbind(), strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=rate)

    def _momentum(self, parameter: nn.Parameter) -> Tensor:
        """Nesterov's momentum of a gradient."""
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        gradient = parameter.grad
        if gradient is None:
            raise ValueError("a parameter without gradient")
        momentum: Tensor = state["momentum"]
        momentum.lerp_(gradient, 1 - _MOMENTUM)
        return gradient.lerp(momentum, _MOMENTUM)


def orthogonal(matrices: Tensor) -> Tensor:
    """Roughly the nearest orthogonal matrix of each [N, A, B], by Newton-Schulz iterations in bfloat16."""
    a, b, c = _QUINTIC
    flat: Tensor = matrices.bfloat16()
    tall = flat.shape[1] > flat.shape[2]
    flat = flat.mT if tall else flat
    flat = flat / flat.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(_ROUNDS):
        gram = flat @ flat.mT
        flat = a * flat + (b * gram + c * gram @ gram) @ flat
    return (flat.mT if tall else flat).to(matrices.dtype)


def split_matrices(groups: Sequence[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Split the groups of these names into matrices, for Muon, and everything else."""
    found = []
    for group in groups:
        matrices = [p for p in group["params"] if p.ndim == 2] if group["name"] in names else []
        rest = [p for p in group["params"] if all(p is not m for m in matrices)]
        found += [{**group, "params": matrices, "muon": True}] if matrices else []
        found += [{**group, "params": rest, "muon": False}] if rest else []
    return found
