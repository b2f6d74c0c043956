"""LISA and GLaMM without a checkpoint, at forced lengths, and their work against what torch counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lens_bench.costs.sam import sam_image_flops
from lens_bench.errors import RunError, UsageError
from lens_bench.llava_sam.config import GLAMM, LISA
from lens_bench.llava_sam.modeling import LlavaSam
from lens_bench.llava_sam.random_weights import named_config, word_tokens
from lens_bench.llava_sam.tiny import write_tiny
from lens_bench.perf.clock import StageClock
from lens_bench.records import ImageTask, ModelOptions, Query
from lens_bench.registry import find_model, make_segmenter, resolve_args
from lens_bench.sam.model import VIT_H, SamModel


def task() -> ImageTask:
    pixels = np.random.default_rng(1).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    return ImageTask("i", (60, 90), (Query("a", "the left one"), Query("b", "the left one")), pixels)


@pytest.fixture(scope="module")
def shape(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders with configurations and a tokenizer, but no weights."""
    model, clip = write_tiny(tmp_path_factory.mktemp("lisa"))
    for file in [*model.glob("*.bin"), *clip.glob("*.bin")]:
        file.unlink()
    return {"checkpoint": str(model), "clip": str(clip)}


def segmenter(args: dict[str, str], **more: str):  # type: ignore[no-untyped-def]
    card = find_model("lisa-7b")
    options = ModelOptions(card.name, str(card.folder), resolve_args(card, {**args, **more}))
    return make_segmenter(card, options)


def test_configurations_are_enough(shape: dict[str, str]) -> None:
    model = segmenter(shape)
    assert "random weights from seed 2" in model.load_random(2).notes
    assert [p.status for p in model.segment([task()])] == ["ok", "ok"]


@contextmanager
def counted(into: dict[str, float], stage: str) -> Iterator[None]:
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield
    into[stage] = into.get(stage, 0.0) + counter.get_total_flops()


def test_forced_answers_end_with_one_mask_and_their_work_is_what_torch_counts(
    shape: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = segmenter(shape, mode="generated")
    model.force_length(9)
    model.load_random(0)
    found: dict[str, float] = {}
    monkeypatch.setattr(StageClock, "stage", lambda _, name: counted(found, name))
    predictions = model.segment([task()])
    assert [p.tokens.completion for p in predictions] == [9, 9]
    assert all(p.status == "ok" and p.mask is not None for p in predictions)
    costs = model.costs([task()], predictions)
    for stage, cost in costs.items():
        assert cost.flops == pytest.approx(found[stage], rel=0.03), stage
        assert cost.moved > 0


def test_a_length_that_the_model_has_no_positions_for_is_refused(shape: dict[str, str]) -> None:
    model = segmenter(shape, mode="generated")
    model.force_length(100_000)
    with pytest.raises(UsageError, match="--new-tokens 100000 is more than the model has room for: 2048 positions"):
        model.load_random(0)


def test_an_answer_is_never_cut_below_the_forced_length(shape: dict[str, str]) -> None:
    """What the shortest prompt leaves room for, a real one need not."""
    model = segmenter(shape, mode="generated")
    model.force_length(100_000)
    with pytest.raises(UsageError) as caught:
        model.load_random(0)
    model.force_length(int(caught.value.hint.rpartition(" ")[2]) - 1)
    model.load_random(0)
    with pytest.raises(RunError, match="leaves no room to write"):
        model.segment([task()])


def test_vit_h_on_the_meta_device() -> None:
    found: dict[str, float] = {}
    with torch.device("meta"), counted(found, "all"):
        SamModel(VIT_H).features(torch.zeros(1, 3, 1024, 1024))
    assert sam_image_flops(VIT_H) == pytest.approx(found["all"], rel=0.03)


def test_released_sizes_have_the_parameters_of_the_released_models() -> None:
    for family, name, billions in (
        (LISA, "lisa-7b", 7.7),
        (LISA, "lisa-13b-llama2", 13.97),
        (GLAMM, "glamm-refseg", 7.7),
    ):
        config = named_config(family, name)
        assert config is not None
        with torch.device("meta"):
            total = sum(p.numel() for p in LlavaSam(config).parameters())
        assert total / 1e9 == pytest.approx(billions, rel=0.02), name
    assert named_config(LISA, "mine") is None


def test_words_without_a_vocabulary() -> None:
    tokenizer = word_tokens(LISA)
    ids = tokenizer.encode("<im_start> What is it? [SEG]")
    assert ids == [tokenizer.added["<im_start>"], *[300] * 4, tokenizer.seg]
    assert tokenizer.decode(ids).count("word") == 1 or "word" in tokenizer.decode(ids)


def test_given_answers_cannot_be_forced(shape: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="writes nothing in mode teacher-forced"):
        segmenter(shape).force_length(4)


def test_an_unknown_size_is_refused(tmp_path: Path) -> None:
    card = find_model("lisa-7b")
    options = ModelOptions("mine", str(card.folder), resolve_args(card, {}))
    with pytest.raises(UsageError, match="nothing says"):
        make_segmenter(card, options).load_random(0)
