"""AdamW in one kernel per group where everything is on CUDA devices, and as torch chooses elsewhere."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from lens_bench.train import assembly
from lens_bench.train.parameters import fuses
from lens_bench.train.shards import load_state, whole_state

from .conftest import Run, tiny_recipe
from .test_training import same


def on(*devices: str) -> list[Tensor]:
    """As much of parameters as the choice looks at."""
    return [cast("Tensor", SimpleNamespace(is_cuda=device.startswith("cuda"))) for device in devices]


@pytest.mark.parametrize(
    ("parameters", "wanted"),
    [
        (on("cuda:0", "cuda:0"), True),
        (on("cuda:0", "cuda:1"), True),
        (on("cuda:0", "cpu"), False),
        (on("cpu"), False),
        (on(), False),
        ([torch.zeros(2)], False),
    ],
)
def test_it_is_fused_where_everything_is_on_cuda(parameters: list[Tensor], wanted: bool) -> None:
    assert fuses(parameters) is wanted


@pytest.mark.parametrize("muon", [[], ["language"]])
def test_the_optimiser_is_made_so(muon: list[str], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    real = assembly._optimiser

    def remember(*arguments: object) -> torch.optim.Optimizer:
        made.append(real(*arguments))  # type: ignore[arg-type]
        return cast("torch.optim.Optimizer", made[-1])

    monkeypatch.setattr(assembly, "_optimiser", remember)
    for fused in (False, True):
        monkeypatch.setattr(assembly, "fuses", lambda parameters, found=fused: bool(list(parameters)) and found)
        run(tiny_recipe("supervised", {"optimiser": {"steps": 1, "muon": muon}}), f"out-{fused}")
    plain, fused_one = (cast("torch.optim.Optimizer", optimiser).param_groups for optimiser in made)
    assert all(group["fused"] is None for group in plain) and all(group["fused"] is True for group in fused_one)


@pytest.mark.parametrize("fused", [None, True])
def test_a_checkpoint_of_other_devices_does_not_change_it(fused: bool | None) -> None:
    def step(model: nn.Module, optimiser: AdamW) -> None:
        model(torch.ones(2, 3)).square().sum().backward()
        optimiser.step()
        optimiser.zero_grad()

    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimiser = AdamW(model.parameters(), fused=None if fused else True)
    step(model, optimiser)
    saved = copy.deepcopy(whole_state(optimiser, keep=True))
    other = copy.deepcopy(model)
    resumed = AdamW(other.parameters(), fused=fused)
    load_state(resumed, saved)
    assert resumed.param_groups[0]["fused"] is fused
    step(model, optimiser)
    step(other, resumed)
    torch.testing.assert_close(other.weight, model.weight)


def test_a_training_may_go_on_fused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe("supervised", {"saving": {"every": 1}})
    whole, _ = run(recipe, "whole")
    run(recipe, "parts", kill_at=2)
    monkeypatch.setattr(assembly, "fuses", lambda parameters: True)
    parts, seen = run(recipe, "parts")
    assert seen.begun == 1 and not same(whole, parts)
