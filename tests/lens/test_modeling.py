"""What training relies on: who sees whom, where gradients go, what a head of another width is."""

from __future__ import annotations

import pytest
import torch

from lens_bench.lens.config import HeadConfig, released_config
from lens_bench.lens.connector import ContextHead
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.tiny import tiny_config, tiny_model

GRID = (1, 4, 6)


def inputs(model: LensModel) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    patches = torch.randn(24, 1176, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[1, 2, *[model.image_token] * 6, 3, 4, 5]])
    return ids, torch.ones_like(ids), patches


@torch.no_grad()
def test_queries_do_not_change_the_text_and_change_the_mask() -> None:
    model = tiny_model(tiny_config("mrope"))
    ids, mask, patches = inputs(model)
    image = model.see(patches, [GRID])
    before = model.joint(ids, mask, image, [GRID])
    model.head.queries.add_(1.0)
    after = model.joint(ids, mask, image, [GRID])
    assert torch.equal(before.text, after.text)
    assert not torch.allclose(model.prompts(before.queries), model.prompts(after.queries))


@torch.no_grad()
def test_padding_holds_anything() -> None:
    model = tiny_model(tiny_config("lens-1d"))
    ids, mask, patches = inputs(model)
    image = model.see(patches, [GRID])
    expected = model.joint(ids, mask, image, [GRID])
    longer = torch.cat([ids, torch.tensor([[7, 8, 9]])], dim=1)
    hidden = torch.cat([mask, torch.zeros(1, 3, dtype=mask.dtype)], dim=1)
    found = model.joint(longer, hidden, image, [GRID])
    assert torch.allclose(found.queries, expected.queries, atol=1e-5)
    assert torch.allclose(found.text[:, : ids.shape[1]], expected.text, atol=1e-5)


def test_a_mask_loss_reaches_every_part_it_should() -> None:
    model = tiny_model(tiny_config("mrope")).train()
    ids, mask, patches = inputs(model)
    joint = model.joint(ids, mask, model.see(patches, [GRID]), [GRID])
    size = model.sam.image_size
    with torch.no_grad():
        features = model.sam.features(torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1)))
    model.sam.masks(features, model.prompts(joint.queries)).square().mean().backward()
    reached = {n for n, p in model.named_parameters() if p.grad is not None and float(p.grad.abs().sum()) > 0}
    assert "head.queries" in reached and "head.pool.weight" in reached and "head.connector.pos_embed" in reached
    assert "qwen.model.visual.patch_embed.proj.weight" in reached
    assert "qwen.model.language_model.layers.0.self_attn.q_proj.weight" in reached
    assert any(n.startswith("sam.sam2.mask_decoder") for n in reached)
    assert not any(n.startswith("sam.sam2.vision_encoder") or n.startswith("sam.leftovers") for n in reached)


def test_a_row_without_its_image_is_refused() -> None:
    model = tiny_model()
    ids, mask, patches = inputs(model)
    image = model.see(patches, [GRID])
    with pytest.raises(ValueError, match="row 0 does not hold one image"):
        model.joint(ids[:, 4:], mask[:, 4:], image, [GRID])
    with pytest.raises(ValueError, match="placeholders"):
        model.embed(ids[:, 4:], image)


@torch.no_grad()
def test_a_placeholder_in_an_answer_is_a_word() -> None:
    model = tiny_model()
    ids, mask, patches = inputs(model)
    image = model.see(patches, [GRID])
    longer = torch.cat([ids, torch.tensor([[model.image_token, 6]])], dim=1)
    embeds = model.embed(longer, image)
    assert torch.equal(embeds[0, 2:8], image[0])
    assert torch.equal(embeds[0, -2], model.embedding.weight[model.image_token])
    found = model.joint(longer, torch.ones_like(longer), image, [GRID], "mrope")
    before = model.joint(ids, mask, image, [GRID], "mrope")
    assert torch.allclose(found.text[:, : ids.shape[1]], before.text, atol=1e-5)


@pytest.mark.parametrize(("width", "depth"), [(64, 4), (32, 1), (64, 0)])
def test_heads_of_other_shapes(width: int, depth: int) -> None:
    config = HeadConfig(queries=5, width=width, depth=depth, heads=4, prompt_width=16)
    head = ContextHead(config, 64)
    head.initialise(torch.Generator().manual_seed(0))
    assert head(torch.randn(2, 5, 64)).shape == (2, 1, 16)
    assert (head.entry.weight.shape == (32, 64)) if width != 64 else not list(head.entry.parameters())
    assert all(torch.isfinite(p).all() for p in head.parameters())


def test_the_same_seed_gives_the_same_model_and_leaves_the_global_state() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    a, b, c = tiny_model(seed=1), tiny_model(seed=1), tiny_model(seed=2)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.head.queries, c.head.queries)


def test_released_configurations_of_both_families() -> None:
    common = {"hidden_size": 64, "num_of_query": 64, "if_use_qwen_connector": True, "eos_token_id": 7}
    three = released_config({**common, "vision_config": {"fullatt_block_indexes": [1], "in_chans": 3}})
    two = released_config({**common, "vision_config": {"embed_dim": 32, "mlp_ratio": 4}})
    assert (three.family, two.family) == ("qwen2_5_vl", "qwen2_vl")
    assert (three.recipe.coordinates, two.recipe.coordinates) == ("pixels", "thousandths")
    assert three.positions == two.positions == "lens-1d" and three.head.depth == 4
    assert three.ends == (7, 151643) and three.padding == 151643
    again = released_config({**common, "vision_config": {"embed_dim": 32}}, generation={"eos_token_id": [7, 9]})
    assert again.ends == (7, 9, 151643)
