"""Low-rank adapters (peft) on the language model: put in, switched off for the reference, merged for checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn

from lens_bench.errors import UsageError
from lens_bench.lens.layouts import OWN, make_plan, own_shapes, tied_names
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.placing import Precision, assign
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


class Merged:
    """A model's tensors under the names of a plain one (a ``TensorSource``); adapters are added when one is asked for.

    They are added in float32 and the sum stays in float32, whatever precision the frozen weights have: at a low
    learning rate an update is smaller than the distance between two neighbouring bfloat16 numbers.

    Args:
        lens: With or without adapters; read when a tensor is asked for, and left alone.

    Attributes:
        parameters: Names of the parameters among them.
    """

    what = "the trained model"

    def __init__(self, lens: nn.Module) -> None:
        self._adapted = {name: layer for name, layer in lens.named_modules() if _is_adapted(layer)}
        named = {**dict(lens.named_parameters(remove_duplicate=False)), **dict(lens.named_buffers())}
        plain = {name: name.replace(".base_layer.", ".") for name in own_shapes(lens) if ".lora_" not in name}
        self._tensors: dict[str, Tensor] = {own: named[name] for name, own in plain.items()}
        self.parameters = tuple(name for name, t in self._tensors.items() if isinstance(t, nn.Parameter))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's shape."""
        return {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    @torch.no_grad()
    def tensor(self, name: str) -> Tensor:
        """One tensor, without gradient."""
        value = self._tensors[name].detach()
        place, _, leaf = name.rpartition(".")
        if leaf != "weight" or place not in self._adapted:
            return value
        return value.float() + self._adapted[place].get_delta_weight("default").float()


def merged(lens: LensModel, dtype: torch.dtype | None = None) -> LensModel:
    """A plain model on the CPU with the adapters added to the weights, see ``Merged``; ``lens`` is left alone.

    Args:
        lens: With or without adapters.
        dtype: Of all weights. None: as they are, but float32 for a language model with adapters.

    Returns:
        ``lens`` itself where nothing has to change.
    """
    adapted = any(_is_adapted(module) for module in lens.modules())
    if not adapted and all(dtype in (None, p.dtype) for p in lens.parameters()):
        return lens
    with torch.device("meta"):
        plain = LensModel(lens.config)
    parts = (lens.head.queries.dtype, lens.sam.sam2.no_memory_embedding.dtype)
    precision = Precision(torch.float32, *parts) if dtype is None else Precision(dtype, dtype, dtype)
    assign(plain, make_plan(OWN, own_shapes(plain), Merged(lens), tied_names(plain)), "cpu", precision)
    return plain.eval()


def _layers(lens: nn.Module) -> Iterator[Linear]:
    yield from (module for module in lens.modules() if _is_adapted(module))


def _is_adapted(module: nn.Module) -> TypeGuard[Linear]:
    try:
        from peft.tuners.lora import Linear
    except ImportError:
        return False
    return isinstance(module, Linear)
