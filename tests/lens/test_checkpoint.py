"""Saving, loading, exporting; and everything that can be wrong with a file is exit code 5."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Sam2Model

from lens_bench.checkpoint_files import digest
from lens_bench.errors import CheckpointError
from lens_bench.lens.checkpoint import describe, fresh, load, load_plain, plain_config
from lens_bench.lens.config import CONFIG_NAME, HeadConfig, LensConfig, sam_preset
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.placing import Precision, place
from lens_bench.lens.prompts import load_tokenizer
from lens_bench.lens.save import Story, export_qwen, export_released, save
from lens_bench.lens.tiny import byte_tokenizer, lively, tiny_config, tiny_model

STORY = Story("tiny", "A tiny one.", {"lr": 3e-6}, {"shapes/train": "0123abcd"}, "CC0-1.0")


def outputs(model: LensModel) -> list[torch.Tensor]:
    """One number-by-number fingerprint of every part."""
    generator = torch.Generator().manual_seed(5)
    patches = torch.randn(4 * 6, 1176, generator=generator)
    grid = (1, 4, 6)
    ids = torch.tensor([[1, 2, *[model.image_token] * 6, 3, 4]])
    with torch.no_grad():
        visual = model.see(patches, [grid])
        joint = model.joint(ids, torch.ones_like(ids), visual, [grid])
        prompts = model.prompts(joint.queries)
        size = model.sam.image_size
        features = model.sam.features(torch.randn(1, 3, size, size, generator=generator))
        return [visual[0], model.logits(joint.text), prompts, model.sam.masks(features, prompts)]


def same(a: LensModel, b: LensModel) -> bool:
    return all(torch.equal(x, y) for x, y in zip(outputs(a), outputs(b), strict=True))


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl"])
@pytest.mark.parametrize("limit", [10_000_000, 200_000])
def test_save_and_load_are_bitwise(tmp_path: Path, family: str, limit: int) -> None:
    model = tiny_model(tiny_config(family=family), seed=1)
    files = save(model, tmp_path, byte_tokenizer(), STORY, limit)
    assert (len(files) > 3) == (limit < 1_000_000)
    assert all(f.stat().st_size < limit + 100_000 for f in files)
    loaded = load(tmp_path)
    assert loaded.model.config == model.config
    assert same(model, loaded.model)
    assert loaded.report.parameters == sum(p.numel() for p in model.parameters())
    assert load_tokenizer(tmp_path).encode("<|im_end|>") == byte_tokenizer().encode("<|im_end|>")
    readme = (tmp_path / "README.md").read_text()
    assert "lr: 3e-06" in readme and "shapes/train: 0123abcd" in readme and "CC0-1.0" in readme


def test_saving_again_leaves_no_shard_behind(tmp_path: Path) -> None:
    save(tiny_model(seed=1), tmp_path, byte_tokenizer(), STORY, 200_000)
    before = digest(tmp_path)
    again = tiny_model(seed=2)
    save(again, tmp_path, byte_tokenizer(), STORY)
    assert [p.name for p in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]
    assert not list(tmp_path.glob("*.part"))
    assert same(load(tmp_path).model, again) and digest(tmp_path) != before


def test_the_digest_sees_one_changed_weight(tmp_path: Path) -> None:
    save(tiny_model(seed=1), tmp_path, byte_tokenizer(), STORY)
    before = digest(tmp_path)
    assert before == digest(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["head.pool.bias"][0] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    assert digest(tmp_path) != before


def released_tiny(seed: int = 4) -> LensModel:
    """A model that the authors' layout can hold: head as wide as the language model, prompts of 256."""
    base = tiny_config("lens-1d")
    size = sam_preset("sam2_hiera_t")
    config = base.model_copy(update={"sam": size, "head": HeadConfig(queries=8, width=64, depth=4, heads=16)})
    return lively(fresh(config, seed), seed)


