"""Group-relative policy optimisation as pure functions on tensors.

GRPO: DeepSeekMath, arXiv 2402.03300, section 4.1. Dr. GRPO: arXiv 2503.20783, section 3.2. DAPO's token-level loss and
asymmetric clipping: arXiv 2503.14476, sections 3.1 and 3.3. GSPO: arXiv 2507.18071, section 4. CISPO: MiniMax-M1,
arXiv 2506.13585, section 3.1. The k3 estimator of the KL divergence: J. Schulman,
"Approximating KL divergence" (2020).

Shapes: P prompts, G completions of each; B completions in all, T tokens, padded; a mask is bool [B, T]. Values at
masked positions never matter, whatever they are.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

LossType: TypeAlias = Literal["grpo", "dr_grpo", "dapo", "cispo"]
Level: TypeAlias = Literal["token", "sequence"]
Scale: TypeAlias = Literal["group", "none"]

# Added to a group's deviation, as in DeepSeekMath's followers (TRL, LENS).
EPSILON = 1e-4


def advantages(rewards: Tensor, scale: Scale = "group") -> Tensor:
    """Rewards relative to the mean of those in their group that are known.

    Args:
        rewards: [P, G]; NaN where nothing scored a completion.
        scale: ``group`` divides by the known rewards' deviation (n - 1) plus ``EPSILON``; ``none`` does not (Dr. GRPO).

    Returns:
        [P, G]; exactly 0 for a completion that nothing scored, in a group of equal rewards, and in a group with fewer
        than two known ones.
    """
    known = ~rewards.isnan()
    count = known.sum(dim=1, keepdim=True)
    values = torch.where(known, rewards, 0.0)
    centred = torch.where(known, values - values.sum(dim=1, keepdim=True) / count.clamp(min=1), 0.0)
    if scale == "group":
        deviation = (centred.square().sum(dim=1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
        centred = centred / (deviation + EPSILON)
    return torch.where(flat_groups(rewards).unsqueeze(1), torch.zeros_like(centred), centred)


def flat_groups(rewards: Tensor) -> Tensor:
    """Bool [P]: groups of [P, G] rewards without two different known ones, which teach nothing."""
    known = ~rewards.isnan()
    highest = torch.where(known, rewards, -torch.inf).amax(dim=1)
    return highest <= torch.where(known, rewards, torch.inf).amin(dim=1)


def k3(logps: Tensor, reference: Tensor) -> Tensor:
    """Estimate of KL(policy || reference) per token, from samples of the policy: ``exp(d) - d - 1``, d = ref - policy.

    Never negative, and exactly 0 where both are equal. Its gradient by ``logps`` is ``1 - exp(d)``.
    """
    difference = reference - logps
    return torch.expm1(difference) - difference


def log_ratio(logps: Tensor, old: Tensor, mask: Tensor, level: Level = "token") -> Tensor:
    """Logarithm [B, T] of how much likelier answers are under the policy than under what sampled them; 0 where masked.

    Args:
        logps: [B, T] of the policy, with gradient.
        old: [B, T] of the policy that sampled.
        mask: [B, T].
        level: ``token``: of each token; ``sequence``: the mean over a completion's tokens, for each of them (GSPO).
    """
    difference = torch.where(mask, logps - old, 0.0)
    if level == "token":
        return difference
    mean = difference.sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.where(mask, mean, 0.0)


def cispo(logps: Tensor, ratio: Tensor, advantage: Tensor, high: float) -> Tensor:
    """CISPO's surrogate per token, as a loss: REINFORCE under the ratio, which is bounded above and has no gradient.

    No token is dropped, as clipping drops those beyond the bound.

    Args:
        logps: [B, T] of the policy, with gradient.
        ratio: [B, T], of the policy to what sampled.
        advantage: [B, 1] or [B, T].
        high: The ratio counts at most as 1 + high.
    """
    return -ratio.detach().clamp(max=1 + high) * advantage * logps


def clipped(ratio: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    """The clipped surrogate per token, as a loss.

    Args:
        ratio: [B, T], of the policy to what sampled, with gradient.
        advantage: [B, 1] or [B, T].
        low: The ratio is clipped to [1 - low, 1 + high].
        high: See ``low``.
    """
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def importance(logps: Tensor, sampled: Tensor, mask: Tensor, cap: float) -> Tensor:
    """Truncated importance weights [B, T] without gradient: how much likelier a token is than under its sampler.

    Corrects for a sampler whose arithmetic differs from the trainer's (E. Ionides, "Truncated Importance Sampling",
    2008; TRL's ``token_truncate``).

    Args:
        logps: [B, T] of the policy.
        sampled: [B, T] as the sampler had them.
        mask: [B, T].
        cap: Largest weight.
    """
    return torch.exp(torch.where(mask, logps.detach() - sampled, 0.0)).clamp(max=cap)


def token_loss(
    logps: Tensor,
    old: Tensor,
    advantage: Tensor,
    mask: Tensor,
    *,
    reference: Tensor | None = None,
    beta: float = 0.0,
    low: float = 0.2,
    high: float = 0.2,
    weight: Tensor | None = None,
    kind: LossType = "grpo",
    level: Level = "token",
) -> Tensor:
    """Loss of every token [B, T], 0 at masked ones: the surrogate plus ``beta`` times the KL estimate.

    Args:
        logps: [B, T] of the policy.
        old: [B, T] of the policy that sampled; the detached ``logps`` where a rollout is used once.
        advantage: [B].
        mask: [B, T].
        reference: [B, T] of the reference policy; needed where ``beta`` is not 0.
        beta: Weight of the KL divergence.
        low: Lower clipping distance.
        high: Upper clipping distance.
        weight: [B, T] of the surrogate, see ``importance``.
        kind: ``cispo`` has a surrogate of its own; the others clip.
        level: What the ratio is of, see ``log_ratio``.
    """
    # Masked first: 0 * inf would be NaN in the gradient.
    kept = torch.where(mask, logps, 0.0)
    ratio = torch.exp(log_ratio(kept, torch.where(mask, old, 0.0), mask, level))
    scale = advantage.unsqueeze(1)
    loss = cispo(kept, ratio, scale, high) if kind == "cispo" else clipped(ratio, scale, low, high)
    loss = loss if weight is None else loss * weight
    if beta:
        if reference is None:
            raise ValueError("beta needs log-probabilities of a reference")
        loss = loss + beta * k3(kept, torch.where(mask, reference, 0.0))
    return torch.where(mask, loss, 0.0)


def reduce_loss(loss: Tensor, mask: Tensor, kind: LossType, *, sequences: int, tokens: int, max_tokens: int) -> Tensor:
    """Sum token losses of a part of a step to its share of the step's loss.

    The sum over all parts of a step (micro batches and ranks) is the loss of the whole step, because what is divided by
    belongs to the whole step.

    Args:
        loss: [B, T], 0 at masked tokens.
        mask: [B, T].
        kind: ``grpo``: mean over completions of the mean over their tokens; ``dapo``, ``cispo``: mean over all tokens;
            ``dr_grpo``: sum over tokens over completions times the longest allowed length.
        sequences: Completions of the whole step.
        tokens: Unmasked tokens of the whole step.
        max_tokens: Longest allowed completion.
    """
    if kind == "grpo":
        return (loss.sum(dim=1) / mask.sum(dim=1).clamp(min=1)).sum() / max(1, sequences)
    if kind in ("dapo", "cispo"):
        return loss.sum() / max(1, tokens)
    return loss.sum() / (max(1, sequences) * max_tokens)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over unmasked entries; 0 where there is none."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)
