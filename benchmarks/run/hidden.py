"""How much of a run's wall clock is not the model, with models that do work: LENS, LISA, a VLM with SAM 2.

    python benchmarks/run/hidden.py                              # LENS of 50 M; 12 images, 7 expressions each
    python benchmarks/run/hidden.py --model small_lisa           # LISA of 70 M; small_vlm: Qwen2.5-VL and SAM 2, 80 M
    python benchmarks/run/hidden.py --device cuda --images 200

Everything that the loop does but for the calls of the model (reading, decoding, checking, journal, scoring, summary)
is what the wall clock of the whole run holds beside the sum of the calls' durations. Exit status 1 where that is 3 % or
more. Resizing and run-length encoding are inside the calls and shown as the engine's own stages.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import torch

from lens_bench.registry import find_model, find_suite
from lens_bench.run.evaluate import Outcome, run_splits
from lens_bench.run.plan import Request, make_model, make_plan

sys.path.insert(0, str(Path(__file__).parent))
from made_refcoco import make

AT_MOST = 0.03


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small_lens", choices=["small_lens", "small_lisa", "small_vlm"])
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="of torch, on the CPU")
    parser.add_argument("--batch-size", type=int, default=4)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    card = find_model(str(Path(__file__).parent / asked.model))
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["LENS_BENCH_CACHE"] = "off"
        root = make(Path(scratch) / "made", asked.images)
        request = Request(
            data_root=root, out=Path(scratch) / "out", allow_partial=True, device=asked.device,
            batch_size=asked.batch_size,
        )  # fmt: skip
        options, segmenter = make_model(card, request)
        plan = make_plan(find_suite("refcoco"), "val", card, options, segmenter, request)
        start = time.perf_counter()
        (outcome,) = run_splits([plan], segmenter)
        return show(outcome, time.perf_counter() - start)


def show(outcome: Outcome, taken: float) -> int:
    perf = cast("dict[str, Any]", outcome.summary["perf"])
    whole = taken - perf["load_s"]
    beside = whole - perf["model_s"]
    print(f"{perf['images']} images, {perf['expressions']} expressions, {os.cpu_count()} cores, ", end="")
    print(f"load {os.getloadavg()[0]:.1f}, {outcome.summary['n_answered']} answered")
    print(f"loading the model         {perf['load_s']:8.2f} s (not counted)")
    print(f"run without loading       {whole:8.2f} s")
    print(f"calls of the model        {perf['model_s']:8.2f} s")
    for stage, ms in perf["stages_ms"].items():
        print(f"  {stage:23s} {ms * perf['expressions'] / 1e3:8.2f} s")
    print(f"beside the model          {beside:8.2f} s, {beside / whole:.2%} (less than {AT_MOST:.0%})")
    return int(beside >= AT_MOST * whole)


if __name__ == "__main__":
    sys.exit(main())
