"""Which files a checkpoint is, the identity that they give it, and folders that are refused before they are read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lens_bench.checkpoint_files import (
    digest,
    read_object,
    reading,
    require_no_code,
    require_unquantised,
    weight_files,
)
from lens_bench.errors import CheckpointError
from lens_bench.records import ModelOptions
from lens_bench.registry import catalogue, find_model, make_segmenter, resolve_args

SETTINGS = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
    "additional_chat_templates/other.jinja",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "lens_config.json",
]


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


def whole(folder: Path) -> Path:
    return fill(folder, "model.safetensors", *SETTINGS)


def index(folder: Path, *shards: str, name: str = "model.safetensors.index.json") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps({"weight_map": {f"t{n}": shard for n, shard in enumerate(shards)}}))


def refused(call: Callable[[], object], *words: str) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        call()
    assert caught.value.exit_code == 5 and "\n" not in caught.value.message
    for word in words:
        assert word in f"{caught.value.message} {caught.value.hint}"
    return caught.value


# ---------------------------------------------------------------------------------------------- identity


@pytest.mark.parametrize("name", ["model.safetensors", *SETTINGS])
def test_everything_that_can_change_an_answer_is_in_the_digest(name: str, tmp_path: Path) -> None:
    before = digest(whole(tmp_path))
    (tmp_path / name).write_text("[]")
    changed = digest(tmp_path)
    (tmp_path / name).unlink()
    found = {before, changed, digest(tmp_path)} if name in SETTINGS else {before, changed, ""}
    assert len(found) == 3


def test_the_digest_knows_no_place_no_order_and_no_documents(tmp_path: Path) -> None:
    whole(tmp_path / "a")
    for name in reversed(["model.safetensors", *SETTINGS]):
        fill(tmp_path / "elsewhere" / "b", name)
    fill(
        tmp_path / "a",
        "README.md",
        "model.yaml",
        "train_log.jsonl",
        "modeling.py",
        "pytorch_model.bin",
        ".cache/x.json",
        "digests.json",
        "evaluation.json",
    )
    assert digest(tmp_path / "a") == digest(tmp_path / "elsewhere" / "b")


def test_the_digest_of_several_and_of_a_single_file(tmp_path: Path) -> None:
    one, two = whole(tmp_path / "one"), whole(tmp_path / "two")
    (two / "config.json").write_text("[]")
    assert len({digest(one), digest(two), digest(one, two), digest(two, one), digest(one, one)}) == 5
    (tmp_path / "x.pt").write_bytes(b"1")
    (tmp_path / "y.pt").write_bytes(b"1")
    assert digest(tmp_path / "x.pt") == digest(tmp_path / "y.pt") != digest(one)
    refused(lambda: digest(tmp_path / "nowhere"), "no checkpoint", "nowhere")


def test_a_linked_snapshot_is_what_it_links_to(tmp_path: Path) -> None:
    whole(tmp_path / "blobs")
    (tmp_path / "snapshot").mkdir()
    for file in (tmp_path / "blobs").iterdir():
        (tmp_path / "snapshot" / file.name).symlink_to(f"../blobs/{file.name}")
    assert digest(tmp_path / "snapshot") == digest(tmp_path / "blobs")
    (tmp_path / "blobs" / "config.json").unlink()
    refused(lambda: digest(tmp_path / "snapshot"), "cannot read", "config.json")


def adapters() -> list[tuple[str, str]]:
    """Every model that runs on weights here, with each argument that names a checkpoint of it."""
    cards = [find_model(head.name) for head in catalogue().models]
    local = [card for card in cards if "hf" in card.engines or not card.engines]
    return [(card.name, a) for card in local for a in ("checkpoint", "sam", "clip") if a in card.args]


def test_the_list_of_adapters_is_not_empty() -> None:
    names = {name for name, _ in adapters()}
    assert {"lens-3b", "lens-nano", "sft-nano", "lisa-7b", "seg-zero-7b", "qwen2.5-vl-3b+sam2", "sam3-text"} <= names


@pytest.mark.parametrize(("model", "argument"), adapters())
def test_every_adapter_has_this_identity(model: str, argument: str, tmp_path: Path) -> None:
    """Tokenizer, chat template and generation settings of each of a model's checkpoints belong to its identity."""
    card = find_model(model)
    names = [name for name in ("checkpoint", "sam", "clip") if name in card.args]
    args = resolve_args(card, {name: str(whole(tmp_path / name)) for name in names})

    def identity() -> str:
        segmenter = make_segmenter(
            card, ModelOptions(model, str(card.folder), args, engine="hf" if "hf" in card.engines else None)
        )
        return segmenter.weight_digest()  # type: ignore[attr-defined,no-any-return]

    found = {identity()}
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json", "preprocessor_config.json"):
        (tmp_path / argument / name).write_text("[]")
        found.add(identity())
    assert len(found) == 5


# ---------------------------------------------------------------------------------------------- weight files