def test_export_to_the_authors_layout_comes_back(tmp_path: Path) -> None:
    model = released_tiny()
    files = export_released(model, tmp_path, byte_tokenizer())
    names = set(load_file(files[0]))
    assert {"learnable_query", "conv_1d.weight", "proj_to_sam.2.bias", "visual.patch_embed.proj.weight"} <= names
    assert "sam.sam_prompt_encoder.point_embeddings.3.weight" in names and "lm_head.weight" not in names
    loaded = load(tmp_path, recipe=model.config.recipe)
    assert loaded.model.config.positions == "lens-1d" and loaded.model.config.family == "qwen2_5_vl"
    assert loaded.model.config.ends == model.config.ends and loaded.model.config.padding == model.config.padding
    expected = model.state_dict()
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert loaded.model.config.sam == model.config.sam and loaded.model.config.head == model.config.head


def test_a_head_that_the_authors_cannot_build_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no place in the authors' layout"):
        export_released(tiny_model(), tmp_path, byte_tokenizer())


@pytest.mark.parametrize("meta_names", [True, False])
def test_plain_qwen_and_sam_start_training(tmp_path: Path, meta_names: bool) -> None:
    from lens_bench.lens.layouts import SAM2_META, own_shapes, slots

    model = released_tiny()
    export_qwen(model, tmp_path / "qwen", byte_tokenizer())
    whole = dict(model.named_parameters()) | dict(model.named_buffers())
    if meta_names:
        tensors = {}
        for slot in slots(SAM2_META, own_shapes(model.sam, "sam.")):
            tensor = whole[slot.name].detach()
            key = SAM2_META.to_theirs(slot)
            assert key is not None
            tensors[key] = tensor if slot.row is None else tensor[slot.row : slot.row + 1]
        tensors["memory_attention.norm.weight"] = torch.zeros(256)
        sam = tmp_path / "sam2.pt"
        torch.save({"model": {k: t.clone() for k, t in tensors.items()}}, sam)
    else:
        sam = tmp_path / "sam"
        plain = Sam2Model(model.config.sam_config())
        plain.load_state_dict(model.sam.sam2.state_dict())
        plain.save_pretrained(sam)
    loaded = load_plain(model.config, tmp_path / "qwen", sam, seed=9)
    again = load_plain(model.config, tmp_path / "qwen", sam, seed=9)
    other = load_plain(model.config, tmp_path / "qwen", sam, seed=10)
    for name, parameter in loaded.model.named_parameters():
        if name.startswith("head."):
            assert torch.equal(parameter, again.model.get_parameter(name))
        elif not (name.startswith("sam.leftovers") and not meta_names):
            assert torch.equal(parameter, whole[name]), name
    assert not torch.equal(loaded.model.head.queries, other.model.head.queries)
    assert "head initialised from seed 9" in loaded.report.notes
    left_out = "memory_attention.norm.weight" if meta_names else "prompt_encoder.shared_embedding.positional_embedding"
    assert loaded.report.ignored == (left_out,)
    assert any("set to zero" in note for note in loaded.report.notes) == (not meta_names)
    assert all(not p.is_meta for p in loaded.model.parameters())


def test_casting_keeps_the_rotary_tables() -> None:
    model = place(tiny_model(), "cpu", Precision(torch.bfloat16, torch.float32, torch.bfloat16))
    table = model.qwen.model.language_model.rotary_emb.inv_freq
    assert torch.equal(table, tiny_model().qwen.model.language_model.rotary_emb.inv_freq)
    assert model.text_dtype == torch.bfloat16 and model.head.queries.dtype == torch.float32
    assert model.qwen.lm_head.weight is model.embedding.weight


def test_a_configuration_from_a_plain_folder(tmp_path: Path) -> None:
    model = released_tiny()
    export_qwen(model, tmp_path, byte_tokenizer())
    config = plain_config(tmp_path, "sam2_hiera_t", head=model.config.head)
    assert config.positions == "mrope" and config.family == "qwen2_5_vl"
    assert config.ends == model.config.ends and config.padding == model.config.padding
    with torch.device("meta"):
        shapes = {n: tuple(p.shape) for n, p in LensModel(config).named_parameters()}
    assert shapes == {n: tuple(p.shape) for n, p in model.named_parameters()}
    assert plain_config(tmp_path, "sam2_hiera_t").head.queries == 64
    with pytest.raises(CheckpointError, match="no SAM 2 size 'huge'"):
        plain_config(tmp_path, "huge")


