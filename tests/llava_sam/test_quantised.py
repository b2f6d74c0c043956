"""Quantised blocks: smaller, close to the plain model, and nothing else touched."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from lens_bench.errors import UsageError
from lens_bench.lens.quantise import Bits
from lens_bench.llava_sam.checkpoint import Loaded, load
from lens_bench.llava_sam.config import LISA
from lens_bench.llava_sam.conversation import Template, Turn
from lens_bench.llava_sam.engine import Ask, Engine

HAVE = importlib.util.find_spec("bitsandbytes") is not None


@pytest.mark.skipif(HAVE, reason="bitsandbytes is installed")
def test_without_bitsandbytes_the_option_is_an_error(lisa_folders: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match="load_in=4bit needs bitsandbytes"):
        load(LISA, *lisa_folders, bits="4bit")


@pytest.mark.skipif(not HAVE, reason="bitsandbytes is not installed")
@pytest.mark.parametrize(("bits", "apart"), [("8bit", 0.05), ("4bit", 0.5)])
def test_blocks_are_quantised_and_close(
    lisa: Loaded, lisa_folders: tuple[Path, Path], bits: Bits, apart: float
) -> None:
    small = load(LISA, *lisa_folders, dtype=torch.float32, bits=bits)
    assert any(bits in note for note in small.report.notes)
    assert small.report.parameters == lisa.report.parameters
    held = {name: p.dtype for name, p in small.model.named_parameters()}
    packed = {name for name, dtype in held.items() if dtype in (torch.int8, torch.uint8)}
    assert packed == {n for n in held if n.startswith("llama.model.layers.") and "norm" not in n}
    template = Template(lisa.tokenizer, "", "\n ")
    prompt = template.write([Turn("the cat", "[SEG].")])
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    states = []
    for model in (lisa.model, small.model):
        engine = Engine(model, lisa.tokenizer.seg, lisa.tokenizer.eos)
        with torch.inference_mode():
            prefix = engine._prefixes([pixels], [0], prompt.before)
            states.append(engine._read([Ask(0, prompt)], {0: prefix[0]})[0].states[0])
    difference = float((states[1] - states[0]).norm() / states[0].norm())
    assert 0 < difference < apart
