"""A tiny LISA and a tiny GLaMM on disk, in the released layout, written once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lens_bench.llava_sam.checkpoint import Loaded, load
from lens_bench.llava_sam.config import GLAMM, LISA
from lens_bench.llava_sam.tiny import write_tiny


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def lisa_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Checkpoint and vision tower, to be read only."""
    return write_tiny(tmp_path_factory.mktemp("lisa"), LISA)


@pytest.fixture(scope="session")
def glamm_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Checkpoint and vision tower, to be read only."""
    return write_tiny(tmp_path_factory.mktemp("glamm"), GLAMM)


@pytest.fixture(scope="session")
def lisa(lisa_folders: tuple[Path, Path]) -> Loaded:
    return load(LISA, *lisa_folders)
