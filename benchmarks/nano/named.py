"""How often a model's text names the thing that it then segments: ``python benchmarks/nano/named.py RUN_DIR ...``.

Only of answers whose mask is right (IoU above a half): there the thing meant and the thing segmented are the same.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from lens_bench.data.split import open_split
from lens_bench.registry import find_suite
from lens_bench.report.runset import load_run
from lens_bench.run.files import RunFiles
from lens_bench.run.journal import read
from lens_bench.train.labels import referents


@dataclass(frozen=True, slots=True)
class Named:
    """Answers with a right mask, and those among them whose text has the full name (``small red circle``)."""

    right: int
    named: int


def named(run: Path, data_root: Path) -> Named:
    """Count a run's answers."""
    scored = load_run(RunFiles(run))
    manifest = scored.manifest
    split = open_split(find_suite(manifest.suite), manifest.split, data_root, allow_partial=True)
    by_key = referents(split)
    names = {sample.id: by_key[sample.key] for sample in split.samples if sample.key in by_key}
    texts = {prediction.sample_id: prediction.text or "" for prediction in read(scored.files.predictions)}
    right = [s.sample_id for s in scored.scores if s.iou is not None and s.iou > 0.5 and s.sample_id in names]
    return Named(len(right), sum(names[name] in texts[name] for name in right))


def main() -> None:
    """Print a line a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run directories on a generated suite")
    parser.add_argument("--data-root", type=Path, default=Path.home() / ".cache" / "lens-bench")
    options = parser.parse_args()
    for run in options.runs:
        found = named(run, options.data_root)
        share = f"{100 * found.named / found.right:.1f} %" if found.right else "-"
        print(f"{run}: {found.named} of {found.right} right masks are named ({share})")


if __name__ == "__main__":
    main()
