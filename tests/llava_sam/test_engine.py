"""The engine against whole rows read one at a time: sharing, padding and batching change nothing."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from lens_bench import masks
from lens_bench.llava_sam.checkpoint import Loaded
from lens_bench.llava_sam.conversation import Prompt, Template, Turn
from lens_bench.llava_sam.engine import Answer, Ask, Engine
from lens_bench.llava_sam.images import clip_pixels
from lens_bench.llava_sam.modeling import LlavaSam
from lens_bench.records import Pixels
from lens_bench.sam.images import prepare
from lens_bench.sam.model import SamModel, upsample

BUDGET = 9


@pytest.fixture(autouse=True)
def _quick_sam(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that shows its prompt in the mask and takes no time; the real one is tested beside its peers."""

    def masks_of(self: SamModel, features: Tensor, prompts: Tensor) -> Tensor:
        return prompts[:, 0, :, None] * prompts[:, 0, None, :] + features[:, 0, :1, :1]

    monkeypatch.setattr(SamModel, "features", lambda self, pixels: 0.01 * pixels.mean(dim=1, keepdim=True))
    monkeypatch.setattr(SamModel, "masks", masks_of)


@pytest.fixture(scope="module")
def images() -> list[Pixels]:
    rng = np.random.default_rng(5)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((50, 80), (90, 60))]


@pytest.fixture(scope="module")
def template(lisa: Loaded) -> Template:
    return Template(lisa.tokenizer, "", "\n ")


def whole(model: LlavaSam, pixels: Pixels, prompt: Prompt, written: list[int]) -> Tensor:
    """Hidden states [L, D] of a whole row without any cache; the image's tokens included."""
    visual = model.see(clip_pixels(pixels, 224).unsqueeze(0))[0]
    before, after = (model.embedding(torch.tensor(ids)) for ids in (prompt.before, [*prompt.after, *written]))
    embeds = torch.cat([before, visual, after]).unsqueeze(0)
    causal = torch.ones(embeds.shape[1], embeds.shape[1], dtype=torch.bool).tril()
    return model.read(embeds, torch.arange(embeds.shape[1])[None], causal[None, None])[0]


def painted(model: LlavaSam, pixels: Pixels, states: list[Tensor]) -> list[masks.Rle]:
    if not states:
        return []
    image = prepare(pixels, 1024)
    features = model.sam.features(image.pixels.unsqueeze(0))
    logits = upsample(model.sam.masks(features, model.prompts(torch.stack(states))), image)
    return [masks.encode((mask > 0).numpy()) for mask in logits]


@torch.inference_mode()
def naive(model: LlavaSam, pixels: Pixels, ask: Ask, seg: int, eos: int) -> tuple[list[masks.Rle], list[int]]:
    """The same by definition: every step reads everything again."""
    prompt, start = ask.prompt, len(ask.prompt.before) + model.image_tokens
    states: list[Tensor] = []
    written: list[int] = []
    hidden = whole(model, pixels, prompt, [])
    states += [hidden[start + place - 1] for place in prompt.segs]
    while len(written) < ask.budget and written[-1:] != [eos]:
        written.append(int(model.logits(hidden[-1]).argmax()))
        if written[-1] == seg:
            states.append(hidden[-1])
        hidden = whole(model, pixels, prompt, written)
    return painted(model, pixels, states), written


def same(a: masks.Rle, b: masks.Rle) -> bool:
    """Equal but for pixels whose logit is zero to the last digit."""
    return masks.area(a) + masks.area(b) - 2 * masks.overlap(a, b) <= 3


def check(answers: list[Answer], expected: list[tuple[list[masks.Rle], list[int]]]) -> None:
    for answer, (painting, written) in zip(answers, expected, strict=True):
        assert list(answer.ids) == written
        assert len(answer.masks) == len(painting)
        assert all(same(a, b) for a, b in zip(answer.masks, painting, strict=True))


