"""Rollouts: draws are functions of (seed, place, member), and their probabilities are the trainer's."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lens_bench.lens.modeling import LensModel
from lens_bench.lens.prompts import Prompter
from lens_bench.lens.writer import HfWriter, Row, Written
from lens_bench.train.pack import Segment, pack
from lens_bench.train.policy import Policy
from lens_bench.train.rollout import Ask, HfSampler, Rollout, _Inverse, read_prompts, rollout_bytes
from lens_bench.train.trainee import layout_of, read, score, see

from .conftest import Run, tiny_recipe
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


# ---------------------------------------------------------------------------------------------- memory


class Living(TorchDispatchMode):
    """The most bytes that are held at once by tensors made while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.most = self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> object:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self._meet(tensor.untyped_storage())
        return out

    def _meet(self, storage: torch.UntypedStorage) -> None:
        place, size = storage.data_ptr(), storage.nbytes()
        if place and place not in self._known:
            self._known.add(place)
            self._now += size
            self.most = max(self.most, self._now)
            weakref.finalize(storage, self._lose, place, size)

    def _lose(self, place: int, size: int) -> None:
        self._known.discard(place)
        self._now -= size


@pytest.mark.parametrize(("longest", "temperature"), [(9, 0.8), (90, 1e9)])
def test_the_memory_of_a_rollout_is_bounded_by_what_is_counted(longest: int, temperature: float) -> None:
    """Between few rows and many the memory that is really held grows by at most so much a row, and not by much less."""
    model, prompter, found = asks()
    held: dict[int, int] = {}
    for members in (2, 18):
        sampler = HfSampler(model, prompter, temperature, longest)
        with Living() as living:
            groups = sampler.sample(found, members, 0)
        held[members] = living.most
    assert max(len(r.ids) for g in groups for r in g) == longest
    with torch.no_grad():
        counted = rollout_bytes(model, read_prompts(model, prompter.before, found), longest)
    grown = (held[18] - held[2]) / (16 * len(found))
    assert grown <= counted <= 4 * grown


def test_rows_are_what_fits_when_they_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when the sampler is made: an optimizer takes its memory later."""
    model, prompter, found = asks()
    sampler, fixed = HfSampler(model, prompter, 0.8, 9), HfSampler(model, prompter, 0.8, 9, rows=5)
    with torch.no_grad():
        prompts = read_prompts(model, prompter.before, found)
    each = rollout_bytes(model, prompts, 9)
    assert sampler._fits(prompts) == 256  # a CPU has much memory
    monkeypatch.setattr(LensModel, "device", torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 0)
    for rows in (7, 3):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=2 * rows * each: (free, 2 * free))
        assert (sampler._fits(prompts), fixed._fits(prompts)) == (rows, 5)


def test_more_rows_than_fitted_are_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompter, found = asks()
    whole, sizes, real = sample(found), list[int](), HfWriter.write

    def write(writer: HfWriter, rows: Sequence[Row]) -> list[Written]:
        sizes.append(len(rows))
        if len(rows) > 4:
            raise torch.OutOfMemoryError("full")
        return real(writer, rows)

    monkeypatch.setattr(HfWriter, "write", write)
    sampler = HfSampler(model, prompter, 0.8, 9)
    for tried in ([9, 4, 4, 1], [4, 4, 1]):
        sizes.clear()
        assert [[r.ids for r in g] for g in sampler.sample(found, MEMBERS, 0)] == [[r.ids for r in g] for g in whole]
        assert sizes == tried


def test_a_step_lets_the_sampler_rest_before_its_gradients(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for owner, name in ((HfSampler, "sync"), (HfSampler, "sample"), (HfSampler, "rest"), (Policy, "_loss")):
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, real=real, name=name: (calls.append(name), real(*a))[1])
    run(tiny_recipe("grpo", {"optimiser": {"steps": 2}}))
    assert calls == ["sync", "sample", "rest", "_loss", "_loss"] * 2
