"""Two ranks (gloo) on this machine, as ``accelerate launch`` starts them."""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import socket
from collections.abc import Mapping
from pathlib import Path

from lens_bench.train.config import TrainRecipe

RANK = Path(__file__).with_name("rank.py")
# What a process of its own would spend most of its time on; the server that ranks are forked from has it ready.
READY = ["torch", "torch.distributed.fsdp", "accelerate", "lens_bench.train.loop"]
PLAIN = {"ACCELERATE_USE_CPU": "true"}
FSDP = {**PLAIN, "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
ZERO = {"ACCELERATE_USE_DEEPSPEED": "true", "DS_ACCELERATOR": "cpu"}


def launch(
    recipes: Mapping[str, TrainRecipe],
    out: Path,
    data_root: Path,
    environment: Mapping[str, str] = PLAIN,
    kill_at: int = 0,
) -> list[str]:
    """Train recipes one after another; returns what each rank printed. ``kill_at``: both end at this step."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out.mkdir(parents=True, exist_ok=True)
    fields = json.dumps({name: recipe.model_dump(mode="json") for name, recipe in recipes.items()})
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"OMP_NUM_THREADS": "1", **environment}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(READY)
    ranks, logs = [], [out.parent / f"{out.name}.{rank}.log" for rank in range(2)]
    for rank, log in enumerate(logs):
        job = {
            "recipes": fields,
            "out": str(out),
            "data_root": str(data_root),
            "kill_at": kill_at,
            "log": str(log),
            "environment": {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        }
        ranks.append(context.Process(target=runpy.run_path, args=(str(RANK), {"JOB": job})))
        ranks[-1].start()
    for rank in ranks:
        rank.join(240)
    told = [log.read_text(encoding="utf-8") for log in logs]
    codes = [rank.exitcode for rank in ranks]
    for rank in ranks:
        rank.kill()
    if kill_at:
        assert all(codes), "neither rank may get to the end"
    else:
        assert codes == [os.EX_OK] * 2, "\n".join(told)[-3000:]
    return told
