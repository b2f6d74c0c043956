"""Local models: pictures shared, batches that change nothing, checkpoints that do not fit."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lens_bench.checkpoint_files import digest
from lens_bench.errors import CheckpointError, UsageError
from lens_bench.lens.quantise import Bits
from lens_bench.vlm.chat import Conversation, Picture, Turn, question
from lens_bench.vlm.local import LocalSettings, LocalVlm
from lens_bench.vlm.prompting import prompt_text
from lens_bench.vlm.sizing import Sizing
from lens_bench.vlm.tiny import save_tiny_vlm

FACTOR = {"qwen2_5_vl": 28, "qwen3_vl": 32}


def pictures(family: str) -> list[Picture]:
    rng = np.random.default_rng(1)
    sizing = Sizing(factor=FACTOR[family], max_pixels=100 * 100)
    return [Picture(sizing.apply(rng.integers(0, 256, (*size, 3), dtype=np.uint8))) for size in ((60, 100), (90, 50))]


def conversations(family: str) -> list[Conversation]:
    one, two = pictures(family)
    again = Turn("user", (two, "and then", one))
    return [
        question(one, "the red one"),
        question(two, "x"),
        (Turn("system", ("Say little.",)), Turn("user", (one, "the second thing from the left"))),
        (Turn("user", (one, "a")), Turn("assistant", ("b",)), again),
        (Turn("user", ("no picture at all",)),),
    ]


def load(folder: Path, **settings: int) -> LocalVlm:
    return LocalVlm.load(folder, "cpu", torch.float32, LocalSettings(**{"max_new_tokens": 16, **settings}))


def test_spreading_changes_nothing(vlm_folder: Path, family: str) -> None:
    """The CPU stands for both devices; Qwen3-VL adds visual features behind blocks as well."""
    asked = conversations(family)
    spread = LocalVlm.load(vlm_folder, ["cpu", "cpu"], torch.float32, LocalSettings(16))
    assert "the language model's blocks are spread over 2 devices (cpu: 2)" in spread.notes
    hooked = [name for name, module in spread._model.named_modules() if module._forward_pre_hooks]
    inside = "model.language_model"
    assert hooked == [f"{inside}.layers.0", f"{inside}.layers.1", f"{inside}.norm"]
    assert spread.ask(asked) == load(vlm_folder).ask(asked)
    with pytest.raises(UsageError, match="blocks held in 4bit are not spread"):
        LocalVlm.load(vlm_folder, ["cpu", "cpu"], torch.float32, LocalSettings(16, bits="4bit"))


def test_sharing_and_batching_change_nothing(vlm_folder: Path, family: str) -> None:
    asked = conversations(family)
    together = load(vlm_folder)
    assert together.sharing is not None and together.notes == ("attention: language model sdpa, vision tower sdpa",)
    replies = together.ask(asked)
    assert len({r.text for r in replies}) == len(replies)
    assert load(vlm_folder, rows=1).ask(asked) == replies
    apart = load(vlm_folder)
    apart.sharing = None  # transformers' own processor, every picture encoded wherever it is shown
    assert [apart.ask([c])[0] for c in asked] == replies
    assert "once per expression" in apart.notes[-1]


def test_the_vision_tower_sees_a_picture_once(vlm_folder: Path, family: str) -> None:
    model = load(vlm_folder)
    seen: list[int] = []
    inner: Any = model._model
    inner.model.visual.register_forward_hook(
        lambda module, args, kwargs, out: seen.append(len(kwargs["grid_thw"])), with_kwargs=True
    )
    one, two = pictures(family)
    model.ask([question(one, f"{n}") for n in range(5)] + [question(two, "x")])
    assert seen == [2]


def test_what_is_in_front_of_a_question_is_read_once(vlm_folder: Path, family: str) -> None:
    """Two beginnings for six conversations; two conversations with different beginnings are read as they are."""
    model = load(vlm_folder)
    inner: Any = model._model
    read: list[tuple[int, ...]] = []
    inner.model.language_model.register_forward_hook(
        lambda module, args, kwargs, out: read.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    one, two = pictures(family)
    asked = [question(one, f"number {n}") for n in range(5)] + [question(two, "x")]
    together = model.ask(asked)
    (first, long), (rows, short), *steps = read
    assert (first, rows) == (2, 6) and short < long and all(step == (6, 1) for step in steps)
    read.clear()
    assert [model.ask([conversation])[0] for conversation in asked] == together
    assert read[0][0] == 1 and read[0][1] > long - 1
    read.clear()
    model.ask([asked[0], asked[5]])
    assert read[0][0] == 2 and read[1][1] == 1


def test_turns_before_the_picture_belong_to_what_is_shared(vlm_folder: Path, family: str) -> None:
    one, two = pictures(family)
    lead = (Turn("user", (two, "look")), Turn("assistant", ("yes",)))
    asked = [(*lead, Turn("user", (one, text))) for text in ("a", "and something longer")]
    asked += [(Turn("user", (one, "look")), *lead[1:], Turn("user", (two, "a"))), question(one, "a")]
    model = load(vlm_folder)
    assert model.ask(asked) == [model.ask([conversation])[0] for conversation in asked]


def test_replies_are_those_of_generate(vlm_folder: Path, family: str) -> None:
    """One conversation against transformers' ``generate`` with its own repetition penalty."""
    model = load(vlm_folder)
    inner: Any = model._model
    for asked in conversations(family)[:3]:
        inputs = model._plain(
            [prompt_text(model._processor, asked)], [[p for t in asked for p in t.parts if isinstance(p, Picture)]]
        )
        out = inner.generate(**inputs, do_sample=False, max_new_tokens=16)
        ids = out[0, inputs["input_ids"].shape[1] :]  # type: ignore[attr-defined]
        assert model.ask([asked])[0].text == model._tokenizer.decode(ids, skip_special_tokens=True)


