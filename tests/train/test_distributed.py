"""Two processes (gloo) train what one does; so does every way of splitting a step that is offered."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lens_bench.train.config import TrainRecipe
from lens_bench.train.log import read_log

from .conftest import Run, tiny_recipe
from .test_training import close, numbers, weights

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from lens_bench.train.config import TrainRecipe
from lens_bench.train.loop import Where, train

class Quiet:
    def start(self, title, total, done): pass
    def step(self, values): pass
    def note(self, message): pass
    def stop(self): pass

torch.set_num_threads(1)
for name, fields in json.loads(sys.argv[1]).items():
    train(TrainRecipe.model_validate(fields), Where(Path(sys.argv[2]) / name, Path(sys.argv[3])), Quiet())
torch.distributed.destroy_process_group()
"""


def launch(recipes: dict[str, TrainRecipe], out: Path, data_root: Path, **environment: str) -> None:
    """Train on two ranks of this machine, as ``accelerate launch`` starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fields = json.dumps({name: recipe.model_dump(mode="json") for name, recipe in recipes.items()})
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", **environment}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, fields, str(out), str(data_root)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for rank in ranks:
        _, error = rank.communicate(timeout=240)
        assert rank.returncode == 0, error[-3000:]


@pytest.mark.slow
def test_two_ranks_train_what_one_does(run: Run, data_root: Path, tmp_path: Path) -> None:
    over = {"evaluation": {"split": "shapes/val", "every": 2, "samples": 5}, "optimiser": {"steps": 2}}
    recipes = {
        "supervised": tiny_recipe("supervised", {**over, "batch": {"micro": 1}}),
        "grpo": tiny_recipe("grpo", {**over, "grpo": {"loss_type": "dapo"}, "saving": {"every": 1}}),
        "sam": tiny_recipe("sam", {"optimiser": {"steps": 2}}),
        "vision": tiny_recipe("vision", {"optimiser": {"steps": 2}}),
    }
    launch(recipes, tmp_path / "two", data_root)
    for name, recipe in recipes.items():
        alone, _ = run(recipe, f"one-{name}")
        logs = [numbers(read_log(f / "train_log.jsonl")) for f in (alone.parent, tmp_path / "two" / name)]
        assert len(logs[0]) == len(logs[1]) == 2
        for one, two in zip(*logs, strict=True):
            close(one, two)  # type: ignore[arg-type]
        ours, theirs = weights(alone), weights(tmp_path / "two" / name / "final")
        # Adam's first steps are of the size of the learning rate wherever a gradient is rounding noise.
        assert all(float((ours[n] - theirs[n]).abs().max()) < 5e-3 for n in ours)
