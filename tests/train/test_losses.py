"""Dice and cross-entropy against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lens_bench.train.losses import mask_iou, mask_loss, shrink, stretch

MASKS = hnp.arrays(np.bool_, (2, 5, 6))


@given(hnp.arrays(np.float32, (2, 5, 6), elements=st.floats(-8, 8, width=32)), MASKS)
def test_equal_to_numpy(logits: np.ndarray, target: np.ndarray) -> None:
    found = mask_loss(torch.from_numpy(logits), torch.from_numpy(target))
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    bce = -(target * np.log(p) + (1 - target) * np.log1p(-p)).mean(axis=(1, 2))
    dice = 1 - (2 * (p * target).sum((1, 2)) + 1) / (p.sum((1, 2)) + target.sum((1, 2)) + 1)
    np.testing.assert_allclose(found.bce.numpy(), bce, atol=1e-5)
    np.testing.assert_allclose(found.dice.numpy(), dice, atol=1e-5)


@given(MASKS)
def test_a_perfect_mask_costs_nothing(target: np.ndarray) -> None:
    wanted = torch.from_numpy(target)
    found = mask_loss(torch.where(wanted, 40.0, -40.0), wanted)
    assert float(found.dice.max()) < 1e-5 and float(found.bce.max()) < 1e-5


def test_half_sure_everywhere() -> None:
    found = mask_loss(torch.zeros(1, 2, 2), torch.tensor([[[1, 1], [0, 0]]]))
    assert float(found.bce[0]) == pytest.approx(math.log(2))
    assert float(found.dice[0]) == pytest.approx(1 - (2 * 1 + 1) / (2 + 2 + 1))


def test_ignored_pixels_count_nowhere() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(1, 4, 4, generator=generator), torch.rand(1, 4, 4, generator=generator) > 0.5
    valid = torch.ones(1, 4, 4, dtype=torch.bool)
    valid[0, :, 2:] = False
    found = mask_loss(logits, target, valid)
    left = mask_loss(logits[:, :, :2], target[:, :, :2])
    torch.testing.assert_close(found.bce, left.bce)
    torch.testing.assert_close(found.dice, left.dice)
    changed = torch.where(valid, logits, -logits)
    torch.testing.assert_close(mask_iou(changed, target, valid), mask_iou(logits, target, valid))
    nothing = mask_loss(logits, target, torch.zeros_like(valid))
    assert torch.isfinite(nothing.dice).all() and torch.isfinite(nothing.bce).all()


@given(MASKS, MASKS)
def test_iou_is_numpys(found: np.ndarray, wanted: np.ndarray) -> None:
    value = mask_iou(torch.where(torch.from_numpy(found), 1.0, -1.0), torch.from_numpy(wanted)).numpy()
    union = (found | wanted).sum((1, 2))
    exact = np.where(union > 0, (found & wanted).sum((1, 2)) / np.maximum(union, 1), 1.0)
    np.testing.assert_allclose(value, exact, rtol=1e-6)


def test_scaling() -> None:
    mask = torch.tensor([[[True, True, False, False], [True, False, False, False]]])
    torch.testing.assert_close(shrink(mask, (1, 2)), torch.tensor([[[0.75, 0.0]]]))
    from lens_bench.lens.sam import upsample

    logits = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    large = stretch(logits, (9, 7))
    assert all(torch.equal(large[n], upsample(logits[n], (9, 7))) for n in range(3))
