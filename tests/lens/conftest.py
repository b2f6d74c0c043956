"""Tiny models, pictures, and the authors-style loop as the independent peer of the engine."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from lens_bench.lens.config import LensConfig
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.prompts import Prompter
from lens_bench.lens.tiny import byte_tokenizer, tiny_config, tiny_model
from lens_bench.records import Pixels

ROOT = Path(__file__).resolve().parents[2]
# More ids that end an answer, so that the random model's answers differ in length.
ENDS = tuple(range(40, 60))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny matrices gain nothing from a second thread and lose much where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def authors() -> ModuleType:
    """``benchmarks/lens/authors_loop.py``."""
    name = "lens_authors_loop"
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / "lens" / "authors_loop.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def prompter_of() -> Callable[[LensConfig], Prompter]:
    tokenizer = byte_tokenizer()
    return lambda config: Prompter(config.recipe, tokenizer, frozenset(config.ends), config.padding)


@pytest.fixture(scope="session")
def ends() -> tuple[int, ...]:
    return ENDS


@pytest.fixture(scope="session", params=["mrope", "lens-1d"])
def model(request: pytest.FixtureRequest) -> LensModel:
    return tiny_model(tiny_config(request.param, ends=ENDS))


@pytest.fixture(scope="session")
def images() -> list[Pixels]:
    """Three images of different sizes with different contents."""
    rng = np.random.default_rng(0)
    out = []
    for height, width in ((100, 150), (64, 64), (120, 70)):
        coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        out.append(np.ascontiguousarray(np.kron(coarse, np.ones((height // 4, width // 4, 1), np.uint8))))
    return out


@pytest.fixture(scope="session")
def asks() -> list[tuple[int, str]]:
    """(image, expression) pairs of unequal length."""
    return [
        (0, "the red one"),
        (1, "a cat on the left side"),
        (0, "x"),
        (2, "dog"),
        (1, "something else that takes more words than the others"),
        (2, ""),
        (0, "the second from the left"),
    ]
