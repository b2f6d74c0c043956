"""The engine against transformers' generate with a full second forward, and against itself in other batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType

import numpy as np
import pytest
import torch

from lens_bench import masks
from lens_bench.errors import OutOfMemoryError
from lens_bench.lens.config import LensConfig
from lens_bench.lens.engine import Answer, Batches, Engine
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.prompts import Prompter
from lens_bench.lens.recipe import Recipe
from lens_bench.lens.tiny import byte_tokenizer, tiny_config, tiny_model
from lens_bench.records import Pixels

PrompterOf = Callable[[LensConfig], Prompter]

Asks = list[tuple[int, str]]


def flipped(a: Answer, b: np.ndarray) -> float:
    """Share of pixels on which two masks differ."""
    assert a.mask is not None
    return float(np.mean(masks.decode(a.mask) != b))


def spy(engine: Engine) -> list[torch.Tensor]:
    """Record the hidden states at the queries in the order in which they are painted."""
    seen: list[torch.Tensor] = []
    paint = engine._paint

    def record(asked: Sequence[object], states: Sequence[torch.Tensor], encoded: Sequence[object]) -> object:
        seen.extend(states)
        return paint(asked, states, encoded)  # type: ignore[arg-type]

    engine._paint = record  # type: ignore[method-assign,assignment]
    return seen


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl"])
@pytest.mark.parametrize("positions", ["mrope", "lens-1d"])
def test_equal_to_generate_and_a_full_second_forward(
    family: str,
    positions: str,
    authors: ModuleType,
    prompter_of: PrompterOf,
    images: list[Pixels],
    asks: Asks,
    ends: tuple[int, ...],
) -> None:
    assert positions in ("mrope", "lens-1d")
    config = tiny_config("mrope" if positions == "mrope" else "lens-1d", family, ends=ends)
    model = tiny_model(config, seed=5)
    prompter = prompter_of(config)
    engine = Engine(model, prompter)
    states = spy(engine)
    answers = engine.answer(images, asks)
    lengths = set()
    order = sorted(range(len(asks)), key=lambda n: asks[n][0])
    for place, number in enumerate(order):
        image, text = asks[number]
        plain = authors.segment_referent(model, prompter, images[image], [text])[0]
        assert answers[number].ids == plain.ids and answers[number].text == plain.text
        error = (states[place] - plain.queries).norm() / plain.queries.norm()
        assert error < 1e-4, (number, float(error))
        assert flipped(answers[number], plain.mask) <= 1e-3
        lengths.add(len(plain.ids))
    assert len(lengths) > 2  # rows ended at different steps, or retiring was not tested


@pytest.mark.parametrize("rows", [1, 2, 5, 64])
def test_batches_change_nothing(
    model: LensModel, prompter_of: PrompterOf, images: list[Pixels], asks: Asks, rows: int
) -> None:
    prompter = prompter_of(model.config)
    whole = Engine(model, prompter).answer(images, asks)
    parts = Engine(model, prompter, batches=Batches(images=1 + rows % 2, rows=rows, masks=rows)).answer(images, asks)
    for a, b in zip(whole, parts, strict=True):
        assert a.ids == b.ids and a.box == b.box and a.prompt_tokens == b.prompt_tokens
        assert b.mask is not None and flipped(a, masks.decode(b.mask)) <= 1e-3


def test_order_of_the_questions_does_not_matter(
    model: LensModel, prompter_of: PrompterOf, images: list[Pixels], asks: Asks
) -> None:
    prompter = prompter_of(model.config)
    forward = Engine(model, prompter).answer(images, asks)
    backward = Engine(model, prompter).answer(images, asks[::-1])[::-1]
    assert [a.ids for a in forward] == [b.ids for b in backward]


def test_expressions_and_images_change_the_answer(
    model: LensModel, prompter_of: PrompterOf, images: list[Pixels], asks: Asks
) -> None:
    answers = Engine(model, prompter_of(model.config)).answer(images, asks)
    assert len({a.ids for a in answers}) > 3
    assert len({a.mask.counts for a in answers if a.mask is not None}) == len(asks)


def test_a_prompt_longer_than_the_limit_is_an_error_of_its_own(model: LensModel, images: list[Pixels]) -> None:
    recipe = Recipe(max_pixels=112 * 112, max_length=140)
    prompter = Prompter(recipe, byte_tokenizer(), frozenset(model.config.ends), model.config.padding)
    answers = Engine(model, prompter).answer(images, [(0, "a" * 60), (1, "short")])
    assert answers[0].mask is None and answers[0].error is not None and "max_length 140" in answers[0].error
    assert answers[1].mask is not None and answers[1].error is None
    assert answers[1].prompt_tokens + len(answers[1].ids) <= 140


def test_running_out_of_memory_halves_the_batch(
    model: LensModel, prompter_of: PrompterOf, images: list[Pixels], asks: Asks, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompter = prompter_of(model.config)
    expected = [a.ids for a in Engine(model, prompter).answer(images, asks)]
    engine = Engine(model, prompter, batches=Batches(rows=7))
    tried: list[int] = []
    write = engine.writer.write

    def small(rows: Sequence[object]) -> object:
        tried.append(len(rows))
        if len(rows) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return write(rows)  # type: ignore[arg-type]

    monkeypatch.setattr(engine.writer, "write", small)
    assert [a.ids for a in engine.answer(images, asks)] == expected
    assert tried[:3] == [7, 3, 1] and max(tried[2:]) == 1
    monkeypatch.setattr(engine.writer, "write", lambda rows: (_ for _ in ()).throw(torch.OutOfMemoryError("none")))
    with pytest.raises(OutOfMemoryError, match="expressions: one item"):
        engine.answer(images, asks)


def test_other_errors_are_not_taken_for_memory(
    model: LensModel, prompter_of: PrompterOf, images: list[Pixels], asks: Asks, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(model, prompter_of(model.config))
    monkeypatch.setattr(engine.writer, "write", lambda rows: (_ for _ in ()).throw(RuntimeError("shapes")))
    with pytest.raises(RuntimeError, match="shapes"):
        engine.answer(images, asks)


def test_stages_are_timed(model: LensModel, prompter_of: PrompterOf, images: list[Pixels], asks: Asks) -> None:
    engine = Engine(model, prompter_of(model.config))
    engine.answer(images, asks)
    assert set(engine.seconds) >= {"vision tower", "prefix", "SAM 2 features", "answer", "mask pass", "masks"}
    assert all(v >= 0 for v in engine.seconds.values())
