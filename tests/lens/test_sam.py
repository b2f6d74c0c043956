"""SAM 2 against Meta's own package: our names, our features, our masks, the dynamic choice of the mask token."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from lens_bench.lens.checkpoint import fresh
from lens_bench.lens.config import sam_preset
from lens_bench.lens.layouts import SAM2_META, make_plan, own_shapes
from lens_bench.lens.sam import SamPart, upsample
from lens_bench.lens.sources import MemorySource
from lens_bench.lens.tiny import lively, tiny_config
from lens_bench.torchvision_guard import guard_torchvision

needs_sam2 = pytest.mark.skipif(importlib.util.find_spec("sam2") is None, reason="the sam2 package is not installed")
RELATIVE = 1e-3


def meta_model(name: str) -> torch.nn.Module:
    """Meta's model with random weights, in evaluation mode."""
    guard_torchvision()
    from sam2.build_sam import build_sam2

    torch.manual_seed(0)
    model: torch.nn.Module = build_sam2(f"configs/sam2/{name}.yaml", ckpt_path=None, device="cpu", mode="eval")
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                fan = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan**0.5)
            else:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def ours(name: str, theirs: torch.nn.Module) -> SamPart:
    base = tiny_config()
    part = fresh(base.model_copy(update={"sam": sam_preset(name)}), 0).sam
    state = {k: v for k, v in theirs.state_dict().items()}
    plan = make_plan(SAM2_META, own_shapes(part, "sam."), MemorySource(state, "sam2"))
    whole = dict(part.named_parameters()) | dict(part.named_buffers())
    with torch.no_grad():
        for slot, key in plan.keys.items():
            target = whole[slot.name.removeprefix("sam.")]
            (target if slot.row is None else target[slot.row : slot.row + 1]).copy_(state[key])
    return part.eval()


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@needs_sam2
@pytest.mark.parametrize("name", ["sam2_hiera_t", pytest.param("sam2_hiera_b+", marks=pytest.mark.slow)])
@torch.no_grad()
def test_masks_are_those_of_meta(name: str) -> None:
    theirs = meta_model(name)
    part = ours(name, theirs)
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randn(1, 3, 1024, 1024, generator=generator)
    prompts = torch.randn(5, 1, 256, generator=generator)
    out = theirs.forward_image(pixels)  # type: ignore[operator]
    _, flat, _, sizes = theirs._prepare_backbone_features(out)  # type: ignore[operator]
    flat[-1] = flat[-1] + theirs.no_mem_embed
    levels = [f.permute(1, 2, 0).view(1, -1, *s) for f, s in zip(flat, sizes, strict=True)]
    features = part.features(pixels)
    for found, expected in zip((features.fine, features.middle, features.image), levels, strict=True):
        assert relative(found, expected) < RELATIVE
    _, dense = theirs.sam_prompt_encoder(points=None, boxes=None, masks=None)  # type: ignore[operator]
    expected, scores, _, _ = theirs.sam_mask_decoder(  # type: ignore[operator]
        image_embeddings=levels[-1],
        image_pe=theirs.sam_prompt_encoder.get_dense_pe(),  # type: ignore[union-attr,operator]
        sparse_prompt_embeddings=prompts,
        dense_prompt_embeddings=dense.expand(5, -1, -1, -1),
        multimask_output=False,
        repeat_image=True,
        high_res_features=levels[:-1],
    )
    found = part.masks(features.rows(torch.zeros(5, dtype=torch.long)), prompts)
    assert relative(found, expected[:, 0]) < RELATIVE
    assert len({round(float(s), 6) for s in scores[:, 0]}) > 1


def small() -> SamPart:
    return lively(fresh(tiny_config(), 0), 0).sam


@torch.no_grad()
def test_rows_of_several_images_equal_one_at_a_time() -> None:
    part = small()
    generator = torch.Generator().manual_seed(3)
    features = part.features(torch.randn(3, 3, 128, 128, generator=generator))
    prompts = torch.randn(5, 1, 32, generator=generator)
    index = torch.tensor([2, 0, 0, 1, 2])
    together = part.masks(features.rows(index), prompts)
    for n, image in enumerate(index.tolist()):
        alone = part.masks(features.row(image), prompts[n : n + 1])[0]
        assert relative(together[n], alone) < 1e-5


@torch.no_grad()
def test_training_mode_always_gives_the_single_mask() -> None:
    part = small()
    generator = torch.Generator().manual_seed(4)
    features = part.features(torch.randn(1, 3, 128, 128, generator=generator))
    prompts = torch.randn(8, 1, 32, generator=generator)
    rows = features.rows(torch.zeros(8, dtype=torch.long))
    evaluated, trained = part.masks(rows, prompts), part.train().masks(rows, prompts)
    assert any(relative(a, b) > 1e-2 for a, b in zip(evaluated, trained, strict=True))


def test_gradients_reach_prompt_and_decoder() -> None:
    part = small()
    with torch.no_grad():
        features = part.features(torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(5)))
    prompt = torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(6), requires_grad=True)
    part.masks(features, prompt).sum().backward()
    assert prompt.grad is not None and float(prompt.grad.norm()) > 0
    assert part.sam2.mask_decoder.upscale_conv1.weight.grad is not None


def test_one_positional_matrix() -> None:
    part = small()
    assert part.sam2.prompt_encoder.shared_embedding is part.sam2.shared_image_embedding


def test_upsampling_is_bilinear_at_the_original_size() -> None:
    low = torch.tensor([[0.0, 4.0], [8.0, 12.0]])
    up = upsample(low.to(torch.bfloat16), (4, 2))
    assert up.dtype == torch.float32 and up.shape == (4, 2)
    torch.testing.assert_close(up[:, 0], torch.tensor([0.0, 2.0, 6.0, 8.0]))
