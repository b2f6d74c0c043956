"""The stages before a language model: what their images show and are asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lens_bench.errors import UsageError
from lens_bench.lens.images import QWEN_MEAN, QWEN_STD
from lens_bench.train.pretrain import Cells, recoloured, without_colours

from .conftest import Recipe, Run


def _patches(pixels: torch.Tensor) -> torch.Tensor:
    """[n, 3, k] in 0 to 1 as the vision tower sees them."""
    mean, deviation = (torch.tensor(values).view(1, 3, 1) for values in (QWEN_MEAN, QWEN_STD))
    return ((pixels - mean) / deviation).flatten(1)


def test_channels_change_places_pixel_by_pixel() -> None:
    pixels = torch.rand(5, 3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(
        recoloured(_patches(pixels), [2, 0, 1], invert=False), _patches(pixels[:, [2, 0, 1]]), atol=1e-5
    )
    assert torch.allclose(recoloured(_patches(pixels), [0, 1, 2], invert=True), _patches(1 - pixels), atol=1e-5)


def test_only_the_colours_of_things_are_not_asked() -> None:
    words = torch.tensor([[1, 2, 3], [0, 0, 0], [2, 1, 1]])
    cells = Cells(words, torch.zeros(3, 4), torch.tensor([True, False, True]))
    assert without_colours(cells).words.tolist() == [[1, -100, 3], [0, 0, 0], [2, -100, 1]]
    assert cells.words.tolist() == [[1, 2, 3], [0, 0, 0], [2, 1, 1]]


def test_a_recoloured_image_still_teaches(recipe: Recipe, run: Run) -> None:
    _, seen = run(recipe("vision", {"data": {"recolour": 1.0}}))
    assert all(step["loss"] > 0 and step["grad_norm"] > 0 for step in seen.steps)


def test_evaluation_shows_images_as_they_are(recipe: Recipe, run: Run) -> None:
    look = {"evaluation": {"split": "shapes/val", "every": 3, "samples": 6}, "optimiser": {"rates": {"vision": 1e-12}}}
    seen = [run(recipe("vision", {**look, "data": {"recolour": share}}), f"share-{share}")[1] for share in (0.0, 1.0)]
    plain, other = (s.steps[-1]["eval/color_right"] for s in seen)
    assert plain == pytest.approx(other)


def test_other_stages_recolour_nothing(recipe: Recipe) -> None:
    with pytest.raises(UsageError, match="recolour"):
        recipe("sam", {"data": {"recolour": 0.5}})


def test_a_killed_training_with_muon_goes_on_bit_for_bit(recipe: Recipe, run: Run, tmp_path: Path) -> None:
    over = {"optimiser": {"muon": ["vision"], "steps": 4}, "saving": {"every": 2}, "data": {"recolour": 0.5}}
    straight, _ = run(recipe("vision", over), "straight")
    run(recipe("vision", over), "stopped", kill_at=3)
    stopped, watcher = run(recipe("vision", over), "stopped")
    assert watcher.begun == 2
    assert (straight / "model.safetensors").read_bytes() == (stopped / "model.safetensors").read_bytes()
