"""Samples per second of a GRPO step: our trainer against TRL's ``GRPOTrainer``, a step of each in turn.

    python benchmarks/train/grpo_step.py                       # CPU, 9 M parameters (tox -e trl)
    python benchmarks/train/grpo_step.py --device cuda --json results/grpo_h200.json

Both train the same random Qwen2.5-VL on the same pictures and prompts with the same reward, group size and answer
length, without masks, in float32, with their own loops, samplers, data loading and optimizers. Before anything is
timed, both score the same answers: prompts, losses, log-probabilities and gradients have to agree, or the exit status
is 1, as it is where a speed-up is below ``--target``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from datasets.utils.logging import disable_progress_bar
from equality import check
from lens_side import device_of, training_of
from lens_side import loop_of as our_loop
from task import SHAPES, Shape, Task
from trl_side import loop_of as their_loop
from trl_side import save_model, trainer_of
from turns import Lap, Turns

from lens_bench.perf.hardware import cpu_model

WARM_UP = 1
# Largest differences of what both sides compute. Sums run in other orders; gradients add up over pictures and groups.
TOLERANCES = {"loss": 1e-6, "logps": 1e-4, "reference": 1e-4, "gradient": 1e-4}


def settings(size: str, rounds: int) -> list[Task]:
    """The rows of the table."""
    steps = rounds + WARM_UP
    if size == "toy":
        return [
            Task("picture and reference", 2, 4, 12, 112, 0.04, True, steps),
            Task("frozen tower, no reference", 2, 4, 12, 112, 0.0, False, steps),
        ]
    return [
        Task("everything trains, reference", 2, 8, 48, 336, 0.04, True, steps),
        Task("everything trains, no reference", 2, 8, 48, 336, 0.0, True, steps),
        Task("frozen tower, reference", 2, 8, 48, 336, 0.04, False, steps),
        Task("long answers, small pictures", 2, 8, 192, 112, 0.04, True, steps),
        Task("groups of two", 8, 2, 48, 224, 0.04, True, steps),
    ]


def measure(shape: Shape, task: Task, folder: Path, cpu: bool, clock: str) -> dict[str, Any]:
    """Check one setting, then time it, the sides in turn."""
    training = training_of(shape, task, folder / "ours")
    device = device_of(training)
    save_model(training.shop.lens, shape.vocabulary, folder / "model")
    trainer = trainer_of(folder / "model", task, folder / "trl", cpu)
    same = check(training, trainer, task)
    sides = {"ours": Turns(our_loop(training), device), "trl": Turns(their_loop(trainer), device)}
    laps: dict[str, list[Lap]] = {name: [] for name in sides}
    for step in range(task.steps):
        for name in list(sides) if step % 2 == 0 else list(sides)[::-1]:
            laps[name].append(sides[name].advance())
    for side in sides.values():
        side.finish()
    seconds = {name: [getattr(lap, clock) for lap in found[WARM_UP:]] for name, found in laps.items()}
    ratios = [theirs / ours for ours, theirs in zip(seconds["ours"], seconds["trl"], strict=True)]
    return {
        **asdict(task),
        "samples": task.samples,
        "ours_per_second": task.samples / statistics.median(seconds["ours"]),
        "trl_per_second": task.samples / statistics.median(seconds["trl"]),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "seconds": seconds,
        "differences": same,
        "agree": all(same[name] <= limit for name, limit in TOLERANCES.items() if name in same),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--size", default="small", choices=sorted(SHAPES))
    parser.add_argument("--rounds", type=int, default=3, help="Timed steps of each side, behind one that is not timed.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", type=int, nargs="+", default=None, help="Numbers of the settings, from 0.")
    parser.add_argument("--target", type=float, default=1.3, help="Smallest speed-up that passes; 0: any.")
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default=None,
        help="cpu: processor time, the default on a CPU with one thread, because other load does not count there.",
    )
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    cpu = args.device == "cpu"
    clock = args.clock or ("cpu" if cpu and args.threads == 1 else "wall")
    torch.set_num_threads(args.threads)
    disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    tasks = settings(args.size, args.rounds)
    rows = []
    print(f"{'setting':34s} {'ours/s':>8s} {'TRL/s':>8s} {'ratio':>6s}  rounds; largest differences")
    for number in args.only if args.only is not None else range(len(tasks)):
        with tempfile.TemporaryDirectory() as folder:
            row = measure(SHAPES[args.size], tasks[number], Path(folder), cpu, clock)
        rows.append(row)
        spread = " ".join(f"{r:.2f}" for r in row["ratios"])
        apart = ", ".join(f"{name} {row['differences'][name]:.0e}" for name in TOLERANCES if name in row["differences"])
        speeds = f"{row['ours_per_second']:8.2f} {row['trl_per_second']:8.2f} {row['ratio']:6.2f}"
        print(f"{row['name']:34s} {speeds}  {spread}; {apart}{'' if row['agree'] else ' DIFFERENT'}", flush=True)
    report = {
        "device": cpu_model() if cpu else torch.cuda.get_device_name(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "trl": trl.__version__},
        "python": platform.python_version(),
        "clock": clock,
        "load": os.getloadavg(),
        "arguments": {k: str(v) for k, v in vars(args).items()},
        "target": args.target,
        "settings": rows,
    }
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return int(any(not row["agree"] or row["ratio"] < args.target for row in rows))


if __name__ == "__main__":
    sys.exit(main())
