"""A model for test_foreign.py that misbehaves in the way its argument `mode` says, in either world."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

try:
    from lens_bench.masks import encode
    from lens_bench.records import LoadReport, Prediction
except ImportError:  # in an environment of its own
    LoadReport = Prediction = dict

    def encode(mask):
        return mask


from .neighbour import threshold


class Stranger:
    def __init__(self, options):
        self.options = options
        self.mode = options.args["mode"]
        self.scratch = options.args["scratch"]
        if self.mode == "die constructing":
            os._exit(5)

    def weight_digest(self):
        return hashlib.sha256(self.options.name.encode()).hexdigest()

    def mark(self, what):
        if self.scratch:
            with Path(self.scratch, "marks").open("a") as stream:
                stream.write(what + "\n")

    def load(self):
        self.mark("load")
        if self.mode == "die loading":
            sys.stderr.write("no GPU in sight\n")
            os._exit(3)
        if self.mode == "raise loading":
            raise OSError("model-00002.safetensors is truncated")
        if self.mode == "checkpoint":

            class CheckpointError(Exception):
                pass

            raise CheckpointError("tensor lm_head.weight is missing")
        if self.mode == "never again" and Path(self.scratch, "died").exists():
            raise RuntimeError("still busy")
        return LoadReport(parameters=7, notes=("heard of " + str(self.options.seed),))

    def segment(self, tasks):
        if self.mode == "limit" and len(tasks) > 1:
            raise MemoryError("one at a time")
        if self.mode == "old torch":
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if self.mode == "cpu":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
        if self.mode == "wrapped":
            raise ValueError("generation failed") from MemoryError()
        return [self.answer(task, query) for task in tasks for query in task.queries]

    def answer(self, task, query):
        if "poison" in query.expression:
            self.poisoned(query)
        if "nothing" in query.expression:
            return Prediction(sample_id=query.sample_id, status="no_mask", text="none")
        mask = threshold(task.rgb, len(query.expression))
        return Prediction(
            sample_id=query.sample_id,
            status="ok",
            mask=encode(mask),
            box=(1.0, 2.5, 30.0, 4.0),
            score=0.25,
            text=query.expression.upper() + " " + str(query.is_sentence) + str(query.key),
            stages_ms={"forward": 1.5},
        )

    def poisoned(self, query):
        self.mark("poison")
        if self.mode == "segfault":
            sys.stderr.write("about to fall\n")
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.mode == "exit":
            os._exit(9)
        if self.mode == "sys.exit":
            sys.exit("usage: stranger [-h]")
        if self.mode == "never again":
            Path(self.scratch, "died").touch()
            os._exit(9)
        if self.mode == "hang":
            sys.stderr.write("waiting for a lock\n")
            sys.stderr.flush()
            child = subprocess.Popen(["sleep", "600"])
            self.mark(f"pid {os.getpid()} {child.pid}")
            time.sleep(600)
        if self.mode == "raise":
            raise ValueError("cannot parse\n" + query.expression)
        if self.mode == "corrupt":
            for number in range(3, 30):
                try:
                    os.write(number, b"}}} not a frame at all {{{")
                except OSError:
                    pass
        if self.mode == "chatty":
            print("printed by python", flush=True)
            os.write(1, b"written to descriptor 1\n")
            subprocess.run(["echo", "echoed by a child"], check=True)
            print("x" * 300000)
            assert sys.stdin.read() == ""

    def close(self):
        self.mark("close")


class Odd(Stranger):
    def answer(self, task, query):
        kind = query.expression
        rle = {"size": list(task.size), "counts": [task.size[0] * task.size[1] - 3, 3]}
        return {
            "none": None,
            "dict": {"mask": threshold(task.rgb, 3).astype(np.int64)},
            "uncompressed": {"mask": rle},
            "float": {"mask": np.zeros(task.size, dtype=np.float32)},
            "small": {"mask": np.zeros((2, 2), dtype=bool)},
            "nan": {"mask": None, "box": [0, 0, float("nan"), 1]},
            "numpy": {
                "box": np.array([0, 1, 2, 3]),
                "score": np.float32(0.5),
                "text": None,
                "tokens": {"prompt": np.int64(3), "completion": 4},
            },
            "misnamed": {"sample_id": "somebody-else", "mask": None},
        }[kind]


class Expecting(Stranger):
    def expect(self, tasks):
        self.expected = sorted(q.sample_id for t in tasks for q in t.queries)
        assert all(t.pixels is None for t in tasks)

    def load(self):
        return {"notes": ["expects " + " ".join(self.expected)]}


class Few(Stranger):
    def segment(self, tasks):
        return super().segment(tasks)[1:]


class Alone:
    def __init__(self, options):
        pass

    def load(self):
        found = []
        for name in ("lens_bench", "torch", "pydantic"):
            try:
                __import__(name)
                found.append(name)
            except ImportError:
                pass
        here = [p for p in sys.path if Path(p).parts[-2:] == ("lens_bench", "run")]
        return {"notes": [sys.prefix, "found: " + " ".join(found + here)]}

    def segment(self, tasks):
        return []

    def close(self):
        pass
