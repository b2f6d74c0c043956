"""Tiny checkpoints in the released layouts, a generated suite, and models made from cards as the command makes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lens_bench.data.shapes.make import make
from lens_bench.records import ImageTask, ModelOptions, Query
from lens_bench.registry import find_model, make_segmenter, resolve_args
from lens_bench.segmenter import Segmenter

Folders = tuple[Path, Path]


@pytest.fixture(scope="session")
def lisa_folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A tiny LISA and its vision tower, to be read only."""
    from lens_bench.llava_sam.config import LISA
    from lens_bench.llava_sam.tiny import write_tiny

    return write_tiny(tmp_path_factory.mktemp("lisa"), LISA)


@pytest.fixture(scope="session")
def glamm_folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A tiny GLaMM and its vision tower, to be read only."""
    from lens_bench.llava_sam.config import GLAMM
    from lens_bench.llava_sam.tiny import write_tiny

    return write_tiny(tmp_path_factory.mktemp("glamm"), GLAMM)


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with one whole split of the suite ``shapes``."""
    root = tmp_path_factory.mktemp("data")
    make("shapes", "testA", root, workers=1)
    return root


@pytest.fixture
def llava() -> Callable[..., Segmenter]:
    """Makes the model of a card on given folders, as the command does."""
    import torch

    torch.set_num_threads(1)

    def build(name: str, folders: Folders, seed: int = 0, dtype: str = "float32", **args: object) -> Segmenter:
        card = find_model(name)
        given = {"checkpoint": folders[0], "clip": folders[1], **args}
        values = resolve_args(card, {k: str(v) for k, v in given.items()})
        return make_segmenter(card, ModelOptions(card.name, str(card.folder), values, dtype=dtype, seed=seed))

    return build


@pytest.fixture(scope="session")
def pictures() -> Callable[..., list[ImageTask]]:
    """Makes tasks: one picture of noise for each list of expressions."""

    def build(*expressions: list[str], is_sentence: bool | None = None) -> list[ImageTask]:
        rng = np.random.default_rng(3)
        return [
            ImageTask(
                f"i{n}",
                (40 + n, 60),
                tuple(Query(f"i{n}/s{k}", text, text, is_sentence) for k, text in enumerate(texts)),
                rng.integers(0, 256, (40 + n, 60, 3), dtype=np.uint8),
            )
            for n, texts in enumerate(expressions)
        ]

    return build
