"""Expressions per second: our engine against the authors-style loop and against one ``generate`` per expression.

    python benchmarks/lens/speed.py                      # CPU, 20-60 M parameters, 8 images x 7 expressions
    python benchmarks/lens/speed.py --device cuda --size 3b --dtype bfloat16 --images 32 --json results/lens_h200.json

All run the same model with random weights and the same prompts in one process, and must give the same text and the
same masks; the answers are cut at ``--tokens`` tokens. Rounds alternate between them, so that other load on the machine
meets all alike; ``--clock cpu`` counts this process's processor time instead of the wall clock's.
The referents of the loop hold two to three expressions each, as in RefCOCO.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path

import torch
from comparison import Comparison, compare
from workload import Work, make_model, make_work

from lens_bench.lens.config import Positions
from lens_bench.lens.placing import Precision
from lens_bench.lens.steps import DECODES

FLIPPED = 1e-3
TARGETS = {"cpu": {"lens-1d": 4.0, "mrope": 5.0}, "cuda": {"lens-1d": 10.0, "mrope": 10.0}}
# RefCOCO, RefCOCO+ and RefCOCOg, all eight splits.
EIGHT_SPLITS = (9_900, 62_000)


def main() -> int:
    args = arguments()
    torch.set_num_threads(args.threads)
    work, failed = make_work(args.images, args.expressions), False
    report: dict[str, object] = {
        "device": torch.cuda.get_device_name() if args.device.startswith("cuda") else platform.processor(),
        "torch": torch.__version__,
        "arguments": {k: str(v) for k, v in vars(args).items()},
    }
    for positions in args.positions:
        report[positions], wrong = measure(args, positions, work)
        failed |= wrong
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return int(failed)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--size", default="small", choices=["tiny", "small", "3b"])
    parser.add_argument("--positions", nargs="+", default=["lens-1d", "mrope"], choices=["lens-1d", "mrope"])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--expressions", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=24)
    sides = "Input side of SAM 2: 128 (tiny), 512 (small) or 1024 (3b) unless given."
    parser.add_argument("--sam-size", type=int, default=0, help=sides)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of all sides.")
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"])
    ways = f"Ways of decoding, with commas, measured in one run: auto, {', '.join(DECODES)}. Peers meet the first."
    parser.add_argument("--decode", default="auto", help=ways)
    parser.add_argument("--peak-tflops", type=float, default=0.0, help="Of the device, for the utilisation.")
    parser.add_argument("--json", type=Path, default=None)
    return parser.parse_args()


def measure(args: argparse.Namespace, positions: Positions, work: Work) -> tuple[dict[str, object], bool]:
    """One position mode: what was found, and whether that is not good enough."""
    dtype = getattr(torch, args.dtype)
    model = make_model(args.size, positions, args.tokens, args.sam_size, args.device, Precision(dtype, dtype, dtype))
    found = compare(model, work, args.rounds, args.clock, args.decode.split(","))
    parameters = sum(p.numel() for p in model.parameters())
    target = TARGETS["cpu" if args.device == "cpu" else "cuda"][positions]
    minutes = EIGHT_SPLITS[1] / found.per_second["engine"] / 60
    extra: dict[str, object] = {"parameters": parameters, "target": target, "minutes_for_eight_splits": minutes}
    print(f"\n{positions}: {parameters / 1e6:.1f} M parameters, {found.expressions} expressions")
    show(found)
    print(f"  target                             {target:g}x")
    print(f"  eight RefCOCO splits at this speed {minutes:.1f} min")
    flops = found.flops_per_expression * found.per_second["engine"]
    print(f"  executed FLOPs per second          {flops / 1e12:.2f} T")
    if args.peak_tflops:
        extra["flops_utilisation"] = flops / 1e12 / args.peak_tflops
        print(f"  share of the peak                  {extra['flops_utilisation']:.3f}")
    exact = args.dtype == "float32"
    wrong = exact and (bool(found.texts_that_differ) or found.largest_share_of_flipped_pixels > FLIPPED)
    return {**found.to_json(), **extra}, wrong or found.ratio("loop") < target


def show(found: Comparison) -> None:
    for side in ("engine", "loop", "generate"):
        print(f"  {side + ' per second':34s} {found.per_second[side]:.4g}")
    for side, ratios in found.ratios.items():
        print(f"  {'against ' + side:34s} {found.ratio(side):.4g}x, rounds {', '.join(f'{r:.2f}' for r in ratios)}")
    print(f"  texts that differ                  {found.texts_that_differ}")
    print(f"  largest share of flipped pixels    {found.largest_share_of_flipped_pixels:.4g}")
    for way in found.decoding:
        print(
            f"  decoding {way.way:25s} {way.per_second:.4g}/s, answers {way.answer_seconds:.3f} s, "
            f"compiled or recorded in {way.compile_seconds:.2f} s"
        )
    for stage, seconds in found.stage_seconds.items():
        print(f"    {stage:32s} {seconds:.3f} s")


if __name__ == "__main__":
    sys.exit(main())
