"""LISA's blocks over several devices: tensors lie with their block, and answers are those of one device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lens_bench.errors import UsageError
from lens_bench.llava_sam.checkpoint import Loaded, fill, load, open_folder, plan
from lens_bench.llava_sam.config import LISA
from lens_bench.llava_sam.conversation import Template, Turn
from lens_bench.llava_sam.engine import Ask, Engine
from lens_bench.llava_sam.modeling import LlavaSam
from lens_bench.llava_sam.random_weights import random_llava
from lens_bench.sam.model import SamModel

Folders = tuple[Path, Path]


def test_tensors_are_loaded_to_where_their_block_lies(lisa: Loaded, lisa_folders: Folders) -> None:
    with torch.device("meta"):
        model = LlavaSam(lisa.model.config)
    plans = plan(model, open_folder(lisa_folders[0]), open_folder(lisa_folders[1]))
    with pytest.raises(AssertionError, match=r"tensors without a value: llama\.model\.layers"):  # meta holds none
        fill(model, plans, ["cpu", "meta"], torch.float32)
    blocks = model.llama.model.layers
    places = [{p.device.type for p in block.parameters()} for block in blocks]
    assert places[-1] == {"meta"}
    assert all(len(place) == 1 for place in places)
    others = {p.device.type for n, p in model.named_parameters() if not n.startswith("llama.model.layers.")}
    assert others == {"cpu"}


def test_moving_changes_no_answer(lisa: Loaded, lisa_folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SamModel, "features", lambda self, pixels: 0.01 * pixels.mean(dim=1, keepdim=True))

    def masks_of(self: SamModel, features: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        return prompts[:, 0, :, None] * prompts[:, 0, None, :] + features[:, 0, :1, :1]

    monkeypatch.setattr(SamModel, "masks", masks_of)
    spread = load(LISA, *lisa_folders, ["cpu", "cpu"])
    assert any("spread over 2 devices (cpu: 2)" in note for note in spread.report.notes)
    tokenizer = lisa.tokenizer
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, (40, 56, 3), dtype=np.uint8) for _ in range(2)]
    template = Template(tokenizer, "", "\n")
    asks = [Ask(n, template.write((Turn(f"Where is {n}?", "It is [SEG]."),))) for n in (0, 1, 1)]
    asks += [Ask(0, template.write((Turn("Where?", None),)), 5)]
    answers = [Engine(m.model, tokenizer.seg, tokenizer.eos).answer(images, asks) for m in (lisa, spread)]
    assert answers[0] == answers[1]


def test_drawn_weights_are_the_same_wherever_they_lie(lisa: Loaded) -> None:
    one, spread = (random_llava(lisa.model.config, 3, devices, torch.float32) for devices in (["cpu"], ["cpu", "cpu"]))
    other = dict(spread.named_parameters())
    assert all(torch.equal(p, other[name]) for name, p in one.named_parameters())
    with pytest.raises(AssertionError, match=r"tensors without a value: llama\.model\.layers"):  # meta holds none
        random_llava(lisa.model.config, 3, ["cpu", "meta"], torch.float32)


def test_quantised_blocks_are_not_spread(lisa_folders: Folders) -> None:
    with pytest.raises(UsageError, match="blocks held in 8bit are not spread over devices") as raised:
        load(LISA, *lisa_folders, ["cpu", "cpu"], bits="8bit")
    assert raised.value.exit_code == 2