def test_a_folder_that_holds_weights_twice_is_refused(tmp_path: Path) -> None:
    shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    index(fill(tmp_path / "a", *shards), *shards)
    assert [f.name for f in weight_files(tmp_path / "a")] == list(shards)
    fill(tmp_path / "a", "model.safetensors")
    for read in (weight_files, digest):
        refused(lambda read=read: read(tmp_path / "a"), "model.safetensors", "model.safetensors.index.json")  # type: ignore[misc]
    fill(tmp_path / "b", "model.safetensors", shards[0])
    refused(lambda: weight_files(tmp_path / "b"), shards[0])
    index(fill(tmp_path / "c", *shards), shards[0])
    refused(lambda: weight_files(tmp_path / "c"), shards[1])
    index(tmp_path / "c", shards[0], name="other.safetensors.index.json")
    refused(lambda: weight_files(tmp_path / "c"), "other.safetensors.index.json")
    fill(tmp_path / "d", "pytorch_model.bin", "pytorch_model-00001-of-00001.bin")
    index(tmp_path / "d", "pytorch_model-00001-of-00001.bin", name="pytorch_model.bin.index.json")
    refused(lambda: weight_files(tmp_path / "d", (".bin",)), "pytorch_model.bin")


def test_other_files_beside_the_weights_are_passed_over(tmp_path: Path) -> None:
    fill(tmp_path, "model.safetensors", "model.fp16.safetensors", "pytorch_model.bin", "training_args.bin")
    assert [f.name for f in weight_files(tmp_path, (".safetensors", ".bin"))] == ["model.safetensors"]


@pytest.mark.parametrize("name", ["../x.safetensors", "/x.safetensors", "a/../../x.safetensors", "..\\x.safetensors"])
def test_an_index_cannot_name_files_elsewhere(name: str, tmp_path: Path) -> None:
    folder = fill(tmp_path / "f", "y.safetensors")
    fill(tmp_path, "x.safetensors")
    index(folder, name)
    refused(lambda: weight_files(folder), "outside the folder")


def test_what_macos_leaves_beside_each_file_is_passed_by(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text("{}")
    before = digest(tmp_path)
    for name in ("._model.safetensors", "._config.json", "._model.safetensors.index.json", "._tokenizer.json"):
        (tmp_path / name).write_bytes(b"\x00\x05\x16\x07")
    require_no_code(tmp_path)
    assert weight_files(tmp_path) == (tmp_path / "model.safetensors",)
    assert digest(tmp_path) == before


def test_the_bare_exception_of_tokenizers_is_a_checkpoint_error_and_a_defect_is_not() -> None:
    with pytest.raises(CheckpointError, match="it cannot be read: no variant") as caught, reading("it cannot be read"):
        raise Exception("no\nvariant")
    assert caught.value.exit_code == 5
    with pytest.raises(ZeroDivisionError), reading("it cannot be read"):
        raise ZeroDivisionError


@pytest.mark.parametrize("content", ["[]", "{", '{"weight_map": []}', '{"weight_map": {"t": 3}}', '{"weight_map": {}}'])
def test_an_index_that_is_none(content: str, tmp_path: Path) -> None:
    fill(tmp_path, "x.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(content)
    refused(lambda: weight_files(tmp_path), "model.safetensors.index.json")


def test_a_missing_shard_and_formats_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    index(fill(tmp_path / "a", "m-1.safetensors"), "m-1.safetensors", "m-2.safetensors")
    refused(lambda: weight_files(tmp_path / "a"), "lacks 1 of 2 shards: m-2.safetensors")
    fill(tmp_path / "b", "sam3.pt")
    refused(lambda: weight_files(tmp_path / "b"), "no safetensors files", "sam3.pt")
    fill(tmp_path / "c", "a.pt", "b.pt")
    refused(lambda: weight_files(tmp_path / "c", (".safetensors", ".pt")), "a.pt, b.pt")


def test_json_that_is_nested_too_deeply(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 100_000)
    refused(lambda: read_object(tmp_path / "config.json"), "not readable JSON")


# ---------------------------------------------------------------------------------------------- refused folders


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "preprocessor_config.json"])
def test_code_of_the_checkpoints_own_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(json.dumps({"inner": [{"auto_map": {"AutoModel": "code.Model"}}]}))
    refused(lambda: require_no_code(tmp_path), name, "auto_map")
    (tmp_path / name).write_text(json.dumps({"auto_map": {}}))
    (tmp_path / "vocab.json").write_text(json.dumps({"auto_map": 7}))
    require_no_code(tmp_path)
    fill(tmp_path, "custom_generate/generate.py")
    refused(lambda: require_no_code(tmp_path), "custom_generate")


def test_quantised_weights_are_named(tmp_path: Path) -> None:
    require_unquantised(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "awq"}}))
    refused(lambda: require_unquantised(tmp_path), "quantised weights (awq)")


# ---------------------------------------------------------------------------------------------- the Hub cache


def test_a_cache_without_main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    from lens_bench.hub_cache import cached_folder

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    snapshots = tmp_path / "models--some--model" / "snapshots"
    refused(lambda: cached_folder("some/model", "weights", "checkpoint"), "not in the local Hub cache")
    fill(snapshots / "abc", "config.json")
    assert cached_folder("some/model", "weights", "checkpoint") == snapshots / "abc"
    fill(snapshots / "def", "config.json")
    refused(lambda: cached_folder("some/model", "weights", "checkpoint"), "2 snapshots", "checkpoint=")
    shutil.rmtree(snapshots / "abc")
    assert cached_folder("some/model", "weights", "checkpoint").name == "def"