def test_precision_of_the_parts(tmp_path: Path) -> None:
    save(tiny_model(), tmp_path, byte_tokenizer(), STORY)
    model = load(tmp_path, precision=Precision(torch.bfloat16, torch.float32, torch.float16)).model
    assert {p.dtype for p in model.qwen.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.head.parameters()} == {torch.float32}
    assert {p.dtype for p in model.sam.parameters()} == {torch.float16}
    rotary = model.qwen.model.language_model.rotary_emb.inv_freq
    assert rotary.dtype == torch.float32 and torch.equal(
        rotary, tiny_model().qwen.model.language_model.rotary_emb.inv_freq
    )


# ---------------------------------------------------------------------------------------------- what can be wrong


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tiny_model(), tmp_path, byte_tokenizer(), STORY, 300_000)
    return tmp_path


def check_five(folder: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert caught.value.exit_code == 5 and "\n" not in caught.value.message
    for word in words:
        assert word in caught.value.message, caught.value.message


def test_truncated_shard(folder: Path) -> None:
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-1000])
    check_five(folder, shard.name, "not a complete safetensors file")


def test_shard_that_is_something_else(folder: Path) -> None:
    shard = sorted(folder.glob("*.safetensors"))[0]
    shard.write_bytes(b"version https://git-lfs.github.com/spec/v1\n" * 10)
    check_five(folder, shard.name)


def test_missing_shard(folder: Path) -> None:
    shard = sorted(folder.glob("*.safetensors"))[0]
    shard.unlink()
    check_five(folder, "lacks 1 of", shard.name)


def test_missing_unexpected_and_misshapen_tensors(folder: Path) -> None:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shard = folder / index["weight_map"]["head.pool.bias"]
    tensors = load_file(shard)
    del tensors["head.pool.bias"]
    tensors["head.pool.extra"] = torch.zeros(3)
    tensors["head.pool.weight"] = torch.zeros(2, 2)
    save_file(tensors, shard)
    check_five(
        folder, "1 missing: head.pool.bias", "1 unexpected: head.pool.extra", "1 misshapen: head.pool.weight [2, 2]"
    )


def test_configuration_that_is_no_configuration(folder: Path) -> None:
    content = json.loads((folder / CONFIG_NAME).read_text())
    (folder / CONFIG_NAME).write_text(json.dumps({**content, "surprise": 1}))
    check_five(folder, "surprise")
    (folder / CONFIG_NAME).write_text("{")
    check_five(folder, CONFIG_NAME)
    (folder / CONFIG_NAME).unlink()
    check_five(folder, "neither")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 8}))
    check_five(folder, "vision tower")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    check_five(tmp_path / "nowhere", "no checkpoint folder")
    with pytest.raises(CheckpointError):
        digest(tmp_path / "nowhere")


def test_an_output_layer_that_differs_from_the_tied_embedding(tmp_path: Path) -> None:
    save(tiny_model(), tmp_path, byte_tokenizer(), STORY)
    tensors = load_file(tmp_path / "model.safetensors")
    table = tensors["qwen.model.language_model.embed_tokens.weight"]
    save_file({**tensors, "qwen.lm_head.weight": table.clone()}, tmp_path / "model.safetensors")
    load(tmp_path)
    save_file({**tensors, "qwen.lm_head.weight": table + 1}, tmp_path / "model.safetensors")
    check_five(tmp_path, "qwen.lm_head.weight", "ties them")


def test_a_pickle_is_not_executed(tmp_path: Path) -> None:
    from lens_bench.lens.sources import pickle_source

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "owned",))

    torch.save({"model": {"a": Evil()}}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match=r"evil\.pt"):
        pickle_source(tmp_path / "evil.pt")
    assert not (tmp_path / "owned").exists()
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="dictionary of tensors"):
        pickle_source(tmp_path / "list.pt")
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError, match=r"cut\.pt"):
        pickle_source(tmp_path / "cut.pt")


def test_describe_reads_no_weights(folder: Path) -> None:
    for shard in folder.glob("*.safetensors"):
        shard.unlink()
    config, _ = describe(folder)
    assert isinstance(config, LensConfig) and np.isfinite(config.head.eps)
