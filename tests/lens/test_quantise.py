"""Quantised blocks: what an argument means where, and a LENS that is smaller and close to the plain one."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from lens_bench.errors import UsageError
from lens_bench.lens.checkpoint import load
from lens_bench.lens.engine import Engine
from lens_bench.lens.placing import BLOCKS
from lens_bench.lens.prompts import Prompter
from lens_bench.lens.quantise import Bits, bits_of
from lens_bench.lens.save import Story, save
from lens_bench.lens.segmenter import LensSegmenter
from lens_bench.lens.tiny import byte_tokenizer, tiny_config, tiny_model
from lens_bench.records import ModelOptions, Pixels

HAVE = importlib.util.find_spec("bitsandbytes") is not None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint")
    save(tiny_model(tiny_config("lens-1d")), path, byte_tokenizer(), Story("tiny"))
    return path


def test_what_the_argument_means() -> None:
    assert bits_of("none", "cpu") is bits_of("", "cpu") is bits_of(None, "cuda") is None
    assert bits_of("8bit", "cuda:1") == "8bit" and bits_of("4bit", "cuda") == "4bit"
    with pytest.raises(UsageError, match="load_in=4bit needs a GPU, the device is cpu"):
        bits_of("4bit", "cpu")
    with pytest.raises(UsageError, match="no weights in '2bit'"):
        bits_of("2bit", "cuda")


def test_on_a_cpu_it_is_an_error_before_anything_is_read(folder: Path) -> None:
    with pytest.raises(UsageError, match="needs a GPU"):
        LensSegmenter(ModelOptions("tiny", str(folder), {"load_in": "8bit"})).load()


@pytest.mark.skipif(HAVE, reason="bitsandbytes is installed")
def test_without_bitsandbytes_it_is_an_error(folder: Path) -> None:
    with pytest.raises(UsageError, match="load_in=4bit needs bitsandbytes"):
        load(folder, bits="4bit")


@pytest.mark.skipif(not HAVE, reason="bitsandbytes is not installed")
@pytest.mark.parametrize(("bits", "apart"), [("8bit", 0.05), ("4bit", 0.5)])
def test_blocks_are_quantised_and_close(folder: Path, images: list[Pixels], bits: Bits, apart: float) -> None:
    plain, small = load(folder), load(folder, bits=bits)
    assert small.report.parameters == plain.report.parameters
    assert any(bits in note for note in small.report.notes)
    held = {name: p.dtype for name, p in small.model.named_parameters()}
    packed = {name for name, dtype in held.items() if dtype in (torch.int8, torch.uint8)}
    assert packed == {n for n in held if n.startswith(BLOCKS) and "norm" not in n and n.endswith("weight")}
    states: list[torch.Tensor] = []
    for loaded in (plain, small):
        config = loaded.model.config
        prompter = Prompter(config.recipe, byte_tokenizer(), frozenset(config.ends), config.padding)
        engine = Engine(loaded.model, prompter)
        paint = engine._paint

        def record(asked: Sequence[object], found: Sequence[torch.Tensor], encoded: object, paint=paint) -> object:  # type: ignore[no-untyped-def]
            states.extend(found)
            return paint(asked, found, encoded)

        engine._paint = record  # type: ignore[method-assign,assignment]
        (answer,) = engine.answer(images[:1], [(0, "the red one")])
        assert answer.mask is not None
    difference = float((states[1] - states[0]).norm() / states[0].norm())
    assert 0 < difference < apart
