"""SIGTERM to one of two ranks (gloo), or to what launched them, through the launch commands of docs/training.md."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lens_bench.errors import Preempted
from lens_bench.train.checkpoint import checkpoints
from lens_bench.train.log import read_log

from .held import STEP, STEPS, held_recipe, wait_for
from .test_training import numbers, same

pytestmark = pytest.mark.slow
_COMMAND = [sys.executable, "-c", "from tests.train.commands import main; main()"]
_TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
_SETTINGS = {"cwd": Path(__file__).parents[2], "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def start(recipe: Path, out: Path, data_root: Path, *, torchrun: bool = False) -> list[subprocess.Popen[str]]:
    """Start both ranks: with torchrun, or as ``srun`` does in the example for SLURM."""
    arguments = [*_COMMAND, str(recipe), str(out), str(data_root)]
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    if torchrun:
        launcher = [*_TORCHRUN, "--nproc_per_node=2", f"--master_port={free_port()}", "--no_python"]
        return [subprocess.Popen([*launcher, *arguments], env=shared, **_SETTINGS)]  # type: ignore[call-overload]
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    ranks = [{"RANK": n, "LOCAL_RANK": n, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"} for n in ("0", "1")]
    return [subprocess.Popen(arguments, env={**shared, **rank}, **_SETTINGS) for rank in ranks]  # type: ignore[call-overload]


def finished(processes: list[subprocess.Popen[str]]) -> tuple[list[int], list[str]]:
    """Their codes, and what they said."""
    said = []
    for process in processes:
        with process:
            said.append(process.communicate(timeout=240)[0])
    return [process.returncode for process in processes], said


def signalled(recipe: Path, out: Path, data_root: Path, *, torchrun: bool) -> tuple[list[int], str]:
    """Train until the second rank waits in a step, and send SIGTERM to it, or to torchrun; codes and what was said."""
    hold, reached = recipe.parent / "hold", recipe.parent / "reached"
    hold.write_text("1")
    processes = start(recipe, out, data_root, torchrun=torchrun)
    wait_for(reached)
    os.kill(processes[0].pid if torchrun else int(reached.read_text()), signal.SIGTERM)
    hold.unlink()
    codes, said = finished(processes)
    return codes, "".join(said)


def test_a_signal_to_one_rank_stops_both_after_the_same_step(data_root: Path, tmp_path: Path) -> None:
    recipe, out = held_recipe(tmp_path / "recipe", ranks=2), tmp_path / "parts"
    codes, said = signalled(recipe, out, data_root, torchrun=False)
    assert codes == [Preempted.exit_code] * 2, said
    assert said.count(f"was stopped by a signal after step {STEP} of {STEPS}") == 2
    assert [path.name for path in checkpoints(out)] == [f"checkpoint-{STEP:08d}"]
    for folder in (out, tmp_path / "whole"):
        codes, parts = finished(start(recipe, folder, data_root))
        assert codes == [0, 0], parts
    assert same(tmp_path / "whole" / "final", out / "final")
    logs = [numbers(read_log(folder / "train_log.jsonl")) for folder in (tmp_path / "whole", out)]
    assert logs[0] == logs[1] and len(logs[0]) == STEPS


def test_torchrun_passes_a_signal_on(data_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "parts"
    codes, said = signalled(held_recipe(tmp_path / "recipe", ranks=2), out, data_root, torchrun=True)
    # The ranks' own code is not passed on.
    assert codes == [1], said
    assert said.count(f"was stopped by a signal after step {STEP} of {STEPS}") == 2
    assert [path.name for path in checkpoints(out)] == [f"checkpoint-{STEP:08d}"]
