"""A made suite of a few pictures, a model of a few ten thousand parameters, recipes of a few steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from lens_bench.data.shapes.make import make
from lens_bench.train.config import TrainRecipe
from lens_bench.train.loop import Where, train
from lens_bench.train.recipe_files import merged, validated

TINY = {
    "width": 48,
    "layers": 2,
    "heads": 3,
    "hidden": 64,
    "vision_width": 32,
    "vision_layers": 2,
    "vision_heads": 2,
    "vision_hidden": 64,
    "sam_width": 32,
    "sam_trunk": [8, 16, 32, 64],
    "queries": 4,
    "head_width": 32,
    "head_layers": 1,
    "answer_tokens": 16,
}
RATES = {
    "sam": {"sam_image": 1e-3, "sam_prompt": 1e-3, "sam_decoder": 1e-3},
    "vision": {"vision": 1e-3, "embeddings": 1e-3},
    "supervised": {"embeddings": 1e-3, "language": 1e-3, "head": 1e-3, "sam_prompt": 1e-3, "sam_decoder": 1e-3},
}
RATES["grpo"] = RATES["supervised"]

Recipe = Callable[..., TrainRecipe]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures to train on, six to evaluate on."""
    root = tmp_path_factory.mktemp("data")
    make("shapes", "train", root, workers=1, images=12)
    make("shapes", "val", root, workers=1, images=6)
    return root


def tiny_recipe(stage: str, over: Mapping[str, object] | None = None) -> TrainRecipe:
    """A recipe of three steps; ``over`` is merged into its sections."""
    fields: dict[str, object] = {
        "name": f"tiny-{stage}",
        "stage": stage,
        "model": {"fresh": TINY},
        "data": {"splits": ["shapes/train"], "held_out": ["shapes/val"], "unit": "image", "per_image": 3},
        "batch": {"units": 4, "micro": 2},
        "optimiser": {"rates": dict(RATES[stage]), "steps": 3},
        "answer": {"text": "{rationale} {box}", "box": "[{x1}, {y1}, {x2}, {y2},]", "step": 2},
        "mask": {"size": "decoder"},
        "runtime": {"threads": 1},
    }
    if stage == "grpo":
        fields["grpo"] = {"num_generations": 4, "max_completion_length": 12, "beta": 0.05}
        fields["data"] = {**fields["data"], "unit": "expression"}  # type: ignore[dict-item]
    found = validated(merged(fields, over or {}), stage)
    assert isinstance(found, TrainRecipe)
    return found


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return tiny_recipe


class Watcher:
    """Records every step; optionally fails at one, as a kill would."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.steps: list[dict[str, float]] = []
        self.notes: list[str] = []
        self.begun = 0
        self._kill_at = kill_at

    def start(self, title: str, total: int, done: int) -> None:
        self.begun = done

    def step(self, values: Mapping[str, float]) -> None:
        self.steps.append(dict(values))
        if self._kill_at is not None and self.begun + len(self.steps) == self._kill_at:
            raise KeyboardInterrupt

    def note(self, message: str) -> None:
        self.notes.append(message)

    def stop(self) -> None:
        pass


Run = Callable[..., tuple[Path, Watcher]]


@pytest.fixture
def run(data_root: Path, tmp_path: Path) -> Run:
    """Train a recipe under a name; gives the result's folder and what was seen."""

    def go(recipe: TrainRecipe, name: str = "out", kill_at: int | None = None) -> tuple[Path, Watcher]:
        watcher = Watcher(kill_at)
        try:
            folder = train(recipe, Where(tmp_path / name, data_root), watcher)
        except KeyboardInterrupt:
            folder = tmp_path / name
        return folder, watcher

    return go
