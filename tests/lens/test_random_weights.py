"""LENS without a checkpoint, and answers of a forced length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lens_bench.errors import UsageError
from lens_bench.lens.config import CONFIG_NAME
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.placing import Precision
from lens_bench.lens.random_weights import QWEN_SPECIAL, draw, random_lens, word_tokenizer
from lens_bench.lens.save import Story, save
from lens_bench.lens.segmenter import LensSegmenter
from lens_bench.lens.sizes import lens_2b, lens_3b, named_size
from lens_bench.lens.tiny import byte_tokenizer, tiny_config, tiny_model
from lens_bench.records import ImageTask, ModelOptions, Query
from lens_bench.registry import find_model, make_segmenter, resolve_args
from lens_bench.segmenter import SupportsCosts, SupportsForcedLength, SupportsRandomWeights


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint without its weights."""
    path = tmp_path_factory.mktemp("shape")
    save(tiny_model(tiny_config()), path, byte_tokenizer(), Story("shape"))
    for file in path.glob("*.safetensors*"):
        file.unlink()
    return path


def tiny(folder: Path, **args: str) -> LensSegmenter:
    return LensSegmenter(ModelOptions("mine", str(folder), args))


def task() -> ImageTask:
    pixels = np.random.default_rng(1).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    return ImageTask("i", (60, 90), (Query("a", "the left one"), Query("b", "x")), pixels)


def test_a_configuration_is_enough(folder: Path) -> None:
    segmenter = tiny(folder)
    assert isinstance(segmenter, SupportsRandomWeights | SupportsForcedLength | SupportsCosts)
    report = segmenter.load_random(3)
    assert report.parameters > 300_000 and "random weights from seed 3" in report.notes
    predictions = segmenter.segment([task()])
    assert [p.status for p in predictions] == ["ok", "ok"]
    assert segmenter.costs([task()], predictions)["answer"].flops > 0


@pytest.mark.parametrize("positions", ["mrope", "lens-1d"])
def test_answers_have_the_forced_length_whatever_they_say(folder: Path, positions: str) -> None:
    segmenter = tiny(folder, positions=positions)
    segmenter.force_length(40)
    segmenter.load_random(0)
    assert [p.tokens.completion for p in segmenter.segment([task()]) if p.tokens] == [40, 40]


def test_a_length_that_the_model_has_no_positions_for_is_refused_before_it_is_asked(folder: Path) -> None:
    positions = int(str(tiny_config().qwen["text_config"]["max_position_embeddings"]))  # type: ignore[index]
    segmenter = tiny(folder)
    segmenter.force_length(100_000)
    with pytest.raises(UsageError, match=f"--new-tokens 100000 .* {positions} positions") as caught:
        segmenter.load_random(0)
    fitting = int(caught.value.hint.rpartition(" ")[2]) - 1
    assert 0 < fitting < positions
    segmenter.force_length(fitting)
    segmenter.load_random(0)


def test_weights_are_a_function_of_the_seed() -> None:
    first, again, other = (random_lens(tiny_config(), seed, "cpu", Precision()) for seed in (1, 1, 2))
    for (name, a), (_, b), (_, c) in zip(
        first.named_parameters(), again.named_parameters(), other.named_parameters(), strict=True
    ):
        assert torch.isfinite(a).all() and torch.equal(a, b), name
        assert a.numel() == 1 or not torch.equal(a, c), name


def test_precision_is_kept_by_part() -> None:
    model = random_lens(tiny_config(), 0, "cpu", Precision(torch.bfloat16, torch.float32, torch.float16))
    assert model.text_dtype == torch.bfloat16
    assert model.head.queries.dtype == torch.float32
    assert next(model.sam.parameters()).dtype == torch.float16
    assert model.qwen.lm_head.weight is model.embedding.weight


@torch.inference_mode()
def test_signals_neither_vanish_nor_overflow() -> None:
    model = random_lens(tiny_config(), 0, "cpu", Precision())
    states = model.read(model.embed(torch.arange(20)[None], []), torch.arange(20).expand(3, 1, -1))
    assert 0.1 < float(states.std()) < 10


def test_every_tensor_is_drawn_in_the_shape_of_the_model() -> None:
    with torch.device("meta"):
        model = LensModel(tiny_config())
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    draw(model, 0, "cpu", lambda name: torch.float32)
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == shapes
    assert not [name for name, tensor in model.state_dict().items() if tensor.is_meta]


def test_names_of_released_sizes() -> None:
    assert named_size("lens-3b") == named_size("lens-3b-reasonseg-cot") == lens_3b()
    assert named_size("lens-2b") == lens_2b()
    assert named_size("lens-3bx") is None


def test_words_are_about_as_many_tokens_as_in_a_real_vocabulary() -> None:
    tokenizer = word_tokenizer()
    assert len(tokenizer.encode("Output the bounding box of the left dog, 12!")) == 13
    text = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>"
    ids = tokenizer.encode(text)
    assert ids[0] == QWEN_SPECIAL["<|im_start|>"] and ids[-2:] == [151655, 151653]
    assert isinstance(tokenizer.decode([0, 0, 151645]), str)


def test_without_a_shape_it_is_said_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing says") as caught:
        tiny(tmp_path).load_random(0)
    assert CONFIG_NAME in caught.value.hint


def test_the_other_engine_cannot_be_random(folder: Path) -> None:
    segmenter = LensSegmenter(ModelOptions("mine", str(folder), {}, engine="vllm"))
    with pytest.raises(UsageError, match="needs a checkpoint"):
        segmenter.load_random(0)


def test_the_released_card_says_its_size() -> None:
    card = find_model("lens-3b")
    segmenter = make_segmenter(card, ModelOptions(card.name, str(card.folder), resolve_args(card, {})))
    assert segmenter._shape() == lens_3b()  # type: ignore[attr-defined]
