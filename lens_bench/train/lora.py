"""Low-rank adapters (peft) on the language model: put in, switched off for the reference, merged for checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lens_bench.errors import UsageError
from lens_bench.lens.layouts import OWN, make_plan, own_shapes, tied_names
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.placing import Precision, assign
from lens_bench.lens.sources import MemorySource
from lens_bench.train.config import Lora

if TYPE_CHECKING:
    from peft.tuners.lora import Linear


@torch.no_grad()
def inject(lens: LensModel, config: Lora, seed: int) -> None:
    """Put adapters beside the language model's linear layers; drawn from the seed, and 0 in effect at first.

    Raises:
        UsageError: peft is not installed, or no layer has one of the names.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UsageError("lora needs peft, which is not installed here", "pip install peft") from None
    settings = LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=list(config.targets), lora_dropout=0.0)
    try:
        inject_adapter_in_model(settings, lens.qwen.model.language_model)
    except ValueError as error:
        raise UsageError(f"lora: {' '.join(str(error).split())[:160]}", "see lora.targets") from None
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in lens.named_parameters():
        if ".lora_A." in name:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise / parameter.shape[1] ** 0.5)


@contextmanager
def disabled(lens: nn.Module) -> Iterator[None]:
    """The model without its adapters, for the time of the block."""
    layers = list(_layers(lens))
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


@torch.no_grad()
def merged(lens: LensModel) -> LensModel:
    """A plain model with the adapters added to the weights; ``lens`` is left alone. Itself where it has none."""
    names = {id(layer): name for name, layer in lens.named_modules()}
    layers = {names[id(layer)]: layer for layer in _layers(lens)}
    if not layers:
        return lens
    tensors: dict[str, Tensor] = {}
    for name, tensor in {**dict(lens.named_parameters(remove_duplicate=False)), **dict(lens.named_buffers())}.items():
        if ".lora_" in name:
            continue
        place, _, leaf = name.partition(".base_layer.")
        value = tensor.detach()
        if leaf == "weight" and place in layers:
            value = value + layers[place].get_delta_weight("default").to(value)
        tensors[f"{place}.{leaf}" if leaf else name] = value
    with torch.device("meta"):
        plain = LensModel(lens.config)
    shapes = own_shapes(plain)
    source = MemorySource({name: tensors[name] for name in shapes}, "the adapted model")
    assign(plain, make_plan(OWN, shapes, source, tied_names(plain)), lens.device, Precision(*_dtypes(lens)))
    return plain.eval()


def _dtypes(lens: LensModel) -> tuple[torch.dtype, torch.dtype, torch.dtype]:
    return lens.text_dtype, lens.head.queries.dtype, lens.sam.sam2.no_memory_embedding.dtype


def _layers(lens: nn.Module) -> Iterator[Linear]:
    try:
        from peft.tuners.lora import Linear
    except ImportError:
        return
    yield from (module for module in lens.modules() if isinstance(module, Linear))
