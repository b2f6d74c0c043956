"""Looking things up must feel instant: `list` against importing the libraries that its cards and options need."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median
from typing import Any

import pytest

PEER = [sys.executable, "-c", "import typer, pydantic, yaml"]
OURS = [sys.executable, "-m", "lens_bench.cli", "list"]


@pytest.mark.bench
def test_list_takes_at_most_three_times_its_imports(benchmark: Any) -> None:
    peer: list[float] = []

    def both() -> None:
        start = time.perf_counter()
        subprocess.run(PEER, check=True, capture_output=True)
        peer.append(time.perf_counter() - start)
        subprocess.run(OURS, check=True, capture_output=True)

    benchmark.pedantic(both, rounds=7, warmup_rounds=1)
    ours = [total - import_only for total, import_only in zip(benchmark.stats.stats.data, peer[1:], strict=True)]
    ratio = median(ours) / median(peer[1:])
    benchmark.extra_info["ratio"] = ratio
    print(f"list {median(ours):.3f} s, imports {median(peer[1:]):.3f} s, ratio {ratio:.2f}")
    assert ratio <= 3
