"""What is left to do once a model that began on the meta device has its weights."""

from __future__ import annotations

import torch
from torch import nn


def recompute_buffers(model: nn.Module, device: str | torch.device) -> None:
    """Compute the buffers that no file holds, e.g. rotary tables, from the configurations of their modules."""
    for module in model.modules():
        if module._non_persistent_buffers_set and hasattr(module, "config"):
            again = type(module)(module.config)
            for name in module._non_persistent_buffers_set:
                module._buffers[name] = again.get_buffer(name).to(device)


def require_filled(model: nn.Module) -> None:
    """Raise ``AssertionError`` where a tensor was left on the meta device: a fault of the loading code."""
    empty = [n for n, t in [*model.named_parameters(), *model.named_buffers()] if t.is_meta]
    if empty:
        raise AssertionError(f"tensors without a value: {', '.join(empty[:10])}")
