"""Tiny checkpoints on disk, written once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lens_bench.vlm.tiny import save_tiny_vlm


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", params=["qwen2_5_vl", "qwen3_vl"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def vlm_folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model that penalises repetitions, to be read only."""
    return save_tiny_vlm(tmp_path_factory.mktemp(family), family, repetition_penalty=1.1)  # type: ignore[arg-type]
