"""Images for the towers: what is kept, what is dropped, what truths are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lens_bench.records import GroundTruth, Outline, Polygon
from lens_bench.train.album import Album, Use, truth_of, uses
from lens_bench.train.data import Item, open_items
from lens_bench.train.start import open_start

from .conftest import tiny_recipe

GB = 2**30


@pytest.fixture
def items(data_root: Path) -> list[Item]:
    by_image = {item.image: item for item in open_items("shapes/val", data_root)}
    return list(by_image.values())[:3]


@pytest.mark.parametrize("visual", ["unused", "trained", "frozen"])
@pytest.mark.parametrize("sam", ["unused", "trained", "frozen"])
@pytest.mark.parametrize("budget", [0.0, GB])
def test_only_what_is_used(visual: Use, sam: Use, budget: float, items: list[Item]) -> None:
    album = Album(open_start(tiny_recipe("supervised")).lens, visual=visual, sam=sam, budget=budget)
    (sight,) = album.sights(items[:1])
    kept = budget > 0
    assert (sight.visual is not None) == (visual == "frozen" and kept)
    assert (sight.sam is not None) == (sam == "frozen" and kept)
    assert bool(sight.prepared.patches.numel()) == (visual == "trained" or (visual == "frozen" and not kept))
    assert bool(sight.prepared.square.numel()) == (sam == "trained" or (sam == "frozen" and not kept))
    again = album.sights(items[:1])[0]
    assert (again is sight) == (kept and "frozen" in (visual, sam))
    album.close()


def test_reading_ahead_changes_nothing(items: list[Item]) -> None:
    lens = open_start(tiny_recipe("supervised")).lens
    ahead, plain = (Album(lens, visual="trained", sam="trained", budget=0.0) for _ in range(2))
    ahead.announce(items)
    for one, other in zip(ahead.sights(items), plain.sights(items), strict=True):
        assert torch.equal(one.prepared.patches, other.prepared.patches)
        assert torch.equal(one.prepared.square, other.prepared.square)
    ahead.close()
    plain.close()


def test_a_full_cache_keeps_no_more(items: list[Item]) -> None:
    album = Album(open_start(tiny_recipe("supervised")).lens, visual="frozen", sam="unused", budget=64 * 48 * 4.0)
    first = album.sights(items)
    second = album.sights(items)
    assert [a is b for a, b in zip(first, second, strict=True)] == [True, False, False]
    for a, b in zip(first, second, strict=True):
        assert a.visual is not None and b.visual is not None and torch.equal(a.visual, b.visual)
    album.close()


@pytest.mark.parametrize(
    ("stage", "over", "wanted"),
    [
        ("sam", {}, ("unused", "trained")),
        ("vision", {}, ("trained", "unused")),
        ("supervised", {}, ("frozen", "frozen")),
        ("supervised", {"mask": {"weight": 0}}, ("frozen", "unused")),
        ("grpo", {"optimiser": {"rates": {"vision": 1e-3}}}, ("trained", "frozen")),
    ],
)
def test_uses(stage: str, over: dict[str, object], wanted: tuple[Use, Use]) -> None:
    assert uses(tiny_recipe(stage, over)) == wanted


def test_truths() -> None:
    square = GroundTruth((10, 12), (Polygon((2, 3, 6, 3, 6, 8, 2, 8)),))
    found = truth_of(square)
    assert found.mask.shape == (10, 12) and int(found.mask.sum()) == 20 and bool(found.valid.all())
    assert found.box == (2, 3, 6, 8)
    assert truth_of(GroundTruth((10, 12), square.parts, box=(1, 1, 9, 9))).box == (1, 1, 9, 9)
    painted = GroundTruth(
        (20, 20), outlines=(Outline((2, 2, 15, 2, 15, 15, 2, 15), False), Outline((4, 4, 8, 4, 8, 8, 4, 8), True))
    )
    ignored = truth_of(painted)
    assert not ignored.valid[6, 6] and not ignored.mask[6, 6] and bool(ignored.mask[12, 12])
    assert np.array_equal((~ignored.valid).numpy().nonzero()[0].min(), 4)
    empty = truth_of(GroundTruth((4, 4)))
    assert empty.box is None and not empty.mask.any()
