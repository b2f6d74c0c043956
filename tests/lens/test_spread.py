"""The language model over several devices: who gets which blocks, and that states follow.

There are no two devices to compute on here, so the moves are tested towards the meta device, which holds no values, and
the arithmetic with the CPU standing for both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lens_bench.errors import UsageError
from lens_bench.lens.checkpoint import describe, load
from lens_bench.lens.config import LensConfig
from lens_bench.lens.engine import Engine
from lens_bench.lens.layouts import tied_names
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.placing import BLOCKS, Precision
from lens_bench.lens.prompts import Prompter
from lens_bench.lens.random_weights import random_lens
from lens_bench.lens.save import Story, save
from lens_bench.lens.segmenter import LensSegmenter
from lens_bench.lens.spread import Spread, connect, devices_of, name_of, parts_of, scatter
from lens_bench.lens.tiny import byte_tokenizer, tiny_config, tiny_model
from lens_bench.records import ArgValue, ModelOptions, Pixels

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


def test_more_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert devices_of("cuda", 2) == ("cuda:0", "cuda:1")
    assert devices_of("cpu", 1) == ("cpu",)
    assert devices_of("cuda:1", 2) == ("cuda:1", "cuda:2")
    with pytest.raises(UsageError, match="devices=3: this process sees 3 GPUs"):
        devices_of("cuda:1", 3)
    with pytest.raises(UsageError, match="devices=2 needs GPUs, and --device is cpu") as raised:
        devices_of("cpu", 2)
    assert raised.value.exit_code == 2
    for nonsense in (0, -1, "two"):
        with pytest.raises(UsageError, match="whole number of at least 1"):
            devices_of("cuda", nonsense)


# ---------------------------------------------------------------------------------------------- models


class Decoder(nn.Module):
    """Blocks with a norm behind, inside of a model with more."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(3, 4)
        self.layers = nn.ModuleList([nn.Linear(4, 4, bias=False) for _ in range(blocks)])
        self.norm = nn.LayerNorm(4)


def test_a_model_is_moved_block_by_block() -> None:
    whole = nn.ModuleDict({"tower": nn.Linear(4, 1), "language": Decoder(4)})
    language = whole["language"]
    blocks, norm = parts_of(language)
    assert name_of(blocks, whole) == "language.layers." and norm is language.norm
    notes = scatter(whole, language, ["cpu", "meta"])
    assert language.layers is blocks
    assert notes == ("the language model's blocks are spread over 2 devices (cpu: 1, meta: 3)",)
    assert [block.weight.device.type for block in blocks] == ["cpu", "meta", "meta", "meta"]
    assert {p.device.type for n, p in whole.named_parameters() if ".layers." not in n} == {"cpu"}
    state = torch.zeros(1, 4)
    for block in blocks:
        state = block(state)
    assert state.device.type == "meta"  # every block took its input to where it lies


def test_one_device_needs_no_blocks_and_several_do() -> None:
    plain = nn.Linear(2, 2)
    assert scatter(plain, plain, ["meta"]) == () and plain.weight.is_meta
    with pytest.raises(UsageError, match="a Linear cannot be spread over devices"):
        scatter(plain, plain, ["cpu", "cpu"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint")
    save(tiny_model(tiny_config("lens-1d")), path, byte_tokenizer(), Story("tiny"))
    return path


def test_tensors_of_lens_are_loaded_to_where_their_block_lies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    placed: dict[str, set[str]] = {}

    def look(model: LensModel, device: object) -> None:
        for name, p in model.named_parameters():
            block = name.removeprefix(BLOCKS).split(".")[0] if name.startswith(BLOCKS) else ""
            if name not in tied_names(model):
                placed.setdefault(block, set()).add(p.device.type)
        raise InterruptedError  # what lies on the meta device holds no values to go on with

    monkeypatch.setattr("lens_bench.lens.placing.finish", look)
    with pytest.raises(InterruptedError):
        load(folder, ["cpu", "meta"])
    blocks = [place for name, place in sorted(placed.items()) if name]
    assert placed[""] == {"cpu"} and blocks[-1] == {"meta"} and all(len(place) == 1 for place in blocks)
    assert len(blocks) == len(tiny_model(describe(folder)[0]).qwen.model.language_model.layers)


def test_moving_changes_no_answer_of_lens(
    folder: Path, images: list[Pixels], prompter_of: Callable[[LensConfig], Prompter]
) -> None:
    whole, spread = load(folder), load(folder, ["cpu", "cpu"])
    assert not any("spread" in note for note in whole.report.notes)
    assert any("spread over 2 devices" in note for note in spread.report.notes)
    moved = [block for block in spread.model.qwen.model.language_model.layers if block._forward_pre_hooks]
    assert len(moved) == len(spread.model.qwen.model.language_model.layers)
    asks = [(n, text) for n in range(len(images)) for text in ("left", "the big one")]
    answers = [Engine(m.model, prompter_of(m.model.config)).answer(images, asks) for m in (whole, spread)]
    assert answers[0] == answers[1] and all(a.mask is not None for a in answers[0])


def test_drawn_weights_are_the_same_wherever_they_lie() -> None:
    one, spread = (random_lens(tiny_config(), 1, devices, Precision()) for devices in ("cpu", ["cpu", "cpu"]))
    other = dict(spread.named_parameters())
    assert all(torch.equal(p, other[name]) for name, p in one.named_parameters())


def segmenter(folder: Path, args: dict[str, ArgValue], device: str, engine: str = "hf") -> LensSegmenter:
    return LensSegmenter(ModelOptions("tiny", str(folder), args, device=device, engine=engine))


def test_what_of_lens_cannot_be_spread_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for engine in ("hf", "vllm"):
        with pytest.raises(UsageError, match="devices=2 needs GPUs"):
            segmenter(folder, {"devices": 2}, "cpu", engine).load()
    with pytest.raises(UsageError, match="devices=2 needs GPUs"):
        segmenter(folder, {"devices": 2}, "cpu").load_random(0)
    with pytest.raises(UsageError, match="blocks held in 4bit are not spread"):
        load(folder, ["cpu", "cpu"], bits="4bit")
    # Two GPUs as far as counting goes, so that loading proceeds to how it decodes.
    monkeypatch.setattr("lens_bench.lens.segmenter.devices_of", lambda device, count: ("cpu",) * int(str(count)))
    spread = segmenter(folder, {"devices": 2}, "cpu").load()
    assert "decoding: eager (auto)" in spread.notes
    assert "the language model's blocks are spread over 2 devices (cpu: 2)" in spread.notes
    with pytest.raises(UsageError, match="decode=static is for one device, not for devices=2"):
        segmenter(folder, {"devices": 2, "decode": "static"}, "cpu").load()
