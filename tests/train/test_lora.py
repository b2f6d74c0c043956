"""Adapters: no effect at first, merged exactly, and the model without them is the model before."""

from __future__ import annotations

import pytest
import torch

from lens_bench.errors import UsageError
from lens_bench.lens.layouts import QWEN, Slot
from lens_bench.lens.modeling import LensModel
from lens_bench.train.config import Lora
from lens_bench.train.lora import disabled, inject, merged
from lens_bench.train.parameters import freeze
from lens_bench.train.trainee import read, see
from lens_bench.train.vllm_sampler import travelling

from .conftest import tiny_recipe
from .test_pack import packed, setting

pytest.importorskip("peft", reason="adapters need peft")


def states(model: LensModel) -> torch.Tensor:
    _, prompter, sights, asked = setting()
    rows = packed(model, prompter, sights, asked, True)
    with torch.no_grad():
        return read(model, rows, see(model, sights))


def test_adapters_begin_without_effect_and_are_merged_exactly() -> None:
    model, *_ = setting()
    before = states(model)
    inject(model, Lora(rank=4, alpha=8), seed=0)
    assert torch.equal(states(model), before)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    adapted = states(model)
    assert (adapted - before).abs().max() > 0.01
    with disabled(model):
        assert torch.equal(states(model), before)
    plain = merged(model)
    assert not any("lora" in name or "base_layer" in name for name, _ in plain.named_parameters())
    torch.testing.assert_close(states(plain), adapted, atol=1e-4, rtol=1e-4)
    # The model itself is left alone.
    assert torch.equal(states(model), adapted)


SMALL = 1e-6


def adapted(dtype: torch.dtype) -> tuple[LensModel, dict[str, torch.Tensor]]:
    """A model with frozen weights of a precision, and what its adapters add: far less than bfloat16 tells apart."""
    model, *_ = setting()
    model.qwen.to(dtype)
    inject(model, Lora(rank=4, alpha=8, targets=("q_proj", "down_proj")), seed=0)
    recipe = tiny_recipe("grpo", {"lora": {"rank": 4}, "optimiser": {"rates": {"embeddings": None}}})
    freeze(model, recipe)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0, SMALL, generator=torch.Generator().manual_seed(len(name)))
    deltas = {f"{n}.weight": m.get_delta_weight("default") for n, m in model.named_modules() if hasattr(m, "lora_A")}
    assert len(deltas) == 2 * len(model.qwen.model.language_model.layers)
    return model, {name: delta.detach().float() for name, delta in deltas.items()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_whole_of_a_small_update_is_merged(dtype: torch.dtype) -> None:
    model, deltas = adapted(dtype)
    before = dict(setting()[0].named_parameters())
    for plain in (merged(model), merged(model, torch.float32)):
        after = dict(plain.named_parameters())
        for name, delta in deltas.items():
            held = after[name].detach() - before[name].detach().to(dtype).float()
            # float32 itself tells the update from nothing to about a hundredth of it here.
            assert after[name].dtype == torch.float32
            assert float((held - delta).norm() / delta.norm()) < 0.05, name
    assert {p.dtype for p in merged(model, torch.bfloat16).parameters()} == {torch.bfloat16}


def test_what_vllm_is_given_is_what_is_saved() -> None:
    model, deltas = adapted(torch.bfloat16)
    saved = dict(merged(model).named_parameters())
    for dtype in (torch.float32, torch.bfloat16):
        sent = travelling(model, dtype)
        for name in deltas:
            assert torch.equal(sent[str(QWEN.to_theirs(Slot(name)))], saved[name].detach().to(dtype))


def test_first_adapters_are_a_function_of_the_seed() -> None:
    found = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        model, *_ = setting()
        inject(model, Lora(rank=4), seed)
        found.append(next(p.detach().clone() for n, p in model.named_parameters() if ".lora_A." in n))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_without_adapters_merging_is_nothing_and_unknown_layers_are_refused() -> None:
    model, *_ = setting()
    assert merged(model) is model
    with pytest.raises(UsageError, match="lora"):
        inject(model, Lora(targets=("no_such_layer",)), 0)
