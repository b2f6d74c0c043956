"""``kill -TERM`` in the middle of a step of a process of its own, and going on with settings of memory changed."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lens_bench.errors import Preempted
from lens_bench.train.log import read_log
from lens_bench.trained import checkpoints

from .commands import command, write_recipe
from .conftest import tiny_recipe
from .held import STEP, STEPS, held_recipe, wait_for
from .test_training import close, numbers, same, weights

# What may change without a change of a single bit on a CPU, as docs/training.md lists it.
FREE_OF_ARITHMETIC: dict[str, object] = {
    "runtime.gradient_checkpointing": True,
    "runtime.cache_gb": 1,
    "saving.every": 1,
    "saving.keep": 1,
    "evaluation": {"split": "shapes/val", "every": 2, "samples": 4, "overlays": 1},
    "stop.flat": 99,
    "stop.unreadable": 0.5,
    "grpo.sampler_tolerance": 0,
    "grpo.vllm_share": 0.1,
    "grpo.vllm_sleep": True,
    "summary": "Another one.",
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return held_recipe(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="module")
def whole(recipe: Path, data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    assert command(recipe, out, data_root) == 0
    return out


@pytest.fixture(scope="module")
def killed(recipe: Path, data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("killed") / "out"
    code, said = signalled(recipe, out, data_root, signal.SIGTERM)
    assert code == Preempted.exit_code, said
    assert f"was stopped by a signal after step {STEP} of {STEPS}" in said
    assert [path.name for path in checkpoints(out)] == [f"checkpoint-{STEP:08d}"]
    return out


def signalled(recipe: Path, out: Path, data_root: Path, number: signal.Signals) -> tuple[int, str]:
    """Train in a process of its own, which gets a signal in the middle of a step; its code and what it said."""
    hold, reached = recipe.parent / "hold", recipe.parent / "reached"
    reached.unlink(missing_ok=True)
    hold.write_text("")
    script = "from tests.train.commands import main; main()"
    arguments = [sys.executable, "-c", script, str(recipe), str(out), str(data_root)]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as child:
        wait_for(reached)
        assert len(read_log(out / "train_log.jsonl")) == STEP - 1
        child.send_signal(number)
        if number != signal.SIGINT:
            hold.unlink()
        said = " ".join(child.communicate(timeout=120)[1].split())
    hold.unlink(missing_ok=True)
    return child.returncode, said


def resumed(killed: Path, recipe: Path, out: Path, data_root: Path, *settings: str) -> Path:
    shutil.copytree(killed, out)
    assert command(recipe, out, data_root, *settings) == 0
    assert len(read_log(out / "train_log.jsonl")) == STEPS
    return out


def test_as_it_was_it_is_the_uninterrupted_one(
    killed: Path, whole: Path, recipe: Path, data_root: Path, tmp_path: Path
) -> None:
    parts = resumed(killed, recipe, tmp_path / "parts", data_root)
    assert same(whole / "final", parts / "final")
    logs = [numbers(read_log(folder / "train_log.jsonl")) for folder in (whole, parts)]
    assert logs[0] == logs[1]


def test_settings_that_change_no_sum_change_no_bit(
    killed: Path, whole: Path, recipe: Path, data_root: Path, tmp_path: Path
) -> None:
    settings = [f"{key}={json.dumps(value)}" for key, value in FREE_OF_ARITHMETIC.items()]
    if importlib.util.find_spec("tensorboard") is not None:
        settings.append("runtime.report_to=[tensorboard]")
    parts = resumed(killed, recipe, tmp_path / "parts", data_root, *settings)
    assert same(whole / "final", parts / "final")
    (change,) = json.loads((parts / "recipe.json").read_text())["changes"]
    assert change["step"] == STEP and change["settings"].keys() >= FREE_OF_ARITHMETIC.keys() - {"evaluation"}
    evaluated = [line["step"] for line in read_log(parts / "train_log.jsonl") if "eval/giou" in line]
    assert evaluated == [step for step in range(STEP + 1, STEPS + 1) if step % 2 == 0]


@pytest.mark.parametrize("setting", ["batch.micro=1", "batch.micro=4", "runtime.logits_chunk=7"])
def test_settings_that_change_the_order_of_sums_change_rounding_alone(
    setting: str, killed: Path, whole: Path, recipe: Path, data_root: Path, tmp_path: Path
) -> None:
    """The gradient of a weight is a sum over all tokens of a micro batch, made in one matrix product."""
    parts = resumed(killed, recipe, tmp_path / "parts", data_root, setting)
    one, other = weights(whole / "final"), weights(parts / "final")
    moved = sum(float((one[name].double() - other[name].double()).square().sum()) for name in one) ** 0.5
    size = sum(float(one[name].double().square().sum()) for name in one) ** 0.5
    assert moved < 1e-5 * size
    logs = [numbers(read_log(folder / "train_log.jsonl")) for folder in (whole, parts)]
    assert logs[0][:STEP] == logs[1][:STEP]
    (change,) = json.loads((parts / "recipe.json").read_text())["changes"]
    assert change["step"] == STEP and list(change["settings"]) == [setting.partition("=")[0]]
    for mine, theirs in zip(*logs, strict=True):
        close(mine, theirs)  # type: ignore[arg-type]


def test_ctrl_c_ends_it_at_once(recipe: Path, data_root: Path, tmp_path: Path) -> None:
    code, said = signalled(recipe, tmp_path / "out", data_root, signal.SIGINT)
    assert code == 130, said
    assert not checkpoints(tmp_path / "out") and len(read_log(tmp_path / "out" / "train_log.jsonl")) == STEP - 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_all_processes_stops_the_making_of_data(number: signal.Signals, tmp_path: Path) -> None:
    """As SLURM sends it: the processes that draw images get it, too."""
    recipe = write_recipe(tiny_recipe("sam", {"data": {"images": 50_000}}), tmp_path / "recipe.yaml")
    (tmp_path / "data").mkdir()
    script = "from tests.train.commands import main; main()"
    arguments = [sys.executable, "-c", script, str(recipe), str(tmp_path / "out"), str(tmp_path / "data")]
    root = Path(__file__).parents[2]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, cwd=root, start_new_session=True) as child:
        for _ in range(1200):
            if child.poll() is not None or next(tmp_path.rglob("*.png"), None):
                break
            time.sleep(0.1)
        os.killpg(child.pid, number)
        said = " ".join(child.communicate(timeout=120)[1].split())
    assert child.returncode == Preempted.exit_code, said
    assert "a signal stopped the making of data" in said and "Traceback" not in said
