"""The run loop with a model of no cost against a bare ``torch.utils.data.DataLoader`` over the same images.

    python benchmarks/run/peer.py                       # 1,500 JPEG images of 640x480, 10,834 expressions
    python benchmarks/run/peer.py --images 300 --rounds 5 --data made

The loop reads, decodes, asks, checks, journals, scores under ``strict`` and writes the summary; the ground truth of an
earlier run is on disk, as after the first model of a suite. The loader opens the same files with Pillow, converts them
to RGB tensors and stacks them: nothing else is asked of it. Both look at every sixteenth pixel. Its number of workers
is the one of 0, 1 and 2 that is fastest in the first round. Rounds alternate, so that other load meets both; the best
round of each counts. CPU seconds are those of all processes. Three models of no cost: `glance` looks at every image and
answers with ragged masks, `stare` looks and answers with the whole image, `full` answers so without reading an image.
Exit status 1 where the loop with `glance`, the hardest, has less than 0.9 of the loader's images a second.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from lens_bench.perf.hardware import peak_rss_mb
from lens_bench.registry import find_model, find_suite
from lens_bench.run.evaluate import Outcome, run_splits
from lens_bench.run.plan import Request, make_model, make_plan

sys.path.insert(0, str(Path(__file__).parent))
from made_refcoco import IMAGES, PICTURES, make

AT_LEAST = 0.9
BATCH = 16


class Pictures(Dataset[torch.Tensor]):
    """Image files as uint8 tensors [H, W, 3]."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.paths[index]) as image:
            return torch.from_numpy(np.array(image.convert("RGB")))


@dataclass(frozen=True)
class Round:
    """One pass over all images."""

    wall_s: float
    cpu_s: float


def timed(work: Callable[[], object]) -> Round:
    before, start = os.times(), time.perf_counter()
    work()
    wall, after = time.perf_counter() - start, os.times()
    return Round(wall, sum(after[:4]) - sum(before[:4]))


def loader(paths: list[Path], workers: int) -> None:
    total = 0
    for batch in DataLoader(Pictures(paths), batch_size=BATCH, num_workers=workers):
        total += int(batch[:, ::16, ::16].sum())
    if not total:
        raise SystemExit("the pictures are black")


def loop(root: Path, model: str, expected: int) -> Round:
    """One run into a new folder. Reading the annotations and making the model are not timed, all else is."""
    with tempfile.TemporaryDirectory() as out:
        request = Request(data_root=root, out=Path(out), allow_partial=True)
        card = find_model(model)
        options, segmenter = make_model(card, request)
        plan = make_plan(find_suite("refcoco"), "val", card, options, segmenter, request)
        outcomes: list[Outcome] = []
        taken = timed(lambda: outcomes.extend(run_splits([plan], segmenter)))
        if outcomes[0].answered != expected or not outcomes[0].summary["complete"]:
            raise SystemExit(f"{outcomes[0].answered} of {expected} expressions were answered")
        return taken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, help="folder to make the set in, or to find it in; else a temporary one")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["LENS_BENCH_CACHE"] = str(Path(scratch) / "truths")
        root = make(asked.data or Path(scratch) / "made", asked.images)
        return compare(root, asked.images, asked.rounds, asked.json)


def compare(root: Path, images: int, rounds: int, file: Path | None) -> int:
    paths = sorted((root / PICTURES).glob("*.jpg"))[:images]
    refs = json.loads((root / "refcoco" / "instances.json").read_text())
    if len(refs["images"]) != images:
        raise SystemExit(f"{root} holds another set: name another folder with --data")
    expressions = 10_834 * images // IMAGES
    models = {name: str(Path(__file__).parent / name) for name in ("glance", "stare")} | {"full": "full"}
    tried = {workers: timed(partial(loader, paths, workers)) for workers in (0, 1, 2)}
    best = min(tried, key=lambda w: tried[w].wall_s)
    loop(root, models["glance"], expressions)  # fills the store of ground truth
    found: dict[str, list[Round]] = {name: [] for name in ("DataLoader", *models)}
    for _ in range(rounds):
        found["DataLoader"].append(timed(lambda: loader(paths, best)))
        for name, model in models.items():
            found[name].append(loop(root, model, expressions))
    figures = {
        name: {
            "wall_s": min(r.wall_s for r in rs),
            "cpu_s": min(r.cpu_s for r in rs),
            "images_per_s": images / min(r.wall_s for r in rs),
        }
        for name, rs in found.items()
    }
    print(
        f"{images} images, {expressions} expressions, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, ", end=""
    )
    print(f"torch {torch.__version__}, OpenCV {cv2.__version__}, peak memory of this process {peak_rss_mb():.0f} MB")
    labels = {
        "DataLoader": f"DataLoader, {best} workers, decodes only",
        "glance": "run loop, `glance`: decodes, ragged masks",
        "stare": "run loop, `stare`: decodes, whole images",
        "full": "run loop, `full`: reads no image",
    }
    print(f"{'':50s}{'wall s':>8s}{'CPU s':>8s}{'images/s':>10s}{'expr./s':>10s}")
    for name, row in figures.items():
        rate = "" if name == "DataLoader" else f"{expressions / row['wall_s']:10.0f}"
        print(f"{labels[name]:50s}{row['wall_s']:8.2f}{row['cpu_s']:8.2f}{row['images_per_s']:10.0f}{rate}")
    ratio = figures["glance"]["images_per_s"] / figures["DataLoader"]["images_per_s"]
    work = figures["DataLoader"]["cpu_s"] / figures["glance"]["cpu_s"]
    print(f"run loop / DataLoader: {ratio:.2f} of its images/s (at least {AT_LEAST}); by CPU time {work:.2f}")
    if file is not None:
        file.write_text(json.dumps({"figures": figures, "ratio": ratio, "cpu_ratio": work}, indent=2) + "\n")
    return int(ratio < AT_LEAST)


if __name__ == "__main__":
    sys.exit(main())
