"""A small suite on disk with real pictures, and runs of it whose every pixel is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lens_bench.cards import read_suite_card
from lens_bench.data.split import Split, open_split
from lens_bench.masks import box_of, encode, rle_to_json
from lens_bench.records import Prediction, Rle, Sample
from lens_bench.run.files import RunFiles
from lens_bench.scoring.counts import Scorer
from lens_bench.scoring.protocols import STRICT

from .made_runs import write_run

HEIGHT, WIDTH = 120, 160
SIDE = 40  # of every target
TAGS = ("stuff", "part", "multi", "single")

CARD = """
name: toy
title: Toy
summary: For tests.
reader: gseval
files: {roots: ["."], required: {annotations: toy.jsonl}}
images: {roots: [images]}
splits: {val: {}}
default_splits: [val]
"""


@dataclass(frozen=True)
class Suite:
    """Where the suite lies."""

    card: Path
    data_root: Path

    @property
    def split(self) -> Split:
        return open_split(read_suite_card(self.card), "val", self.data_root)


def square(x: int, y: int, side: int = SIDE) -> Rle:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.bool_)
    mask[max(0, y) : y + side, max(0, x) : x + side] = True
    return encode(mask)


def corner(number: int) -> tuple[int, int]:
    """Left and top of the target of an expression."""
    return 20 + 7 * number % 70, 15 + 5 * number % 50


def write_suite(
    root: Path,
    expressions: Sequence[str],
    *,
    file_name: Callable[[int], str] = "p{:03d}.png".format,
    pictures: bool = True,
) -> Suite:
    """One expression a row, two rows an image; the target of each is a square at ``corner``."""
    data = root / "data"
    (data / "images").mkdir(parents=True)
    rows = []
    for number, text in enumerate(expressions):
        name = file_name(number // 2)
        mask = square(*corner(number))
        rows.append(
            {
                "idx": number,
                "image_path": name,
                "class_id": 1 + number % 4,
                "caption": text,
                "box": list(box_of(mask) or ()),
                "segmentation": rle_to_json(mask),
            }
        )
        if pictures and number % 2 == 0:
            shade = np.full((HEIGHT, WIDTH, 3), (200, 190, 60), dtype=np.uint8)
            Image.fromarray(shade).save(data / "images" / name, format="PNG")
    (data / "toy.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    card = root / "toy.yaml"
    card.write_text(CARD)
    return Suite(card, data)


def shifted(number: int, sample: Sample, by: int, text: str | None = None) -> Prediction:
    """The target of an expression, moved to the right."""
    x, y = corner(number)
    mask = square(x + by, y)
    return Prediction(sample.id, "ok", mask=mask, box=box_of(mask), text=text, stages_ms={"encode": 5.0})


def run_suite(
    suite: Suite, out: Path, answer: Callable[[int, Sample], Prediction], model: str = "model-a", **changes: object
) -> RunFiles:
    """A run directory of the suite, scored by the real scorer. ``answer`` is given number and sample."""
    split = suite.split
    scorer = Scorer(STRICT, split.samples)
    predictions = [answer(number, sample) for number, sample in enumerate(split.samples)]
    scores = [scorer.score(s, p) for s, p in zip(split.samples, predictions, strict=True)]
    changes = {"suite_hash": split.content_hash, **changes}
    return write_run(out, scores, predictions=predictions, model=model, **changes)  # type: ignore[arg-type]
