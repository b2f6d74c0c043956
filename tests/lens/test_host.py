"""Work in threads gives what the work in place gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lens_bench import masks
from lens_bench.errors import DataError
from lens_bench.lens import host as module
from lens_bench.lens.host import Host
from lens_bench.lens.images import Patching, prepare
from lens_bench.lens.recipe import Recipe

CPU = torch.device("cpu")


def test_images_are_prepared_in_order() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (int(h), int(w), 3), dtype=np.uint8) for h, w in rng.integers(60, 200, (9, 2))]
    recipe, patching = Recipe(), Patching()
    for ours, pixels in zip(Host(CPU).prepare(images, recipe, patching, 64), images, strict=True):
        alone = prepare(pixels, recipe, patching, 64)
        assert torch.equal(ours.patches, alone.patches)
        assert torch.equal(ours.square, alone.square)
        assert (ours.grid, ours.seen, ours.original) == (alone.grid, alone.seen, alone.original)


def test_an_image_that_cannot_be_asked_about_is_an_error() -> None:
    with pytest.raises(DataError, match="elongated"):
        Host(CPU).prepare([np.zeros((2, 900, 3), dtype=np.uint8)], Recipe(), Patching(), 64)


@pytest.mark.parametrize("waiting", [1, 3, 64])
def test_masks_are_encoded_alike_however_many_wait(waiting: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WAITING", waiting)
    generator = torch.Generator().manual_seed(0)
    host = Host(CPU)
    dense = [torch.randn(40 + n, 90 - n, generator=generator) > 1 for n in range(12)]
    futures = [host.encode(mask) for mask in dense]
    assert [f.result() for f in futures] == [masks.encode(mask.numpy()) for mask in dense]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_masks_of_a_gpu_are_encoded_alike() -> None:
    device = torch.device("cuda")
    host = Host(device)
    dense = [torch.randn(480, 640, device=device) > 1 for _ in range(80)]
    futures = [host.encode(mask) for mask in dense]
    assert [f.result() for f in futures] == [masks.encode(mask.cpu().numpy()) for mask in dense]
