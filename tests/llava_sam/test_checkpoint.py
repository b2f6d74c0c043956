"""Loading: every released key has its place, and every wrong checkpoint is an error that says what it is."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lens_bench.checkpoint_files import digest
from lens_bench.errors import CheckpointError
from lens_bench.lens.layouts import make_plan, own_shapes
from lens_bench.lens.sources import Shape
from lens_bench.llava_sam.checkpoint import Loaded, load, open_folder
from lens_bench.llava_sam.config import GLAMM, LISA, Family, released_config
from lens_bench.llava_sam.layout import released
from lens_bench.llava_sam.modeling import LlavaSam
from lens_bench.llava_sam.tiny import write_shards

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
Folders = tuple[Path, Path]


class Shapes:
    """A checkpoint of which only names and shapes are known."""

    what = "key list"

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self._shapes = shapes

    def shapes(self) -> Mapping[str, Shape]:
        return self._shapes

    def tensor(self, name: str) -> Tensor:
        raise AssertionError(name)


# ---------------------------------------------------------------------------------------------- full size


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="golden key lists are not at hand (../shared/golden)")
@pytest.mark.parametrize(
    ("family", "file", "vocabulary"),
    [(LISA, "lisa/lisa7b_keys.json.gz", 32004), (GLAMM, "glamm/glamm_refseg_keys.json.gz", 32007)],
)
def test_every_released_key_has_a_place_and_every_place_a_key(family: Family, file: str, vocabulary: int) -> None:
    keys = {k: tuple(s) for k, s in json.loads(gzip.decompress((GOLDEN / file).read_bytes())).items()}
    keys["model.layers.0.self_attn.rotary_emb.inv_freq"] = (64,)
    if family is GLAMM:
        keys["model.region_encoder.mlvl_fuse.fuse_convs.0.conv.weight"] = (4096, 4096, 3, 3)
    config = {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": vocabulary,
        "max_position_embeddings": 2048,
    }
    clip = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    with torch.device("meta"):
        model = LlavaSam(released_config(family, config, {**clip, "image_size": family.side, "patch_size": 14}))
    expected = {name: shape for name, shape in own_shapes(model).items() if not name.startswith("clip.")}
    plan = make_plan(released(family), expected, Shapes(keys))
    assert {slot.name for slot in plan.keys} == set(expected)
    assert set(plan.keys.values()) | set(plan.ignored) == set(keys)
    assert all("inv_freq" in key or "region_encoder" in key for key in plan.ignored)


# ---------------------------------------------------------------------------------------------- forms of a folder


def read_all(folder: Path) -> dict[str, Tensor]:
    source = open_folder(folder)
    return {name: source.tensor(name).clone() for name in source.shapes()}


def rewrite(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    for file in [*folder.glob("pytorch_model*"), *folder.glob("*.safetensors")]:
        file.unlink()
    write_shards(folder, tensors)


@pytest.fixture
def own(lisa_folders: Folders, tmp_path: Path) -> Folders:
    """Copies that a test may damage."""
    return shutil.copytree(lisa_folders[0], tmp_path / "model"), shutil.copytree(lisa_folders[1], tmp_path / "clip")


def test_every_tensor_arrives(lisa: Loaded, lisa_folders: Folders) -> None:
    theirs = {**read_all(lisa_folders[0]), **read_all(lisa_folders[1])}
    assert lisa.report.parameters == sum(p.numel() for p in lisa.model.parameters())
    ours = lisa.model.state_dict()
    assert len(ours) == len(theirs)
    assert torch.equal(ours["llama.lm_head.weight"], theirs["lm_head.weight"])
    assert torch.equal(ours["projector.bias"], theirs["model.mm_projector.bias"])
    name = "mask_decoder.iou_token.weight"
    assert torch.equal(ours[f"sam.{name}"], theirs[f"model.visual_model.{name}"])
    assert torch.equal(ours["clip.pre_layrnorm.weight"], theirs["vision_model.pre_layrnorm.weight"])
    assert not any(t.is_meta for t in [*lisa.model.parameters(), *lisa.model.buffers()])
    assert not lisa.model.training


def test_safetensors_and_one_file_are_the_same_model(own: Folders, lisa: Loaded) -> None:
    folder, tower = own
    tensors, clip = read_all(folder), read_all(tower)
    rewrite(folder, {})
    for file in folder.glob("pytorch_model*"):
        file.unlink()
    save_file({k: t.contiguous() for k, t in tensors.items()}, folder / "model.safetensors")
    # The whole of CLIP, as OpenAI's repositories hold it.
    extra = {"text_model.embeddings.position_ids": torch.arange(4), "logit_scale": torch.tensor(1.0)}
    torch.save({**clip, **extra}, tower / "pytorch_model.bin")
    again = load(LISA, folder, tower)
    assert again.report.ignored == ("text_model.{*}", "logit_scale")
    for (name, a), (_, b) in zip(again.model.state_dict().items(), lisa.model.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_buffers_of_older_versions_are_left_out_by_name(own: Folders) -> None:
    folder, tower = own
    key = "model.layers.1.self_attn.rotary_emb.inv_freq"
    rewrite(folder, {**read_all(folder), key: torch.ones(8)})
    assert load(LISA, folder, tower).report.ignored == ("model.layers.{}.self_attn.rotary_emb.inv_freq",)


def test_glamm_leaves_the_region_encoder_out_by_name(glamm_folders: Folders, tmp_path: Path) -> None:
    folder = shutil.copytree(glamm_folders[0], tmp_path / "model")
    key = "model.region_encoder.mlvl_fuse.input_conv.0.weight"
    rewrite(folder, {**read_all(folder), key: torch.ones(3)})
    assert load(GLAMM, folder, glamm_folders[1]).report.ignored == ("model.region_encoder.{*}",)


def test_bfloat16_is_everywhere_but_in_the_rotary_frequencies(lisa_folders: Folders) -> None:
    model = load(LISA, *lisa_folders, dtype=torch.bfloat16).model
    assert {t.dtype for t in model.parameters()} == {torch.bfloat16}
    assert model.sam.positions().dtype == torch.bfloat16
    assert model.llama.model.rotary_emb.inv_freq.dtype == torch.float32


def test_the_digest_follows_weights_tokenizer_and_tower(own: Folders) -> None:
    folder, tower = own
    digests = {digest(folder, tower)}
    added = json.loads((folder / "added_tokens.json").read_text())
    (folder / "added_tokens.json").write_text(json.dumps({**added, "<p>": 99}))
    digests.add(digest(folder, tower))
    clip = read_all(tower)
    torch.save({**clip, "logit_scale": torch.tensor(2.0)}, tower / "pytorch_model.bin")
    digests.add(digest(folder, tower))
    assert len(digests) == 3


# ---------------------------------------------------------------------------------------------- wrong checkpoints

Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def without(part: str) -> Change:
    return lambda tensors: {k: t for k, t in tensors.items() if part not in k}


def renamed(old: str, new: str) -> Change:
    return lambda tensors: {k.replace(old, new): t for k, t in tensors.items()}


def plus(name: str, *shape: int) -> Change:
    return lambda tensors: {**tensors, name: torch.zeros(shape)}


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        (without("text_hidden_fcs"), "has no text_hidden_fcs", "LLaVA checkpoint"),
        (without("mask_decoder"), "has no mask decoder", "Meta's SAM file cannot stand in"),
        (plus("model.layers.0.self_attn.q_proj.lora_A.weight", 8, 64), "LoRA weights that are not merged", "merge"),
        (renamed("model.", "base_model.model.model."), "LoRA weights that are not merged", "merge"),
        (renamed("visual_model", "grounding_encoder"), "is a checkpoint of GLaMM, not of LISA", "list"),
        (plus("model.vision_tower.vision_tower.x", 3), "holds a vision tower of its own", "clip-vit-large-patch14"),
        (without("layers.1."), r"\d+ missing: model\.layers\.1\.", ""),
        (plus("model.something.weight", 3), r"1 unexpected: model\.something\.weight", ""),
        (plus("lm_head.weight", 3, 64), r"1 misshapen: lm_head\.weight \[3, 64\]", ""),
        (without("image_encoder.neck.0.weight"), "1 missing: model.visual_model.image_encoder.neck.0.weight", ""),
    ],
)
def test_a_wrong_checkpoint_is_named(own: Folders, change: Change, message: str, hint: str) -> None:
    folder, tower = own
    rewrite(folder, change(read_all(folder)))
    with pytest.raises(CheckpointError, match=message) as caught:
        load(LISA, folder, tower)
    assert caught.value.exit_code == 5
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message


def test_v0_adapters_and_absent_folders_are_told_by_their_files(own: Folders) -> None:
    folder, tower = own
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        load(LISA, folder / "elsewhere", tower)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="LoRA adapter"):
        load(LISA, folder, tower)
    (folder / "pytorch_model-visual_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="v0 checkpoint") as caught:
        load(LISA, folder, tower)
    assert "v1" in caught.value.hint


def test_a_tower_of_the_wrong_resolution_or_width(lisa_folders: Folders, glamm_folders: Folders, own: Folders) -> None:
    with pytest.raises(CheckpointError, match=r"reads 336 px images .* LISA needs 224 px") as caught:
        load(LISA, lisa_folders[0], glamm_folders[1])
    assert "openai/clip-vit-large-patch14" in caught.value.hint
    with pytest.raises(CheckpointError, match=r"reads 224 px images .* GLaMM needs 336 px"):
        load(GLAMM, glamm_folders[0], lisa_folders[1])
    config = json.loads((own[1] / "config.json").read_text())
    config["vision_config"]["hidden_size"] = 48
    (own[1] / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="is 48 wide, the projector reads 32"):
        load(LISA, *own)


def test_broken_files(own: Folders) -> None:
    folder, tower = own
    shard = folder / "pytorch_model-00002-of-00002.bin"
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=f"{shard.name} is not a checkpoint of tensors"):
        load(LISA, folder, tower)
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"lacks 1 of 2 shards: {shard.name}"):
        load(LISA, folder, tower)
    (folder / "pytorch_model.bin.index.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"index\.json is not a JSON object"):
        load(LISA, folder, tower)
    shutil.copyfile(folder / "pytorch_model-00001-of-00002.bin", folder / "pytorch_model-00003.bin")
    (folder / "pytorch_model.bin.index.json").unlink()
    with pytest.raises(CheckpointError, match=r"is both in .*00001-of-00002\.bin and in pytorch_model-00003\.bin"):
        load(LISA, folder, tower)


class Trap:
    """A pickle that would run code when read."""

    def __reduce__(self) -> tuple[object, ...]:
        return exec, ("raise SystemExit('code in a checkpoint was run')",)


def test_code_in_a_pickle_is_not_run(own: Folders) -> None:
    folder, tower = own
    torch.save({"lm_head.weight": Trap()}, folder / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(CheckpointError, match="not a checkpoint of tensors"):
        load(LISA, folder, tower)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden_size", None, "hidden_size = None"),
        ("mm_vision_select_feature", "pooled", "selects the features 'pooled'"),
        ("sam", {"depth": 1}, "does not describe an image encoder"),
        ("rms_norm_eps", "small", "describes no model"),
    ],
)
def test_a_configuration_that_describes_nothing(own: Folders, field: str, value: object, message: str) -> None:
    folder, tower = own
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, field: value}))
    with pytest.raises(CheckpointError, match=message):
        load(LISA, folder, tower)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not readable JSON"):
        load(LISA, folder, tower)
    (tower / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="no file") as caught:
        load(LISA, folder, tower)
    assert "clip=FOLDER" in caught.value.hint
