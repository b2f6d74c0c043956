"""Rollouts: draws are functions of (seed, place, member), and their probabilities are the trainer's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lens_bench.lens.modeling import LensModel
from lens_bench.lens.prompts import Prompter
from lens_bench.train.pack import Segment, pack
from lens_bench.train.rollout import Ask, HfSampler, Rollout, _Inverse
from lens_bench.train.trainee import layout_of, read, score, see

from .test_pack import setting

MEMBERS = 3


def asks() -> tuple[LensModel, Prompter, list[Ask]]:
    model, prompter, sights, _ = setting()
    texts = ("red", "the second from the left", "x")
    found = [
        Ask(sights[n], prompter.after(text), prompter.after_text(text), place=10 + n) for n, text in enumerate(texts)
    ]
    return model, prompter, found


def sample(found: list[Ask], seed: int = 0, rows: int | None = None, temperature: float = 0.8) -> list[list[Rollout]]:
    model, prompter, _, _ = setting()
    return HfSampler(model, prompter, temperature, 9, rows).sample(found, MEMBERS, seed)


def test_same_seed_same_rollouts_whatever_the_batch() -> None:
    _, _, found = asks()
    whole = sample(found)
    assert [[r.ids for r in g] for g in sample(found, rows=2)] == [[r.ids for r in g] for g in whole]
    assert [r.ids for r in sample(found[1:2])[0]] == [r.ids for r in whole[1]]
    assert [[r.ids for r in g] for g in sample(found, seed=1)] != [[r.ids for r in g] for g in whole]
    for group in whole:
        assert len({r.ids for r in group}) == MEMBERS, "members of a group draw their own numbers"


@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_log_probabilities_are_the_trainers(temperature: float) -> None:
    model, prompter, found = asks()
    groups = sample(found, temperature=temperature)
    asked = [[Segment(ask.after, r.ids) for r in group] for ask, group in zip(found, groups, strict=True)]
    sights = [ask.sight for ask in found]
    rows = pack(layout_of(model, prompter), [s.prepared.grid for s in sights], asked)
    with torch.no_grad():
        ours = score(model, read(model, rows, see(model, sights)), rows, temperature, 1024).logps
    theirs = torch.tensor([p for group in groups for r in group for p in r.logps])
    torch.testing.assert_close(ours[rows.real], theirs, atol=2e-5, rtol=1e-4)


def test_greedy_answers_have_the_probabilities_of_transformers() -> None:
    """An independent path: transformers' own positions, cache and generation from ids and patches."""
    model, prompter, found = asks()
    for ask in found:
        prepared = ask.sight.prepared
        count = prepared.grid[0] * prepared.grid[1] * prepared.grid[2] // model.merge**2
        ids = torch.tensor([[*prompter.before, *[model.image_token] * count, *ask.after]])
        out = model.qwen.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == model.image_token).int(),
            pixel_values=prepared.patches,
            image_grid_thw=torch.tensor([prepared.grid]),
            max_new_tokens=7,
            do_sample=False,
            output_scores=True,
            return_dict_in_generate=True,
            eos_token_id=sorted(prompter.ends),
            pad_token_id=prompter.padding,
        )
        theirs = model.qwen.compute_transition_scores(out.sequences, out.scores, normalize_logits=True)[0]
        answer = tuple(out.sequences[0, ids.shape[1] :].tolist())
        rows = pack(layout_of(model, prompter), [prepared.grid], [[Segment(ask.after, answer)]])
        with torch.no_grad():
            ours = score(model, read(model, rows, see(model, [ask.sight])), rows, 1.0, 1024).logps[0]
        torch.testing.assert_close(ours[: len(theirs)], theirs, atol=2e-5, rtol=1e-4)


def test_answers_end_where_they_should() -> None:
    _, prompter, found = asks()
    ends = prompter.ends
    for group in sample(found):
        for rollout in group:
            assert 1 <= len(rollout.ids) <= 9 and len(rollout.logps) == len(rollout.ids)
            assert not any(token in ends for token in rollout.ids[:-1])
            assert len(rollout.ids) == 9 or rollout.ids[-1] in ends


def test_the_sampler_uses_the_current_weights_and_leaves_the_mode_alone() -> None:
    model, prompter, found = asks()
    sampler = HfSampler(model, prompter, 0.8, 9)
    model.train()
    before = sampler.sample(found, MEMBERS, 0)
    with torch.no_grad():
        for parameter in model.qwen.parameters():
            parameter.mul_(0.5)
    sampler.sync()
    after = sampler.sample(found, MEMBERS, 0)
    assert model.training
    assert [r.logps for g in before for r in g] != [r.logps for g in after for r in g]


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0]])
    count = 4000
    choose = _Inverse(0.7, 0, [(n, 0) for n in range(count)], 1)
    drawn = choose(logits.expand(count, -1), range(count))
    shares = np.bincount(drawn.numpy(), minlength=4) / count
    wanted = torch.softmax(logits[0] / 0.7, 0).numpy()
    # Four standard errors.
    assert (np.abs(shares - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / count)).all()
    assert choose.logps[0][0] == pytest.approx(float(torch.log_softmax(logits[0] / 0.7, 0)[drawn[0]]), abs=1e-6)
    certain = _Inverse(1.0, 0, [(0, 0)], 1)(torch.tensor([[-1e9, 0.0, -1e9]]), [0])
    assert certain.tolist() == [1]
