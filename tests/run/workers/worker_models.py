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


# Its second call waits until ``go`` lies beside its folder (whose content is its identity), and says there that it
# waits, by network: who is asked a second time has answered once.
WAITING = """
import os, time
from pathlib import Path
from lens_bench.masks import box_mask
from lens_bench.records import LoadReport, Prediction

class Waiting:
    def __init__(self, options):
        self.beside, self.calls = Path(__file__).parents[1], 0
    def load(self): return LoadReport()
    def segment(self, tasks):
        self.calls += 1
        if self.calls == 2:
            self.wait()
        time.sleep(0.2)
        return [self.answer(n, q, t.size) for t in tasks for n, q in enumerate(t.queries)]
    def wait(self):
        network = os.readlink("/proc/self/ns/net").strip("net:[]")
        (self.beside / f"waits-{network}").touch()
        until = time.monotonic() + 600
        while not (self.beside / "go").exists():
            if time.monotonic() > until:
                raise TimeoutError("nobody said go")
            time.sleep(0.05)
    def answer(self, n, query, size):
        return Prediction(query.sample_id, "ok", mask=box_mask((0, 0, n + 1, 9), size))
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
