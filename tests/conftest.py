"""A tiny suite on disk, in the REFER layout, with a card of its own."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

from lens_bench.cards import SuiteCard, read_suite_card
from lens_bench.registry import find_model
from lens_bench.run.plan import Plan, Request, make_model, make_plan

SIZE = (48, 64)  # height, width

# No test of ours is one of time: an example that takes long on a busy machine is no failure.
settings.register_profile("patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@dataclass(frozen=True)
class Tiny:
    """Where the tiny suite lies."""

    card_path: Path
    data_root: Path

    @property
    def card(self) -> SuiteCard:
        return read_suite_card(self.card_path)

    def run(self, model: str, out: Path, *more: object) -> list[object]:
        """Arguments of the command that runs a model over this suite."""
        where = ["--suite", self.card_path, "--data-root", self.data_root, "--out", out]
        return ["run", *where, "--model", model, *more]

    def plan(self, model: str, out: Path, **wishes: object) -> Plan:
        request = Request(data_root=self.data_root, out=out, **wishes)  # type: ignore[arg-type]
        card = find_model(model)
        options, segmenter = make_model(card, request)
        return make_plan(self.card, "val", card, options, segmenter, request)


def square(x: float, y: float, side: float) -> list[float]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def write_refer(folder: Path, images: int) -> None:
    """``images`` images, three referents each with two sentences; every third referent has overlapping parts."""
    rng = np.random.default_rng(7)
    (folder / "images").mkdir(parents=True)
    table, annotations, refs = [], [], []
    for image_id in range(1, images + 1):
        name = f"{image_id:06d}.png"
        Image.fromarray(rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(folder / "images" / name)
        table.append({"id": image_id, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        for number in range(3):
            ann_id, ref_id = image_id * 10 + number, image_id * 100 + number
            x, y, side = (float(v) for v in rng.integers(2, 20, 3))
            parts = [square(x, y, side + 6)]
            if number == 2:
                parts.append(square(x + side / 2, y + side / 2, side + 6))
            annotations.append(
                {
                    "id": ann_id,
                    "image_id": image_id,
                    "category_id": 1,
                    "bbox": [x, y, side, side],
                    "area": side**2,
                    "iscrowd": 0,
                    "segmentation": parts,
                }
            )
            sentences = [
                {"sent_id": ref_id * 10 + i, "sent": f"thing {number} {i}", "raw": f"Thing {number} {i}!", "tokens": []}
                for i in range(2)
            ]
            refs.append(
                {
                    "ref_id": ref_id,
                    "ann_id": ann_id,
                    "image_id": image_id,
                    "category_id": 1,
                    "split": "val",
                    "file_name": f"{image_id:06d}_{ann_id}.png",
                    "sent_ids": [s["sent_id"] for s in sentences],
                    "sentences": sentences,
                }
            )
    (folder / "instances.json").write_text(json.dumps({"images": table, "annotations": annotations, "categories": []}))
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))


CARD = """
name: tiny
title: Tiny
summary: For tests.
reader: refer
options: {split_by: unc}
files: {roots: [tiny], required: {instances: instances.json, refs: "refs({split_by}).p"}}
images: {roots: [tiny/images]}
splits: {val: {expected: {images: %d, refs: %d, expressions: %d}}}
default_splits: [val]
"""


def make_tiny(root: Path, images: int = 12) -> Tiny:
    write_refer(root / "data" / "tiny", images)
    card = root / "tiny.yaml"
    card.write_text(CARD % (images, 3 * images, 6 * images))
    return Tiny(card, root / "data")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests leave nothing in the user's cache, and nothing that is there changes them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LENS_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The suite, to be read only."""
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def own_tiny(tmp_path: Path) -> Tiny:
    """A copy of the suite that a test may damage."""
    return make_tiny(tmp_path / "own")


Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Runs the command line as a user does, in a process of its own."""

    def call(*arguments: object, timeout: float = 300, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "lens_bench.cli", *(str(a) for a in arguments)]
        environment = {**os.environ, "COLUMNS": "160", "NO_COLOR": "1"}
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, cwd=cwd)

    return call
