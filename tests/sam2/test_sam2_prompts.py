"""SAM 2 with boxes and points: against Meta's predictor, across batches, and checkpoints that do not fit."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lens_bench.checkpoint_files import digest
from lens_bench.errors import CheckpointError
from lens_bench.lens.config import sam_preset
from lens_bench.lens.hf import Sam2Config
from lens_bench.lens.layouts import SAM2_META, own_shapes, slots
from lens_bench.lens.sam import SamPart
from lens_bench.lens.tiny import tiny_sam
from lens_bench.masks import area, decode
from lens_bench.records import Pixels
from lens_bench.sam2.model import Encoded, Sam2
from lens_bench.sam2.prompts import SamPrompt
from lens_bench.sam2.tiny import save_tiny_sam2
from lens_bench.torchvision_guard import guard_torchvision

needs_sam2 = pytest.mark.skipif(importlib.util.find_spec("sam2") is None, reason="the sam2 package is not installed")

PROMPTS = [
    SamPrompt((10.0, 12.0, 60.0, 50.0)),
    SamPrompt((10.0, 12.0, 60.0, 50.0), ((30.0, 20.0), (40.0, 41.0))),
    SamPrompt((0.0, 0.0, 20.0, 20.0), ((5.0, 6.0),)),
    SamPrompt(points=((50.0, 30.0),)),
    SamPrompt((30.0, 5.0, 62.0, 40.0)),
]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_sam2(tmp_path_factory.mktemp("sam2"))


def picture(height: int, width: int, seed: int = 0) -> Pixels:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.ascontiguousarray(np.kron(coarse, np.ones((height // 4, width // 4, 1), np.uint8)))


def test_masks_depend_on_prompt_and_image_and_not_on_the_batch(folder: Path) -> None:
    sam = Sam2.load(folder)
    images = [picture(64, 96), picture(80, 64, 1)]
    encoded = sam.encode(images)
    asked = [(encoded[n % 2], prompt) for n, prompt in enumerate([*PROMPTS, *PROMPTS])]
    together = sam.masks(asked)
    alone = [sam.masks([item])[0] for item in asked]
    for found, expected, (image, _) in zip(together, alone, asked, strict=True):
        assert found.mask.size == image.original
        assert np.mean(decode(found.mask) != decode(expected.mask)) < 1e-3
        assert found.score == pytest.approx(expected.score, abs=1e-5)
    assert len({m.mask.counts for m in together}) == len(asked)
    # Random weights are never stable, and SAM 2 then takes the best of three in either case.
    sam.part.sam2.mask_decoder.dynamic_multimask_via_stability = False
    single = sam.masks(asked, best_of_three=False)
    assert any(a.mask != b.mask for a, b in zip(single, together, strict=True))
    assert sam.masks([]) == [] and sam.encode([]) == []


def test_features_are_computed_once_per_image(folder: Path) -> None:
    sam = Sam2.load(folder)
    calls: list[int] = []
    sam.part.sam2.vision_encoder.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    (encoded,) = sam.encode([picture(64, 96)])
    sam.masks([(encoded, prompt) for prompt in PROMPTS])
    assert calls == [1]


def test_a_prompt_asks_something() -> None:
    with pytest.raises(ValueError, match="box or a point"):
        SamPrompt()


def test_bfloat16_runs(folder: Path) -> None:
    sam = Sam2.load(folder, dtype=torch.bfloat16)
    masks = sam.masks([(sam.encode([picture(64, 96)])[0], prompt) for prompt in PROMPTS])
    assert all(np.isfinite(m.score) for m in masks) and sam.parameters > 10_000


# ---------------------------------------------------------------------------------------------- Meta's package


@needs_sam2
@torch.inference_mode()
def test_masks_are_those_of_metas_predictor(tmp_path: Path) -> None:
    guard_torchvision()
    from sam2.build_sam import build_sam2
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    torch.manual_seed(0)
    theirs = build_sam2("configs/sam2/sam2_hiera_t.yaml", ckpt_path=None, device="cpu", mode="eval")
    generator = torch.Generator().manual_seed(1)
    for parameter in theirs.parameters():
        if parameter.ndim > 1:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5)
    file = tmp_path / "sam2_hiera_tiny.pt"
    torch.save({"model": theirs.state_dict()}, file)
    ours = Sam2.load(file)
    image = picture(300, 420)
    predictor = SAM2ImagePredictor(theirs)
    predictor.set_image(image)
    (encoded,) = ours.encode([image])
    for prompt in PROMPTS[:4]:
        for three in (True, False):
            masks, scores, _ = predictor.predict(
                point_coords=np.array(prompt.points) if prompt.points else None,
                point_labels=np.ones(len(prompt.points)) if prompt.points else None,
                box=np.array(prompt.box) if prompt.box else None,
                multimask_output=three,
            )
            best = int(np.argmax(scores))
            (found,) = ours.masks([(encoded, prompt)], best_of_three=three)
            assert found.score == pytest.approx(float(scores[best]), abs=2e-3)
            assert np.mean(decode(found.mask) != (masks[best] > 0)) < 5e-3
            assert 0 < area(found.mask) < 300 * 420


# ---------------------------------------------------------------------------------------------- checkpoints


def test_checkpoints_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no SAM 2 checkpoint") as caught:
        Sam2.load(tmp_path / "nowhere.pt")
    assert "hf download" in caught.value.hint
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if "no_memory" not in k}, broken / "model.safetensors")
    with pytest.raises(CheckpointError, match="1 missing: no_memory_embedding"):
        Sam2.load(broken)
    (broken / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(CheckpointError, match="does not configure SAM 2"):
        Sam2.load(broken)
    torch.save({"model": {"a": torch.zeros(3)}}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not a SAM 2 checkpoint"):
        Sam2.load(tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        Sam2.load(tmp_path / "text.pt")


def test_the_video_models_layout_is_read(folder: Path, tmp_path: Path) -> None:
    """``facebook/sam2-hiera-*`` hold a ``Sam2VideoModel``: more tensors, and another configuration."""
    from transformers import Sam2VideoConfig, Sam2VideoModel
    from transformers.models.sam2_video.configuration_sam2_video import (
        Sam2VideoMaskDecoderConfig,
        Sam2VideoPromptEncoderConfig,
    )

    parts = tiny_sam()
    memory = {f"memory_{name}": 32 for name in ("attention_hidden_size", "encoder_hidden_size", "fuser_embed_dim")}
    config = Sam2VideoConfig(
        vision_config={**parts["vision_config"], "model_type": "sam2_vision_model"},  # type: ignore[dict-item]
        prompt_encoder_config=Sam2VideoPromptEncoderConfig(**parts["prompt_encoder_config"]),  # type: ignore[arg-type]
        mask_decoder_config=Sam2VideoMaskDecoderConfig(**parts["mask_decoder_config"]),  # type: ignore[arg-type]
        **memory,
        memory_encoder_output_channels=16,
        memory_attention_num_layers=1,
        mask_downsampler_embed_dim=32,
        image_size=128,
    )
    Sam2VideoModel(config).save_pretrained(tmp_path)
    kind = json.loads((tmp_path / "config.json").read_text())["model_type"]
    assert kind == "sam2_video"
    video, image = load_file(tmp_path / "model.safetensors"), load_file(folder / "model.safetensors")
    save_file({**video, **{k: v for k, v in image.items() if k in video}}, tmp_path / "model.safetensors")
    (ours,), (theirs,) = (
        sam.masks([(sam.encode([picture(64, 96)])[0], PROMPTS[1])]) for sam in (Sam2.load(tmp_path), Sam2.load(folder))
    )
    # Two loads of one model: sums of floats may differ in the last digits with where memory lies.
    assert ours.score == pytest.approx(theirs.score, abs=1e-5)
    assert (decode(ours.mask) ^ decode(theirs.mask)).mean() <= 1e-3


def test_the_digest_follows_the_weights(folder: Path, tmp_path: Path) -> None:
    other = save_tiny_sam2(tmp_path / "other", seed=1)
    assert digest(folder) == digest(folder) != digest(other)
    assert len(digest(other / "model.safetensors")) == 64
    with pytest.raises(CheckpointError):
        digest(tmp_path / "nowhere.pt")


def test_an_image_is_named_by_its_own_size(folder: Path) -> None:
    (encoded,) = Sam2.load(folder).encode([picture(64, 96)])
    assert isinstance(encoded, Encoded) and encoded.original == (64, 96)


def test_numbers_that_are_none_are_told_of_the_mask_that_holds_them(folder: Path) -> None:
    sam = Sam2.load(folder)
    good, bad = sam.encode([picture(64, 96), picture(64, 96, 1)])
    broken = replace(bad, features=replace(bad.features, image=bad.features.image * float("nan")))
    prompt = PROMPTS[0]
    found = sam.masks([(good, prompt), (broken, prompt), (good, PROMPTS[3])])
    assert [mask.finite for mask in found] == [True, False, True]
    (alone,) = sam.masks([(good, prompt)])
    # A prompt alone and one of three: sums of floats may differ in the last digits.
    assert found[0].score == pytest.approx(alone.score, abs=1e-5)
    assert (decode(found[0].mask) ^ decode(alone.mask)).mean() <= 1e-3
    assert sam.masks([]) == []


def test_a_cache_that_holds_metas_file_alone_is_read(folder: Path, tmp_path: Path) -> None:
    """What the SAM 2 package downloads is ``sam2_hiera_large.pt`` beside its YAML, without ``config.json``."""
    state = tmp_path / "snapshot" / "sam2_hiera_tiny.pt"
    state.parent.mkdir()
    part = SamPart(Sam2Config(**json.loads(json.dumps(sam_preset("sam2_hiera_t")))))
    tensors = {f"sam.{name}": t for name, t in part.state_dict().items()}
    theirs: dict[str, torch.Tensor] = {}
    for slot in slots(SAM2_META, own_shapes(part, "sam.")):
        if (key := SAM2_META.to_theirs(slot)) is not None:
            tensor = tensors[slot.name]
            theirs[key] = tensor if slot.row is None else tensor[slot.row : slot.row + 1]
    torch.save({"model": theirs}, state)
    (state.parent / "sam2_hiera_t.yaml").write_text("model: {}\n")
    assert (
        Sam2.load(state.parent).parameters
        == Sam2.load(state).parameters
        == sum(p.numel() for p in part.sam2.parameters())
    )
    before = digest(state.parent)
    torch.save({"model": theirs | {"extra": torch.zeros(1)}}, state)
    assert digest(state.parent) != before
    (state.parent / "sam2.1_hiera_tiny.pt").write_bytes(state.read_bytes())
    with pytest.raises(CheckpointError, match=r"2 \.pt files: sam2\.1_hiera_tiny\.pt, sam2_hiera_tiny\.pt"):
        Sam2.load(state.parent)
