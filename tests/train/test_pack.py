"""Packed rows against one full row per expression, which is how the authors' mask pass reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lens_bench.lens.images import Patching, prepare
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.prompts import Prompter
from lens_bench.lens.tiny import byte_tokenizer, tiny_config, tiny_model
from lens_bench.train.pack import Pack, Segment, pack
from lens_bench.train.trainee import Outputs, Scored, Sight, Trainee, frozen_copy, layout_of, read, score, see

ASKED = [[(5, 9), (7, 3), (4, 1)], [], [(6, 6)], [(3, 12), (9, 2)]]


def setting(positions: str = "mrope") -> tuple[LensModel, Prompter, list[Sight], list[list[Segment]]]:
    """A model, three images of different sizes (and one that nobody asks about), segments of unequal lengths."""
    assert positions in ("mrope", "lens-1d")
    model = tiny_model(tiny_config("mrope" if positions == "mrope" else "lens-1d"), seed=1)
    config = model.config
    prompter = Prompter(config.recipe, byte_tokenizer(), frozenset(config.ends), config.padding)
    rng = np.random.default_rng(0)
    sights = [
        Sight(prepare(rng.integers(0, 256, (h, w, 3), dtype=np.uint8), config.recipe, Patching(), 128))
        for h, w in ((60, 110), (64, 64), (112, 56), (90, 90))
    ]
    draw = lambda n: tuple(int(i) for i in rng.integers(0, 250, n))  # noqa: E731
    return model, prompter, sights, [[Segment(draw(a), draw(b)) for a, b in group] for group in ASKED]


def packed(model: LensModel, prompter: Prompter, sights: list[Sight], asked: list[list[Segment]], share: bool) -> Pack:
    return pack(layout_of(model, prompter), [s.prepared.grid for s in sights], asked, share=share)


@pytest.mark.parametrize("positions", ["mrope", "lens-1d"])
def test_a_shared_prefix_is_a_full_row_each(positions: str) -> None:
    model, prompter, sights, asked = setting(positions)
    trainee = Trainee(model)
    shared = packed(model, prompter, sights, asked, True)
    alone = packed(model, prompter, sights, asked, False)
    assert len(shared.images) == 3 and len(alone.images) == 6 and shared.tokens < alone.tokens
    with torch.no_grad():
        one, other = trainee(sights, shared), trainee(sights, alone)
        assert isinstance(one, Outputs) and isinstance(other, Outputs)
        assert one.scored is not None and other.scored is not None
        torch.testing.assert_close(one.scored.logps, other.scored.logps, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(one.masks, other.masks, atol=1e-4, rtol=1e-4)
        # And both are what the model's own unshared pass gives.
        visual = see(model, sights)
        segments = [(n, s) for n, group in enumerate(asked) for s in group]
        for number, (image, segment) in enumerate(segments):
            row = [*prompter.before, *[model.image_token] * len(visual[image]), *segment.after, *segment.answer]
            ids = torch.tensor([row])
            joint = model.joint(ids, torch.ones_like(ids), [visual[image]], [sights[image].prepared.grid])
            flat = read(model, shared, visual)
            torch.testing.assert_close(flat[shared.queries_at[number]], joint.queries[0], atol=1e-4, rtol=1e-4)
            scores = torch.log_softmax(model.logits(joint.text[0]).float(), -1)
            answer = torch.tensor(segment.answer)
            start = len(row) - len(answer) - 1
            wanted = scores[start:-1].gather(1, answer[:, None])[:, 0]
            torch.testing.assert_close(one.scored.logps[number, : len(answer)], wanted, atol=1e-4, rtol=1e-4)


def test_queries_change_no_text_and_neighbours_change_nothing() -> None:
    model, prompter, sights, asked = setting()
    before = scored(model, sights, packed(model, prompter, sights, asked, True))
    with torch.no_grad():
        model.head.queries.add_(1.0)
    torch.testing.assert_close(
        scored(model, sights, packed(model, prompter, sights, asked, True)).logps, before.logps, atol=0, rtol=0
    )
    fewer = [asked[0][:1], *asked[1:]]
    alone = scored(model, sights, packed(model, prompter, sights, fewer, True))
    count = len(asked[0][0].answer)
    torch.testing.assert_close(alone.logps[0, :count], before.logps[0, :count], atol=1e-5, rtol=1e-5)


def scored(model: LensModel, sights: list[Sight], rows: Pack, temperature: float = 1.0, chunk: int = 1024) -> Scored:
    with torch.no_grad():
        return score(model, read(model, rows, see(model, sights)), rows, temperature, chunk)


def test_padding_in_an_answer_is_not_seen_by_the_queries() -> None:
    model, prompter, sights, _ = setting()
    after, answer = (1, 2, 3), (4, 5, 6)
    rows = [
        packed(model, prompter, sights, [[Segment(after, ids)], [], [], []], True)
        for ids in (answer, (*answer, model.config.padding))
    ]
    with torch.no_grad():
        states = [read(model, r, see(model, sights))[r.queries_at[0]] for r in rows]
    torch.testing.assert_close(states[0], states[1], atol=1e-5, rtol=1e-5)
    # The token itself still has a log-probability.
    assert int(rows[1].real.sum()) == 4


def test_an_answer_may_name_the_image_placeholder() -> None:
    model, prompter, sights, _ = setting()
    rows = packed(model, prompter, sights, [[Segment((1, 2), (model.image_token, 3))], [], [], []], True)
    assert torch.isfinite(scored(model, sights, rows).logps).all()
    assert int(rows.picture.sum()) == len(see(model, sights)[0])


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
def test_scores_are_divided_by_the_temperature_and_chunks_change_nothing(temperature: float) -> None:
    model, prompter, sights, asked = setting()
    rows = packed(model, prompter, sights, asked, True)
    whole = scored(model, sights, rows, temperature)
    with torch.no_grad():
        hidden = read(model, rows, see(model, sights))
        scores = torch.log_softmax(model.logits(hidden[rows.read_at]).float() / temperature, -1)
    wanted = scores.gather(2, rows.targets.unsqueeze(-1))[..., 0]
    torch.testing.assert_close(whole.logps[rows.real], wanted[rows.real])
    torch.testing.assert_close(whole.entropy[rows.real], -(scores.exp() * scores).sum(-1)[rows.real])
    assert not whole.logps[~rows.real].any()
    torch.testing.assert_close(scored(model, sights, rows, temperature, chunk=5).logps, whole.logps)


def test_chunks_have_the_same_gradient() -> None:
    model, prompter, sights, asked = setting()
    rows = packed(model, prompter, sights, asked, True)
    found = []
    for chunk in (1024, 5):
        model.zero_grad()
        score(model, read(model, rows, see(model, sights)), rows, 1.0, chunk).logps.sum().backward()
        found.append(model.embedding.weight.grad.clone())  # type: ignore[union-attr]
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)


def test_the_reference_sees_what_the_policy_sees() -> None:
    model, prompter, sights, asked = setting()
    rows = packed(model, prompter, sights, asked, True)
    reference = frozen_copy(model, 1024)
    policy = Trainee(model).train()
    ours, theirs = policy(sights, rows, masks=False), reference(sights, rows, masks=False)
    assert isinstance(ours, Outputs) and isinstance(theirs, Outputs) and ours.scored and theirs.scored
    assert torch.equal(ours.scored.logps, theirs.scored.logps)
    with torch.no_grad():
        model.embedding.weight.add_(0.01)
    again = reference(sights, rows, masks=False)
    assert isinstance(again, Outputs) and again.scored
    assert torch.equal(again.scored.logps, theirs.scored.logps), "the reference followed the policy"
    assert not any(p.requires_grad for p in reference.parameters())
