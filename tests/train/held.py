"""A training that waits in the middle of a step, so that a signal from outside arrives there and nowhere else."""

from __future__ import annotations

import time
from pathlib import Path

import yaml

from .conftest import tiny_recipe

STEPS = 5
STEP = 3  # the step that waits
_REWARDS = """
import os
import time
from pathlib import Path

calls = []
here = Path(__file__).parent


def brief(completion_ids, **kwargs):
    calls.append(1)
    wanted = here / "hold"
    if len(calls) == CALL and wanted.exists() and wanted.read_text() in ("", os.environ.get("RANK", "0")):
        (here / "reached").write_text(str(os.getpid()))
        while wanted.exists():
            time.sleep(0.005)
    return [1 / (1 + len(ids)) for ids in completion_ids]
"""


def held_recipe(folder: Path, ranks: int = 1) -> Path:
    """A recipe of stage 2 in a file. It waits in step ``STEP`` as long as there is a file ``hold`` beside it.

    ``hold`` may hold the number of the rank that waits; otherwise every rank does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fields = tiny_recipe("grpo", {"optimiser": {"steps": STEPS, "warmup": 2}}).model_dump(
        mode="json", exclude_defaults=True
    )
    calls = 4 // 2 // ranks  # units of a step, of a micro batch
    fields["grpo"]["rewards"] = [{"name": "box"}, {"name": "mask"}, {"name": "rewards.py:brief", "weight": 0.1}]
    (folder / "rewards.py").write_text(_REWARDS.replace("CALL", str(calls * (STEP - 1) + 1)), encoding="utf-8")
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(fields), encoding="utf-8")
    return path


def wait_for(path: Path, seconds: float = 120) -> None:
    """Until a file is there."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} does not come"
        time.sleep(0.01)
