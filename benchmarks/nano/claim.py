"""What GRPO adds to supervised learning, at nano size: both go on from one start for as long as each other.

    python benchmarks/nano/claim.py --start results/train/nano/5-nano-joint/final --out results/claim
    python benchmarks/nano/claim.py --vision results/train/nano/2-nano-vlm/final --rationales 0.2 --out results/few

The second form makes a start of its own, for which only the first fifth of the pictures has rationales; GRPO then
learns from the others, by their masks and boxes alone, while supervised learning goes on with the fifth that it can
read.

Both sides try the same learning rates with the first seed; the one with the best cIoU on ``val`` is trained with the
other seeds. Every training and every run is a command line of its own, so that this script, called again, goes on where
it stopped. In the end ``lens-bench compare --repeats`` compares start, GRPO and control on every split; ``--jobs 2``
trains two at a time, one thread each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

CHOSEN_ON = "val"
SPLITS = ("val", "testA", "testB", "ood-combo", "ood-hop", "ood-style")
# Of a side's learning rate, by part of the model.
FACTORS = {"embeddings": 1.0, "language": 1.0, "head": 1.5, "sam_prompt": 1.5, "sam_decoder": 1.5}
RECIPE = {"grpo": "nano-stage2", "supervised": "nano-control"}


@dataclass(frozen=True, slots=True)
class Claim:
    """What is compared, and where it goes.

    Attributes:
        start: Checkpoint that both sides go on from.
        out: Folder of all trainings and runs.
        data_root: Where suites lie.
        settings: ``--set`` of each side beside rates and seed.
        splits: What the chosen trainings are compared on.
    """

    start: Path
    out: Path
    data_root: Path
    settings: dict[str, tuple[str, ...]]
    splits: Sequence[str] = SPLITS

    def train(self, side: str, rate: float, seed: int) -> Path:
        """Train one side; returns the checkpoint."""
        folder = self.out / "train" / f"{side}-{rate:g}-{seed}"
        rates = {name: factor * rate for name, factor in FACTORS.items()}
        more = (f"optimiser.rates={json.dumps(rates)}", f"seed={seed}", *self.settings[side])
        train(RECIPE[side], self.start, folder, self.data_root, more)
        return folder / "final"

    def run(self, model: Path, name: str, group: str, splits: Sequence[str]) -> Path:
        """Evaluate a checkpoint; returns the folder of its runs."""
        out = self.out / "runs" / group / name
        which = [word for split in splits for word in ("--split", split)]
        call("run", "--suite", "shapes", *which, "--model", model, "--data-root", self.data_root, "--out", out)
        return out


def train(recipe: str, start: Path, folder: Path, data_root: Path, settings: Sequence[str]) -> None:
    """One training; finished ones are left as they are."""
    fixed = (f"model.checkpoint={start}", "runtime.threads=1", "evaluation=null")
    chosen = [word for setting in (*fixed, *settings) for word in ("--set", setting)]
    call("train", recipe, *chosen, "--data-root", data_root, "--out", folder)


def call(*words: object) -> None:
    """A command line of lens-bench; stops everything where it fails."""
    line = [sys.executable, "-m", "lens_bench.cli", *map(str, words)]
    print("lens-bench", *line[3:], flush=True)
    subprocess.run(line, check=True)


def few_rationales(vision: Path, share: float, out: Path, data_root: Path) -> Path:
    """A start that saw rationales of the first ``share`` of the pictures only; returns its checkpoint."""
    at = vision
    for recipe, steps in (("nano-sft", 4000), ("nano-stage1", 700), ("nano-joint", 1000)):
        settings = (f"data.part=[0.0,{share}]", f"optimiser.steps={steps}")
        train(recipe, at, out / "start" / recipe, data_root, settings)
        at = out / "start" / recipe / "final"
    return at


def ciou(runs: Path) -> float:
    """cIoU of a checkpoint on the split by which learning rates are chosen."""
    (summary,) = runs.glob(f"shapes/{CHOSEN_ON}/*/summary.json")
    return float(json.loads(summary.read_text(encoding="utf-8"))["metrics"]["ciou"])


def compare(claim: Claim, rates: Sequence[float], seeds: Sequence[int], jobs: int) -> None:
    """Search, repeat, evaluate and print."""
    best: dict[str, float] = {}
    with ThreadPoolExecutor(jobs) as pool:

        def tried(side: str, rate: float) -> float:
            name = f"{side}-{rate:g}"
            return ciou(claim.run(claim.train(side, rate, seeds[0]), name, "search", [CHOSEN_ON]))

        asked = {side: {rate: pool.submit(tried, side, rate) for rate in rates} for side in RECIPE}
        for side, found in asked.items():
            values = {rate: future.result() for rate, future in found.items()}
            best[side] = max(values, key=lambda rate: values[rate])
            print(side, {rate: round(100 * value, 2) for rate, value in values.items()}, "chosen:", best[side])

        def repeated(side: str, seed: int) -> None:
            claim.run(claim.train(side, best[side], seed), f"{side}-{seed}", side, claim.splits)

        claim.run(claim.start, "start", "start", claim.splits)
        for done in [pool.submit(repeated, side, seed) for side in RECIPE for seed in seeds]:
            done.result()
    for a, b in (("start", "grpo"), ("start", "supervised"), ("supervised", "grpo")):
        runs = claim.out / "runs"
        call("compare", "--repeats", runs / a, runs / b, "--markdown", claim.out / f"{a}-{b}.md")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=Path, help="checkpoint that both sides go on from")
    parser.add_argument("--vision", type=Path, help="instead: the checkpoint before nano-sft, to make a start from")
    parser.add_argument("--rationales", type=float, help="with --vision: share of the pictures with rationales")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data-root", type=Path, default=Path.home() / ".cache" / "lens-bench")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 2e-4, 4e-4], help="learning rates of language")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--splits", nargs="+", default=SPLITS)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="SIDE:KEY=VALUE", help="for grpo or supervised")
    asked = parser.parse_args()
    if (asked.start is None) == (asked.vision is None) or (asked.vision is None) != (asked.rationales is None):
        parser.error("name --start, or --vision and --rationales")
    asked.data_root.mkdir(parents=True, exist_ok=True)  # the commands refuse one that is not there
    settings: dict[str, tuple[str, ...]] = {"grpo": (), "supervised": ()}
    start = asked.start
    if start is None:
        start = few_rationales(asked.vision, asked.rationales, asked.out, asked.data_root)
        settings["grpo"] = (f"data.part=[{asked.rationales},1.0]",)
        settings["supervised"] = (f"data.part=[0.0,{asked.rationales}]",)
    for text in asked.set:
        side, _, setting = text.partition(":")
        if side not in settings:
            parser.error(f"--set {text}: not of the form grpo:KEY=VALUE or supervised:KEY=VALUE")
        settings[side] = (*settings[side], setting)
    compare(Claim(start, asked.out, asked.data_root, settings, asked.splits), asked.rates, asked.seeds, asked.jobs)


if __name__ == "__main__":
    main()
