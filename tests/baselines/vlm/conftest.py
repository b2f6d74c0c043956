"""Tiny weights and a few generated pictures, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from .vlm_runs import make_shapes


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data root with a few images of ``shapes``."""
    return make_shapes(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def sam2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SAM 2, to be read only."""
    import torch

    from lens_bench.sam2.tiny import save_tiny_sam2

    torch.set_num_threads(1)
    return save_tiny_sam2(tmp_path_factory.mktemp("sam2"))


@pytest.fixture(scope="session")
def sam3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SAM 3, to be read only."""
    import torch

    from .tiny_sam3 import save_tiny_sam3

    torch.set_num_threads(1)
    return save_tiny_sam3(tmp_path_factory.mktemp("sam3"))
