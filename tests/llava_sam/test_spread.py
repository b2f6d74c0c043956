"""The language model over several devices: who gets which blocks, and that states follow.

There are no two devices to compute on here, so the moves are tested towards the meta device, which holds no values, and
the arithmetic with the CPU standing for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lens_bench.errors import UsageError
from lens_bench.llava_sam.checkpoint import Loaded, fill, load, open_folder, plan
from lens_bench.llava_sam.config import LISA
from lens_bench.llava_sam.conversation import Template, Turn
from lens_bench.llava_sam.engine import Ask, Engine
from lens_bench.llava_sam.modeling import LlavaSam
from lens_bench.llava_sam.spread import Spread, connect, devices_of
from lens_bench.sam.model import SamModel

Folders = tuple[Path, Path]
GB = 2**30


def counts(spread: Spread, devices: Sequence[str]) -> list[int]:
    return [spread.blocks.count(torch.device(d)) for d in devices]


@pytest.mark.parametrize(
    ("devices", "blocks", "other", "expected"),
    [
        (1, 40, 2.0, [40]),
        (2, 40, 0.0, [20, 20]),
        (2, 40, 2.4, [18, 22]),  # LISA-13B in bfloat16: blocks of 0.6 GB, and 2.4 GB of everything else
        (4, 40, 2.4, [7, 11, 11, 11]),
        (2, 4, 100.0, [0, 4]),  # the first is full of other things
    ],
)
def test_every_device_holds_about_the_same(devices: int, blocks: int, other: float, expected: list[int]) -> None:
    names = [f"cuda:{n}" for n in range(devices)]
    spread = Spread.of(names, [int(0.6 * GB)] * blocks, int(other * GB))
    assert counts(spread, names) == expected
    assert spread.first == torch.device("cuda:0")


@given(st.integers(1, 6), st.lists(st.integers(1, 100), min_size=1, max_size=60), st.integers(0, 300))
def test_blocks_lie_in_runs_and_no_device_is_much_beyond_its_share(devices: int, sizes: list[int], other: int) -> None:
    names = [f"cuda:{n}" for n in range(devices)]
    spread = Spread.of(names, sizes, other)
    order = [names.index(str(d)) for d in spread.blocks]
    assert order == sorted(order)
    assert len(order) == len(sizes)
    share = (sum(sizes) + other) / devices
    for number in range(devices):
        held = sum(size for size, place in zip(sizes, order, strict=True) if place == number) + other * (number == 0)
        assert held <= max(share, other) + max(sizes)


def test_a_tensor_lies_where_its_block_does() -> None:
    spread = Spread(torch.device("cuda:0"), (torch.device("cuda:0"), torch.device("cuda:1")))
    assert spread.place("llama.model.layers.1.mlp.up_proj.weight", "llama.model.layers.") == torch.device("cuda:1")
    assert spread.place("llama.model.norm.weight", "llama.model.layers.") == torch.device("cuda:0")


class Place(nn.Module):
    """Says where what it is given lies."""

    def forward(self, hidden: torch.Tensor, **more: object) -> list[str]:
        cos, sin = more["position_embeddings"]  # type: ignore[misc]
        mask = more["attention_mask"]
        assert isinstance(mask, torch.Tensor)
        assert more["past_key_values"] == "a cache"
        return [str(t.device) for t in (hidden, cos, sin, mask)]


def test_all_that_a_block_is_given_goes_to_its_device() -> None:
    blocks, norm = nn.ModuleList([Place(), Place()]), Place()
    connect(blocks, norm, Spread(torch.device("cpu"), (torch.device("cpu"), torch.device("meta"))))
    one = torch.zeros(1)
    given = {"position_embeddings": (one, one), "attention_mask": one, "past_key_values": "a cache"}
    assert blocks[0](one, **given) == ["cpu"] * 4
    assert blocks[1](one, **given) == ["meta"] * 4
    assert norm(one, **given) == ["cpu"] * 4


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
    assert any("spread over 2 devices" in note for note in spread.report.notes)
    tokenizer = lisa.tokenizer
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, (40, 56, 3), dtype=np.uint8) for _ in range(2)]
    template = Template(tokenizer, "", "\n")
    asks = [Ask(n, template.write((Turn(f"Where is {n}?", "It is [SEG]."),))) for n in (0, 1, 1)]
    asks += [Ask(0, template.write((Turn("Where?", None),)), 5)]
    answers = [Engine(m.model, tokenizer.seg, tokenizer.eos).answer(images, asks) for m in (lisa, spread)]
    assert answers[0] == answers[1]


def test_what_cannot_be_spread_is_said(lisa_folders: Folders) -> None:
    assert devices_of("cpu", 1) == ("cpu",)
    with pytest.raises(UsageError, match="devices=2 needs GPUs, and --device is cpu"):
        devices_of("cpu", 2)
    with pytest.raises(UsageError, match="blocks held in 8bit are not spread over devices") as raised:
        load(LISA, *lisa_folders, ["cpu", "cpu"], bits="8bit")
    assert raised.value.exit_code == 2


def test_more_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert devices_of("cuda", 2) == ("cuda:0", "cuda:1")
    assert devices_of("cuda:1", 2) == ("cuda:1", "cuda:2")
    with pytest.raises(UsageError, match="devices=3: this process sees 3 GPUs"):
        devices_of("cuda:1", 3)
