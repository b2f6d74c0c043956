"""Checkpoint namings: the released keys, and what happens where a file does not fit."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from lens_bench.errors import CheckpointError
from lens_bench.lens.config import LensConfig, sam_preset
from lens_bench.lens.layouts import (
    OWN,
    RELEASED,
    SAM2_HUB,
    SAM2_META,
    Slot,
    make_plan,
    own_shapes,
    slots,
    tied_names,
)
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.recipe import Recipe
from lens_bench.lens.sizes import lens_2b, lens_3b, lens_nano
from lens_bench.lens.sources import MemorySource

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "lens"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="golden arrays are not at hand (../shared/golden/lens)")


def meta(config: LensConfig) -> LensModel:
    with torch.device("meta"):
        return LensModel(config)


@pytest.fixture(scope="module")
def full() -> LensModel:
    return meta(lens_3b())


@pytest.fixture(scope="module")
def keys() -> dict[str, list[int]]:
    content: dict[str, list[int]] = json.loads(gzip.decompress((GOLDEN / "lens3b_keys.json.gz").read_bytes()))
    return content


def source(keys: dict[str, list[int]]) -> MemorySource:
    return MemorySource({k: torch.empty(s, device="meta") for k, s in keys.items()}, "released")


@needs_golden
def test_every_released_key_has_exactly_one_place_and_none_of_ours_is_left(
    full: LensModel, keys: dict[str, list[int]]
) -> None:
    assert len(keys) == 1634
    expected = own_shapes(full)
    targets = Counter(RELEASED.to_ours(key) for key in keys)
    assert max(targets.values()) == 1 and None not in targets
    for key, shape in keys.items():
        slot = RELEASED.to_ours(key)
        assert slot is not None
        ours = expected[slot.name]
        assert tuple(shape) == (ours if slot.row is None else (1, *ours[1:]))
        assert RELEASED.to_theirs(slot) == key
    assert set(targets) == set(slots(RELEASED, expected))
    plan = make_plan(RELEASED, expected, source(keys), tied_names(full))
    assert len(plan.keys) == 1634 and not plan.ignored and not plan.absent


@needs_golden
def test_tied_output_layer_may_be_absent_but_nothing_else(full: LensModel, keys: dict[str, list[int]]) -> None:
    without = {k: s for k, s in keys.items() if k != "lm_head.weight"}
    assert len(make_plan(RELEASED, own_shapes(full), source(without), tied_names(full)).keys) == 1633
    with pytest.raises(CheckpointError, match=r"1 missing: lm_head\.weight"):
        make_plan(RELEASED, own_shapes(full), source(without))


@needs_golden
def test_misfits_are_named_ten_at_a_time(full: LensModel, keys: dict[str, list[int]]) -> None:
    broken = dict(keys)
    for layer in range(12):
        del broken[f"model.layers.{layer}.mlp.up_proj.weight"]
    broken["conv_1d.weight"] = [2048, 2048, 32]
    broken["sam.memory_attention.norm.weight"] = [256]
    broken["sam.sam_prompt_encoder.point_embeddings.4.weight"] = [1, 256]
    with pytest.raises(CheckpointError) as caught:
        make_plan(RELEASED, own_shapes(full), source(broken), tied_names(full))
    message = caught.value.message
    assert "12 missing: model.layers.0.mlp.up_proj.weight" in message and "and 2 more" in message
    assert "sam.memory_attention.norm.weight" in message and "1 unexpected" in message
    assert "conv_1d.weight [2048, 2048, 32] for [2048, 2048, 64]" in message and "2 misshapen" in message
    assert caught.value.exit_code == 5


def test_a_key_that_two_names_translate_to_is_refused() -> None:
    expected = {"qwen.model.language_model.norm.weight": (4,)}
    from lens_bench.lens.layouts import QWEN

    both = {"model.norm.weight": torch.zeros(4), "model.language_model.norm.weight": torch.zeros(4)}
    with pytest.raises(CheckpointError, match="1 twice"):
        make_plan(QWEN, expected, MemorySource(both, "x"))


def test_own_names_are_the_identity() -> None:
    assert OWN.to_ours("head.pool.bias") == Slot("head.pool.bias")
    assert OWN.to_theirs(Slot("sam.sam2.prompt_encoder.point_embed.weight")) is not None


def test_plain_sam_layouts_cover_the_whole_part() -> None:
    with torch.device("meta"):
        model = meta(lens_3b().model_copy(update={"sam": sam_preset("sam2_hiera_t")}))
    expected = own_shapes(model.sam, "sam.")
    for layout in (SAM2_META, SAM2_HUB):
        places = slots(layout, expected)
        theirs = [layout.to_theirs(slot) for slot in places]
        assert None not in theirs and len(set(theirs)) == len(theirs)
        assert [layout.to_ours(key) for key in theirs if key is not None] == places
    assert SAM2_META.is_ignored("memory_attention.layers.0.norm1.weight") and SAM2_META.is_ignored("maskmem_tpos_enc")
    assert SAM2_HUB.is_optional("sam.leftovers.mask_downsample.bias")


def test_sizes_of_the_named_models() -> None:
    def count(config: LensConfig) -> dict[str, float]:
        model = meta(config)
        return {
            part: sum(p.numel() for p in getattr(model, part).parameters()) / 1e6 for part in ("qwen", "head", "sam")
        }

    three, two = count(lens_3b()), count(lens_2b())
    # Trainable parts of stage 1: 474.9 M. Qwen2.5-VL-3B has 3,754.6 M, Qwen2-VL-2B 2,209.0 M parameters.
    assert three["head"] == pytest.approx(474.9, abs=0.1) and three["qwen"] == pytest.approx(3754.6, abs=0.1)
    assert two["qwen"] == pytest.approx(2209.0, abs=0.1)
    nano = count(lens_nano(109, 1, 2, 0, Recipe(sizing="square", longest_side=112, max_new_tokens=12)))
    assert sum(nano.values()) < 3.6 and nano["sam"] < 0.9
