"""The maths of GRPO against closed forms, numpy and hand-computed values; TRL's loss where TRL is installed."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lens_bench.train import grpo

FLOATS = st.floats(-3, 3, width=32)
TABLES = hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(2, 9)), elements=FLOATS)


@given(TABLES)
def test_advantages_are_numpys(table: np.ndarray) -> None:
    found = grpo.advantages(torch.from_numpy(table)).numpy()
    wide = table.astype(np.float64)
    wanted = (wide - wide.mean(1, keepdims=True)) / (wide.std(1, ddof=1, keepdims=True) + 1e-4)
    wanted[wide.max(1) == wide.min(1)] = 0
    # Where differences drown in rounding, both are noise divided by 1e-4.
    np.testing.assert_allclose(found, wanted, atol=5e-3)


@given(TABLES, st.floats(-2, 2))
def test_advantages_sum_to_zero_and_ignore_a_shift(table: np.ndarray, shift: float) -> None:
    rewards = torch.from_numpy(table).double()
    found = grpo.advantages(rewards)
    assert found.sum(dim=1).abs().max() < 1e-9
    torch.testing.assert_close(grpo.advantages(rewards + shift), found, atol=1e-7, rtol=1e-6)


@given(st.floats(0, 3, width=32), st.integers(2, 16))
def test_equal_rewards_give_exactly_nothing(value: float, members: int) -> None:
    assert torch.equal(grpo.advantages(torch.full((3, members), value)), torch.zeros(3, members))


def test_advantages_of_two() -> None:
    found = grpo.advantages(torch.tensor([[1.0, 0.0]]))
    deviation = math.sqrt(0.5)
    torch.testing.assert_close(found, torch.tensor([[0.5, -0.5]]) / (deviation + 1e-4))
    torch.testing.assert_close(grpo.advantages(torch.tensor([[1.0, 0.0]]), "none"), torch.tensor([[0.5, -0.5]]))


def test_what_nothing_scored_is_no_zero() -> None:
    nan = math.nan
    table = torch.tensor([[nan, 0.8, 0.6, 1.0], [nan, nan, nan, 0.3], [nan] * 4, [0.5, nan, 0.5, 0.5]])
    found = grpo.advantages(table)
    torch.testing.assert_close(found[0], torch.tensor([0.0, 0.0, -1.0, 1.0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(found[0, 1:], grpo.advantages(table[:1, 1:])[0])
    assert torch.equal(found[1:], torch.zeros(3, 4))
    centred = grpo.advantages(table[:1], "none")
    torch.testing.assert_close(centred, torch.tensor([[0.0, 0.0, -0.2, 0.2]]))
    assert grpo.flat_groups(table).tolist() == [False, True, True, True]


@given(hnp.arrays(np.float64, 7, elements=st.floats(-20, 20)), hnp.arrays(np.float64, 7, elements=st.floats(-20, 20)))
def test_k3_is_never_negative_and_its_gradient_is_known(policy: np.ndarray, reference: np.ndarray) -> None:
    logps, ref = torch.from_numpy(policy).requires_grad_(), torch.from_numpy(reference)
    found = grpo.k3(logps, ref)
    assert torch.isfinite(found).all() and (found >= 0).all()
    found.sum().backward()
    torch.testing.assert_close(logps.grad, -torch.expm1(ref - logps.detach()))
    assert torch.equal(grpo.k3(ref, ref), torch.zeros(7, dtype=torch.float64))


def test_advantages_do_not_depend_on_the_order_of_groups_or_members() -> None:
    rewards = torch.rand(6, 5, generator=torch.Generator().manual_seed(0))
    rows, columns = torch.tensor([3, 0, 5, 1, 4, 2]), torch.tensor([4, 2, 0, 1, 3])
    torch.testing.assert_close(grpo.advantages(rewards[rows][:, columns]), grpo.advantages(rewards)[rows][:, columns])


@pytest.mark.parametrize("far", [-20.0, 20.0])
def test_k3_far_away_is_finite(far: float) -> None:
    logps = torch.tensor([-25.0], requires_grad=True)
    value = grpo.k3(logps, logps.detach() + far)
    value.sum().backward()
    assert value.item() == pytest.approx(math.expm1(far) - far, rel=1e-5)
    assert logps.grad is not None and logps.grad.item() == pytest.approx(1 - math.exp(far), rel=1e-5)


def test_k3_estimates_the_divergence() -> None:
    generator = torch.Generator().manual_seed(0)
    policy = torch.log_softmax(torch.randn(6, generator=generator, dtype=torch.float64), 0)
    reference = torch.log_softmax(torch.randn(6, generator=generator, dtype=torch.float64), 0)
    exact = (policy.exp() * (policy - reference)).sum()
    # The expectation over the policy's own samples, exactly.
    torch.testing.assert_close((policy.exp() * grpo.k3(policy, reference)).sum(), exact)


def test_first_step_has_no_loss_but_the_policy_gradient() -> None:
    logits = torch.tensor([[0.3, -0.2, 0.9]], dtype=torch.float64, requires_grad=True)
    logps = torch.log_softmax(logits, 1)[0, [0, 2]].view(2, 1)
    advantage = torch.tensor([0.7, -0.7], dtype=torch.float64)
    mask = torch.ones(2, 1, dtype=torch.bool)
    loss = grpo.token_loss(logps, logps.detach(), advantage, mask)
    total = grpo.reduce_loss(loss, mask, "grpo", sequences=2, tokens=2, max_tokens=4)
    assert float(total.detach()) == 0.0
    total.backward()
    shares = torch.softmax(logits.detach(), 1)[0]
    wanted = -0.5 * sum(a * (torch.eye(3, dtype=torch.float64)[i] - shares) for a, i in ((0.7, 0), (-0.7, 2)))
    torch.testing.assert_close(logits.grad[0], wanted)


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"),
    [(1.5, 1.0, False), (1.5, -1.0, True), (0.5, 1.0, True), (0.5, -1.0, False), (1.1, 1.0, True), (0.9, -1.0, True)],
)
def test_clipping_stops_the_gradient_on_one_side_only(ratio: float, advantage: float, moves: bool) -> None:
    logps = torch.tensor([[math.log(ratio)]], requires_grad=True)
    grpo.clipped(logps.exp(), torch.tensor([[advantage]]), 0.2, 0.2).sum().backward()
    assert (logps.grad is not None and float(logps.grad.abs()) > 0) == moves


def test_sequence_level_ratios_and_cispo_are_the_written_out_formulas() -> None:
    """GSPO, arXiv 2507.18071, equations 5 and 7; CISPO, arXiv 2506.13585, equation 4; both without the divergence."""
    generator = torch.Generator().manual_seed(3)
    logps, old = (-2 * torch.rand(4, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    advantage, lengths = [0.9, -0.4, 1.3, -1.1], [6, 3, 1, 4]
    mask = torch.arange(6) < torch.tensor(lengths).unsqueeze(1)
    low, high = 0.1, 0.3

    gspo, gspo_gradient = 0.0, np.zeros((4, 6))
    cispo, cispo_gradient = 0.0, np.zeros((4, 6))
    for i, (a, length) in enumerate(zip(advantage, lengths, strict=True)):
        s = math.exp(sum(float(logps[i, t] - old[i, t]) for t in range(length)) / length)
        bounded = min(max(s, 1 - low), 1 + high)
        gspo -= min(s * a, bounded * a) / 4
        for t in range(length):
            gspo_gradient[i, t] = -s * a / length / 4 if s * a <= bounded * a else 0.0
            weight = min(math.exp(float(logps[i, t] - old[i, t])), 1 + high)
            cispo -= weight * a * float(logps[i, t]) / sum(lengths)
            cispo_gradient[i, t] = -weight * a / sum(lengths)

    def ours(kind: grpo.LossType, level: grpo.Level) -> tuple[float, np.ndarray]:
        leaf = logps.clone().requires_grad_()
        scale = torch.tensor(advantage, dtype=torch.float64)
        loss = grpo.token_loss(leaf, old, scale, mask, low=low, high=high, kind=kind, level=level)
        total = grpo.reduce_loss(loss, mask, kind, sequences=4, tokens=sum(lengths), max_tokens=6)
        total.backward()
        assert leaf.grad is not None
        return float(total.detach()), leaf.grad.numpy()

    found, gradient = ours("grpo", "sequence")
    assert found == pytest.approx(gspo, rel=1e-12)
    np.testing.assert_allclose(gradient, gspo_gradient, atol=1e-14)
    assert (gspo_gradient[:, 0] == 0).any() and (gspo_gradient[:, 0] != 0).any()  # some clipped, some not
    found, gradient = ours("cispo", "token")
    assert found == pytest.approx(cispo, rel=1e-12)
    np.testing.assert_allclose(gradient, cispo_gradient, atol=1e-14)


def case() -> tuple[torch.Tensor, torch.Tensor]:
    loss = torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    return loss, mask


@pytest.mark.parametrize(
    ("kind", "wanted"), [("grpo", (2 + 4 + 0) / 3), ("dapo", 10 / 4), ("cispo", 10 / 4), ("dr_grpo", 10 / (3 * 5))]
)
def test_normalisers_by_hand(kind: grpo.LossType, wanted: float) -> None:
    loss, mask = case()
    found = grpo.reduce_loss(loss, mask, kind, sequences=3, tokens=4, max_tokens=5)
    assert float(found) == pytest.approx(wanted)


@pytest.mark.parametrize("kind", ["grpo", "dapo", "dr_grpo"])
def test_parts_add_up_to_the_whole(kind: grpo.LossType) -> None:
    loss, mask = case()
    whole = grpo.reduce_loss(loss, mask, kind, sequences=3, tokens=4, max_tokens=5)
    parts = [
        grpo.reduce_loss(loss[i : i + 1], mask[i : i + 1], kind, sequences=3, tokens=4, max_tokens=5) for i in range(3)
    ]
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize("garbage", [0.0, 1e30, -1e30, math.inf, math.nan])
def test_what_is_masked_never_matters(garbage: float) -> None:
    generator = torch.Generator().manual_seed(1)
    clean, ref = torch.randn(2, 5, generator=generator), torch.randn(2, 5, generator=generator)
    mask = torch.tensor([[True, True, True, False, False], [False] * 5])
    results = []
    for filler in (0.0, garbage):
        logps = torch.where(mask, clean, filler).requires_grad_()
        reference = torch.where(mask, ref, filler)
        loss = grpo.token_loss(logps, logps.detach(), torch.tensor([1.0, -1.0]), mask, reference=reference, beta=0.1)
        total = grpo.reduce_loss(loss, mask, "grpo", sequences=2, tokens=3, max_tokens=5)
        total.backward()
        results.append((total.detach(), logps.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert grpo.masked_mean(torch.full((3,), garbage), torch.zeros(3, dtype=torch.bool)) == 0


def test_importance_is_the_truncated_ratio() -> None:
    policy = torch.tensor([[-1.0, -2.0, -0.5, math.nan]], requires_grad=True)
    sampled = torch.tensor([[-1.0, -2.5, -3.0, math.inf]])
    mask = torch.tensor([[True, True, True, False]])
    weight = grpo.importance(policy, sampled, mask, cap=2.0)
    torch.testing.assert_close(weight, torch.tensor([[1.0, math.exp(0.5), 2.0, 1.0]]))
    assert not weight.requires_grad


def test_importance_weighs_the_surrogate_and_not_the_divergence() -> None:
    logps, reference = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -1.0]])
    mask, advantage = torch.ones(1, 2, dtype=torch.bool), torch.tensor([0.7])
    weight = torch.tensor([[0.5, 1.5]])
    loss = grpo.token_loss(logps, logps, advantage, mask, reference=reference, beta=0.1, weight=weight)
    torch.testing.assert_close(loss, -0.7 * weight + 0.1 * grpo.k3(logps, reference))


def test_beta_without_a_reference_is_refused() -> None:
    ones = torch.ones(1, 1)
    with pytest.raises(ValueError, match="reference"):
        grpo.token_loss(ones, ones, torch.ones(1), ones.bool(), beta=0.1)


class Alone:
    """One process, as far as TRL's loss asks."""

    num_processes, sync_gradients = 1, True

    def gather(self, value: torch.Tensor) -> torch.Tensor:
        return value

    gather_for_metrics = gather

    def reduce(self, value: torch.Tensor, reduction: str = "sum") -> torch.Tensor:
        return value


