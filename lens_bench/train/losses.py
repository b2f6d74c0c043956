"""Mask losses: dice and binary cross-entropy of logits, with soft targets and ignored pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class MaskLoss:
    """Losses of N masks, [N] each."""

    dice: Tensor
    bce: Tensor


def mask_loss(logits: Tensor, target: Tensor, valid: Tensor | None = None, smoothing: float = 1.0) -> MaskLoss:
    """Dice and mean binary cross-entropy of each mask.

    Dice: V-Net, arXiv 1606.04797, without squares and with ``smoothing`` added above and below, as LENS' and LISA's
    code has it; so two empty masks cost nothing.

    Args:
        logits: [N, h, w].
        target: [N, h, w] between 0 and 1; fractions where a target was scaled down.
        valid: Bool [N, h, w]; pixels outside count in neither loss.
        smoothing: Of dice.
    """
    scores, wanted = logits.float().flatten(1), target.float().flatten(1)
    bce = functional.binary_cross_entropy_with_logits(scores, wanted, reduction="none")
    found = scores.sigmoid()
    count = torch.full_like(bce[:, 0], float(bce.shape[1]))
    if valid is not None:
        keep = valid.flatten(1).float()
        bce, found, wanted, count = bce * keep, found * keep, wanted * keep, keep.sum(dim=1).clamp(min=1)
    shared = (found * wanted).sum(dim=1)
    dice = 1 - (2 * shared + smoothing) / (found.sum(dim=1) + wanted.sum(dim=1) + smoothing)
    return MaskLoss(dice, bce.sum(dim=1) / count)


def shrink(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale masks bool [N, H, W] to float [N, h, w]: the share of each new pixel's area that is covered."""
    return functional.interpolate(mask.float()[:, None], size, mode="area")[:, 0]


def stretch(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale logits [N, h, w] to [N, H, W] as the inference engine does: bilinear in float32, no antialiasing."""
    return functional.interpolate(logits.float()[:, None], size, mode="bilinear", align_corners=False)[:, 0]


@torch.no_grad()
def mask_iou(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Intersection over union [N] of logits above 0 with bool targets, both [N, H, W]; 1 where both are empty."""
    found, wanted = logits.flatten(1) > 0, target.flatten(1).bool()
    if valid is not None:
        keep = valid.flatten(1)
        found, wanted = found & keep, wanted & keep
    union = (found | wanted).sum(dim=1)
    return torch.where(union > 0, (found & wanted).sum(dim=1) / union.clamp(min=1), 1.0)