def test_the_penalty_matters(family: str, tmp_path: Path, vlm_folder: Path) -> None:
    free = load(save_tiny_vlm(tmp_path, family))  # type: ignore[arg-type]
    asked = conversations(family)
    assert [r.text for r in free.ask(asked)] != [r.text for r in load(vlm_folder).ask(asked)]


def test_answers_end_or_are_cut(family: str, tmp_path: Path) -> None:
    model = load(save_tiny_vlm(tmp_path, family, answer="[1, 2, 30, 40]"))  # type: ignore[arg-type]
    short, long = model.ask(conversations(family)[:2])
    assert short.text == long.text == "[1, 2, 30, 40]" and not short.cut
    assert short.tokens is not None and short.tokens.completion == 2
    model._settings = LocalSettings(max_new_tokens=1)
    assert model.ask(conversations(family)[:1])[0].cut


def test_an_image_that_would_be_sized_again_is_an_error(vlm_folder: Path, family: str) -> None:
    odd = Picture(np.zeros((60, 100, 3), dtype=np.uint8))
    with pytest.raises(CheckpointError, match="sizes an image of 100x60 pixels again"):
        load(vlm_folder).ask([question(odd, "x")])


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_blocks_can_be_quantised(vlm_folder: Path, family: str, bits: Bits) -> None:
    plain = load(vlm_folder)
    small = LocalVlm.load(vlm_folder, "cpu", torch.float32, LocalSettings(4, bits=bits))
    packed = {n for n, p in small._model.named_parameters() if p.dtype in (torch.int8, torch.uint8)}
    assert packed and all(name.startswith("model.language_model.layers.") for name in packed)
    assert small.parameters == plain.parameters and any(bits in note for note in small.notes)
    replies = small.ask(conversations(family))
    assert all(reply.error is None and reply.tokens is not None for reply in replies)


def test_checkpoints_that_do_not_fit(vlm_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        load(tmp_path / "nowhere")
    folder = tmp_path / "copy"
    shutil.copytree(vlm_folder, folder)
    before = digest(folder)
    assert len(before) == 64
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    name = next(iter(sorted(tensors)))
    save_file({k: v for k, v in tensors.items() if k != name} | {"extra": torch.zeros(1)}, weights, {"format": "pt"})
    assert digest(folder) != before
    with pytest.raises(CheckpointError, match=r"1 missing: .*; 1 unexpected: extra"):
        load(folder)
    save_file(tensors, weights, {"format": "pt"})
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(CheckpointError, match="no chat template"):
        load(folder)
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        load(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match="no safetensors"):
        load(folder)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is a LoRA adapter"):
        load(folder)
    (folder / "adapter_config.json").unlink()
    config = json.loads((vlm_folder / "config.json").read_text())
    shutil.copy(vlm_folder / "model.safetensors", weights)
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    with pytest.raises(CheckpointError, match="cannot be loaded as a vision-language model"):
        load(folder)