@pytest.mark.trl
@pytest.mark.parametrize(
    ("kind", "level"),
    [("grpo", "token"), ("dapo", "token"), ("dr_grpo", "token"), ("cispo", "token"), ("grpo", "sequence")],
)
def test_equal_to_trl(kind: grpo.LossType, level: grpo.Level) -> None:
    """TRL's own loss on the same tensors. Runs where TRL is installed (written against 1.16)."""
    trl = pytest.importorskip("trl", reason="TRL, the oracle, is not installed")
    generator = torch.Generator().manual_seed(2)
    logps, old, ref = (-torch.rand(4, 6, generator=generator) for _ in range(3))
    advantage = torch.randn(4, generator=generator)
    mask = torch.arange(6) < torch.tensor([6, 3, 1, 4]).unsqueeze(1)
    trainer = SimpleNamespace(
        accelerator=Alone(), args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        _get_per_token_logps_and_entropies=lambda *a, **k: (logps, torch.zeros_like(logps), None),
        _metrics=defaultdict(lambda: defaultdict(list)), _entropy_bonus_enabled=False, aux_loss_enabled=False,
        beta=0.04, epsilon_low=0.2, importance_sampling_level=level, loss_type=kind,
        epsilon_high=1.2 if kind == "cispo" else 0.2,  # TRL's is the bound itself there
        max_completion_length=6, model=SimpleNamespace(training=True), off_policy_mask_threshold=None,
        top_entropy_quantile=1.0, use_vllm=False, current_gradient_accumulation_steps=1,
    )  # fmt: skip
    inputs = {
        "prompt_ids": torch.zeros(4, 1, dtype=torch.long), "prompt_mask": torch.ones(4, 1, dtype=torch.long),
        "completion_ids": torch.zeros(4, 6, dtype=torch.long), "completion_mask": mask.long(),
        "advantages": advantage, "old_per_token_logps": old, "ref_per_token_logps": ref,
        "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    try:
        wanted = trl.GRPOTrainer._compute_loss(trainer, None, inputs)
    except (AttributeError, TypeError, KeyError) as error:
        # tox -e trl installs a version that this was written against; elsewhere any may be there.
        give_up = pytest.fail if os.environ.get("LENS_BENCH_REQUIRE_TRL") else pytest.skip
        give_up(f"the private loss of TRL {trl.__version__} needs something else: {error}")
    loss = grpo.token_loss(logps, old, advantage, mask, reference=ref, beta=0.04, kind=kind, level=level)
    found = grpo.reduce_loss(loss, mask, kind, sequences=4, tokens=int(mask.sum()), max_tokens=6)
    torch.testing.assert_close(found, wanted)
