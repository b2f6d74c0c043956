"""All that a GPU is needed for, in under ten minutes: speed of full-size models, of the engine, of a training step.

    benchmarks/gpu.sh                                # one CUDA device; writes results/hardware/<device>/
    benchmarks/gpu.sh --device cpu --size tiny       # the same parts on tiny models, about two minutes

No weights are needed: speed does not depend on them, so models are built at their full size with random ones. Every
part's result is checked; the exit status is 1 where one failed, was wrong or did not fit into the time.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from parts import ROOT, Json, Part, Where, make_tiny, parts, read

from lens_bench.data.shapes.make import make
from lens_bench.perf.hardware import environment, fingerprint

SHOWN = 12  # lines of a failed part's output


@dataclass(frozen=True)
class Outcome:
    """What became of a part: ``wrong`` is empty where its figures stand."""

    name: str
    seconds: float
    wrong: tuple[str, ...]
    result: Json | None
    rows: Sequence[tuple[str, str]] = ()


def run_part(part: Part, left: float, strict: bool = True) -> Outcome:
    """Run one command within its own time, if ``strict``, and what is left of all."""
    limit, begin = min(part.seconds, left) if strict else left, time.monotonic()
    if limit <= 0:
        return Outcome(part.name, 0.0, ("not run: the time is over",), None)
    try:
        done = subprocess.run(part.line, capture_output=True, text=True, cwd=ROOT, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return Outcome(part.name, time.monotonic() - begin, (f"stopped after {limit:.0f} s",), None)
    seconds = time.monotonic() - begin
    file = part.found()
    if file is None or (done.returncode and not part.judges):
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()[-SHOWN:]
        return Outcome(part.name, seconds, (f"exit status {done.returncode}", *lines), None)
    try:
        found = read(file)
        wrong = tuple(part.check(found))
        rows = tuple(part.rows(found)) if not wrong else ()
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Outcome(part.name, seconds, (f"unreadable result: {type(error).__name__} {error}",), None)
    return Outcome(part.name, seconds, wrong, found, rows)


def slug(device: str) -> str:
    """A folder's name for a device: its model without memory and driver."""
    return re.sub(r"[^a-z0-9]+", "-", fingerprint(device).split(",")[0].lower()).strip("-")


def table(device: str, outcomes: Sequence[Outcome]) -> str:
    """The figures as a table in Markdown."""
    lines = [f"# {fingerprint(device)}", "", "| part | figure | value |", "|---|---|---|"]
    for outcome in outcomes:
        lines += [f"| {outcome.name} | {figure} | {value} |" for figure, value in outcome.rows]
        lines += [f"| {outcome.name} | not measured | {outcome.wrong[0]} |"] if outcome.wrong else []
    return "\n".join(lines) + "\n"


def write(folder: Path, device: str, outcomes: Sequence[Outcome]) -> None:
    """One file a part, a summary, a table."""
    folder.mkdir(parents=True, exist_ok=True)
    for outcome in outcomes:
        if outcome.result is not None:
            text = json.dumps(outcome.result, indent=1, sort_keys=True)
            (folder / f"{outcome.name}.json").write_text(text + "\n", encoding="utf-8")
    summary = {
        "device": fingerprint(device),
        "environment": environment(),
        "parts": [
            {"name": o.name, "seconds": round(o.seconds, 1), "wrong": list(o.wrong), "figures": dict(o.rows)}
            for o in outcomes
        ],
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    (folder / "table.md").write_text(table(device, outcomes), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--size", default="full", choices=["full", "tiny"])
    parser.add_argument("--minutes", type=float, default=9.5, help="No part runs longer than until then.")
    parser.add_argument("--only", nargs="+", default=None, help="Names of parts, or their beginnings.")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "hardware")
    args = parser.parse_args()
    end = time.monotonic() + 60 * args.minutes
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        where = Where(args.device, Path(folder) / "data", Path(folder))
        make("shapes", "val", where.data, workers=1, images=16 if args.size == "full" else 2)
        if args.size == "tiny":
            make_tiny(where.scratch)
        for part in parts(args.size, where):
            if args.only is not None and not part.name.startswith(tuple(args.only)):
                continue
            outcome = run_part(part, end - time.monotonic(), strict=args.device == "cuda")
            outcomes.append(outcome)
            print(f"{part.name:28s} {outcome.seconds:6.1f} s  {'; '.join(outcome.wrong) or 'fine'}", flush=True)
            write(args.out / slug(args.device), args.device, outcomes)
    print(table(args.device, outcomes))
    print(args.out / slug(args.device))
    return int(not outcomes or any(outcome.wrong for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
