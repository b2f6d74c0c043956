"""What the tests of baselines with a vision-language model share: a few generated pictures, and a run over them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lens_bench.data.shapes.make import make
from lens_bench.registry import find_model, find_suite
from lens_bench.run.evaluate import run_splits
from lens_bench.run.plan import Request, make_model, make_plan

IMAGES = 3


def make_shapes(root: Path) -> Path:
    """The first images of the suite ``shapes``; returns the data root."""
    make("shapes", "val", root, workers=1, images=IMAGES)
    return root


@dataclass(frozen=True)
class Ran:
    """What a run left behind."""

    folder: Path
    summary: dict[str, Any]
    predictions: list[dict[str, Any]]

    @property
    def statuses(self) -> list[str]:
        return [p["status"] for p in self.predictions]

    @property
    def all_text(self) -> str:
        """Every byte that the run wrote, as text."""
        return "".join(p.read_text(errors="replace") for p in sorted(self.folder.rglob("*")) if p.is_file())


def run(model: str, data: Path, out: Path, args: dict[str, object], **wishes: Any) -> Ran:
    """``lens-bench run --suite shapes`` as the command does it."""
    card = find_model(model)
    request = Request(
        args={k: str(v) for k, v in args.items()},
        data_root=data,
        out=out,
        device="cpu",
        dtype="float32",
        allow_partial=True,
        **{"max_errors": 1.0, **wishes},
    )
    options, segmenter = make_model(card, request)
    plan = make_plan(find_suite("shapes"), "val", card, options, segmenter, request)
    (outcome,) = run_splits([plan], segmenter)
    lines = plan.files.predictions.read_text().splitlines()
    return Ran(plan.files.root, outcome.summary, [json.loads(line) for line in lines])
