"""Muon beside AdamW."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Muon

from lens_bench.train.muon import MuonAdamW, orthogonal, split_matrices

SETTINGS = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3))


def _groups(model: nn.Module, names: tuple[str, ...]) -> list[dict[str, object]]:
    group = {"params": list(model.parameters()), "name": "language", "lr": 0.01, "base_rate": 0.01}
    return split_matrices([group], names)


def _learn(model: nn.Module, optimisers: list[torch.optim.Optimizer], steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        inputs = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
        model(inputs).square().sum().backward()
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 12, 5), (2, 5, 12)])
def test_singular_values_end_near_one(shape: tuple[int, ...]) -> None:
    found = orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(1)))
    values = torch.linalg.svdvals(found)
    assert found.shape == shape
    assert values.min() > 0.3
    assert values.max() < 1.5


def test_the_side_of_each_direction_is_kept() -> None:
    matrices = torch.randn(1, 6, 6, generator=torch.Generator().manual_seed(2))
    left, _, right = torch.linalg.svd(matrices)
    cosine = torch.nn.functional.cosine_similarity(orthogonal(matrices).flatten(), (left @ right).flatten(), dim=0)
    assert cosine > 0.95


def test_without_matrices_it_is_adamw() -> None:
    ours, theirs = _model(), _model()
    _learn(ours, [MuonAdamW(_groups(ours, ()), **SETTINGS)], 4)
    _learn(theirs, [AdamW(theirs.parameters(), lr=0.01, **SETTINGS)], 4)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_matrices_move_as_by_torchs_muon() -> None:
    ours, theirs = _model(), _model()
    _learn(ours, [MuonAdamW(_groups(ours, ("language",)), **SETTINGS)], 4)
    matrices = [p for p in theirs.parameters() if p.ndim == 2]
    rest = [p for p in theirs.parameters() if p.ndim != 2]
    muon = Muon(matrices, lr=0.01, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    _learn(theirs, [muon, AdamW(rest, lr=0.01, **SETTINGS)], 4)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine, other, atol=2e-3)


def test_saved_and_loaded_goes_on_as_if_nothing_had_been() -> None:
    straight = _model()
    optimiser = MuonAdamW(_groups(straight, ("language",)), **SETTINGS)
    _learn(straight, [optimiser], 2)
    stopped = copy.deepcopy(straight)
    resumed = MuonAdamW(_groups(stopped, ("language",)), **SETTINGS)
    resumed.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    _learn(straight, [optimiser], 3, first=2)
    _learn(stopped, [resumed], 3, first=2)
    for mine, other in zip(stopped.parameters(), straight.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_only_the_named_groups_are_split() -> None:
    model = _model()
    groups = [
        {"params": list(model[0].parameters()), "name": "language", "lr": 1.0},
        {"params": list(model[2].parameters()), "name": "head", "lr": 2.0},
    ]
    found = split_matrices(groups, ("language",))
    assert [(g["name"], g["muon"], len(g["params"])) for g in found] == [
        ("language", True, 1),
        ("language", False, 1),
        ("head", False, 2),
    ]