def test_forced_and_written_answers_are_those_of_whole_rows(
    lisa: Loaded, template: Template, images: list[Pixels]
) -> None:
    model, eos = lisa.model, lisa.tokenizer.eos
    forced = [
        Ask(1, template.write([Turn("the cat", "[SEG].")])),
        Ask(0, template.write([Turn("a much longer expression than others", "Sure, it is [SEG].")])),
        Ask(0, template.write([Turn("two", "[SEG]."), Turn("turns", "Sure, [SEG].")])),
    ]
    free = [Ask(i, template.write([Turn(text)]), BUDGET) for i, text in ((0, "left"), (1, "right of it"), (1, "z"))]
    # A word that the random model does write stands for [SEG], and another for the end, so that rows differ in length.
    first = Engine(model, -1, -1).answer(images, free)
    words = Counter(word for answer in first for word in answer.ids)
    seg = min((answer.ids[0] for answer in first), key=lambda word: (words[word], word))
    end = next(word for word in first[1].ids[5:] if word != seg)
    engine = Engine(model, seg, end)
    expected = [naive(model, images[ask.image], ask, seg, end) for ask in [*forced, *free]]
    assert sum(len(painting) for painting, _ in expected[3:]) > 0
    assert len({len(written) for _, written in expected[3:]}) > 1
    together = engine.answer(images, [*forced, *free])
    check(together, expected)
    check(Engine(model, seg, end, rows=2).answer(images, [*free, forced[2]]), [*expected[3:], expected[2]])
    assert [a.prompt_tokens for a in together] == [
        len(ask.prompt.before) + model.image_tokens + len(ask.prompt.after) for ask in [*forced, *free]
    ]
    assert eos not in (seg, end)


def test_the_state_is_the_one_before_the_mask_token(lisa: Loaded, template: Template, images: list[Pixels]) -> None:
    """What stands at [SEG] itself, or behind it, has no influence on the mask; what stands before it has."""
    prompt = template.write([Turn("the cat", "[SEG].")])
    (seg,) = prompt.segs
    engine = Engine(lisa.model, lisa.tokenizer.seg, lisa.tokenizer.eos)

    def mask(after: tuple[int, ...]) -> masks.Rle:
        return engine.answer(images[:1], [Ask(0, Prompt(prompt.before, after, (seg,)))])[0].masks[0]

    plain = mask(prompt.after)
    assert mask((*prompt.after[:seg], 300, 301)) == plain
    assert mask((*prompt.after[: seg - 1], 300, *prompt.after[seg:])) != plain


def test_encoders_run_once_per_image(
    lisa: Loaded, template: Template, images: list[Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, int] = {"clip": 0, "sam": 0}
    see, features = type(lisa.model).see, type(lisa.model.sam).features

    def counting_see(self: LlavaSam, pixels: Tensor) -> Tensor:
        seen["clip"] += len(pixels)
        return see(self, pixels)

    def counting_features(self: object, pixels: Tensor) -> Tensor:
        seen["sam"] += len(pixels)
        return features(self, pixels)

    monkeypatch.setattr(type(lisa.model), "see", counting_see)
    monkeypatch.setattr(type(lisa.model.sam), "features", counting_features)
    engine = Engine(lisa.model, lisa.tokenizer.seg, lisa.tokenizer.eos)
    engine.answer(images, [Ask(n % 2, template.write([Turn(f"thing {n}", "[SEG].")])) for n in range(3)])
    assert seen == {"clip": 2, "sam": 2}
    assert {"vision tower", "prefix", "language", "SAM features", "masks"} <= set(engine.seconds)


def test_an_image_without_a_mask_is_not_encoded_for_sam(lisa: Loaded, template: Template, images: list[Pixels]) -> None:
    engine = Engine(lisa.model, seg=-1, eos=lisa.tokenizer.eos)
    (answer,) = engine.answer(images, [Ask(1, template.write([Turn("nothing")]), 3)])
    assert answer.masks == ()
    assert len(answer.ids) == 3
    assert "SAM features" not in engine.seconds
    assert engine.answer(images, []) == []
