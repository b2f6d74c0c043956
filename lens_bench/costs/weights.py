"""Bytes of weights, which pass the device's memory once for every pass over them."""

from __future__ import annotations

from torch import nn


def weight_bytes(*modules: nn.Module) -> float:
    """Bytes of the parameters of modules, shared ones once."""
    found = {id(p): p for module in modules for p in module.parameters()}
    return float(sum(p.numel() * p.element_size() for p in found.values()))
