"""Models for tests of workers, each in a folder of its own so that other processes find it."""

from __future__ import annotations

from pathlib import Path

BROKEN = """
from lens_bench.errors import CheckpointError

class Broken:
    def __init__(self, options): pass
    def load(self): raise CheckpointError("the decoder is missing", "download it")
    def segment(self, tasks): raise AssertionError
    def close(self): pass
"""

LOOKING = """
import hashlib
from lens_bench.masks import box_mask
from lens_bench.records import LoadReport, Prediction

class Looking:
    def __init__(self, options): pass
    def load(self): return LoadReport()
    def segment(self, tasks):
        return [self.answer(q, t) for t in tasks for q in t.queries]
    def answer(self, query, task):
        seen = hashlib.sha256(task.rgb.tobytes()).hexdigest()
        return Prediction(query.sample_id, "ok", mask=box_mask((0, 0, 5, 5), task.size), text=seen)
    def close(self): pass
"""


def model_of(folder: Path, source: str, name: str) -> str:
    """A model of its own; returns what ``--model`` takes."""
    folder.mkdir()
    (folder / "model.yaml").write_text(
        f"name: {name.lower()}\ntitle: T\nsummary: S\nadapter: adapter.py:{name}\ndevices: [cpu]\ndtypes: [float32]\n"
    )
    (folder / "adapter.py").write_text(source)
    return str(folder)
