"""Checkpoints and conversations that a local model refuses, each in one line, and scores that are no numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lens_bench.errors import CheckpointError
from lens_bench.finite import TOKEN_SCORES
from lens_bench.vlm.chat import question
from lens_bench.vlm.local import LocalVlm

from .test_local import conversations, load, pictures


@pytest.fixture
def copy(vlm_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(vlm_folder, tmp_path / "copy"))


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert caught.value.exit_code == 5 and "\n" not in caught.value.message
    for word in words:
        assert word in f"{caught.value.message} {caught.value.hint}"


def edit(file: Path, change: Callable[[dict[str, object]], dict[str, object]]) -> None:
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("config.json", {"AutoConfig": "code.Own", "AutoModelForImageTextToText": "code.Own"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["code.Own", None]}),
        ("processor_config.json", {"AutoProcessor": "code.Own"}),
    ],
)
def test_code_beside_the_weights_is_not_run(
    name: str, entries: dict[str, object], copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever stands on standard input."""
    marker = copy / "was-run"
    (copy / "code.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Own: ...\n")
    edit(copy / name, lambda content: {**content, "auto_map": entries})
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda *text: asked.append(str(text)) or "y")
    refused(copy, name, "auto_map")
    assert not marker.exists() and not asked


def test_a_folder_without_a_tokenizer(copy: Path) -> None:
    for file in copy.glob("*token*"):
        file.unlink()
    refused(copy, "no tokenizer", "tokenizer.json")


def test_an_image_processor_under_its_old_name(copy: Path) -> None:
    old = {"image_processor_type": "Qwen2_5_VLImageProcessor"}
    edit(copy / "processor_config.json", lambda content: {**content, "image_processor": old})
    refused(copy, "processor_config.json", "image_processor_type", "Qwen2VLImageProcessor")
    (copy / "processor_config.json").unlink()
    (copy / "preprocessor_config.json").write_text(json.dumps(old))
    refused(copy, "preprocessor_config.json", "set image_processor_type to Qwen2VLImageProcessor")


def test_quantised_weights(copy: Path) -> None:
    edit(copy / "config.json", lambda c: {**c, "quantization_config": {"quant_method": "gptq", "bits": 4}})
    refused(copy, "quantised weights (gptq)", "load_in")


def test_a_processor_that_wants_another_package(copy: Path) -> None:
    """``ImportError`` and its like are the checkpoint's fault too."""
    edit(copy / "processor_config.json", lambda c: {**c, "image_processor": {"image_processor_type": "Nothing"}})
    refused(copy, "cannot be loaded")


SPECIAL = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_start|>", "<|im_end|>"]


@pytest.mark.parametrize("token", [*SPECIAL, "<|endoftext|>"])
def test_a_special_token_in_an_expression_costs_its_own_answer_alone(token: str, vlm_folder: Path, family: str) -> None:
    model = load(vlm_folder)
    (one, _), plain = pictures(family), conversations(family)
    replies = model.ask([plain[0], question(one, f"the {token} dog"), plain[1]])
    assert [reply.error is None for reply in replies] == [True, False, True]
    assert repr(token) in str(replies[1].error)
    assert [r.text for r in (replies[0], replies[2])] == [r.text for r in model.ask([plain[0], plain[1]])]


def broken_at(model: LocalVlm, token: str) -> None:
    """Let one token's embedding be no number."""
    inner = model._model
    (number,) = model._tokenizer(token)["input_ids"]

    def hook(module: torch.nn.Module, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        return out.masked_fill((args[0] == number).unsqueeze(-1), float("nan"))

    inner.get_input_embeddings().register_forward_hook(hook)


def test_scores_that_are_no_numbers_are_an_error_of_their_answer_alone(vlm_folder: Path, family: str) -> None:
    model = load(vlm_folder)
    plain = conversations(family)[:2]
    before = model.ask(plain)
    broken_at(model, "~")
    replies = model.ask([plain[0], question(pictures(family)[0], "the ~ one"), plain[1]])
    assert [reply.error for reply in replies] == [None, TOKEN_SCORES, None]
    assert [replies[0].text, replies[2].text] == [reply.text for reply in before]


def test_weights_that_are_no_numbers(vlm_folder: Path, family: str) -> None:
    model = load(vlm_folder)
    with torch.no_grad():
        model._model.get_output_embeddings().weight[5] = float("nan")
    assert {reply.error for reply in model.ask(conversations(family))} == {TOKEN_SCORES}
    assert "float32" in TOKEN_SCORES and "bfloat16" in TOKEN_SCORES
