"""What the device can do at best, measured: matrix products and copies that nothing else is mixed into.

Data sheets give peaks that no program reaches; a share of a measured ceiling says how much is left to gain.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from lens_bench.perf.clock import synchronise


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The best of several rounds.

    Attributes:
        matmul_flops: Floating-point operations per second of a large square matrix product in ``dtype``.
        copy_bytes: Bytes per second of a large copy, what is read and what is written both counted.
        dtype: Precision of the product.
    """

    matmul_flops: float
    copy_bytes: float
    dtype: str


def measure_ceilings(device: str, dtype: str, rounds: int = 5) -> Ceilings:
    """Measure both ceilings; takes about a second. Uses as many threads as torch is set to.

    Args:
        device: ``cpu`` or a CUDA device.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        rounds: Each figure is the best of so many.
    """
    import torch

    kind = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]
    cuda = device.startswith("cuda")
    side, count = (8192, 2**30) if cuda else (1024, 2**26)
    with torch.inference_mode():
        a = torch.ones(side, side, device=device, dtype=kind)
        out = torch.empty_like(a)
        product = _best(lambda: torch.mm(a, a, out=out), device, rounds)
        source = torch.ones(count, device=device, dtype=torch.uint8)
        target = torch.empty_like(source)
        copied = _best(lambda: target.copy_(source), device, rounds)
    return Ceilings(2.0 * side**3 / product, 2.0 * count / copied, dtype)


def _best(work: Callable[[], object], device: str, rounds: int) -> float:
    """Seconds of the fastest round; the first one warms up and does not count."""
    best = float("inf")
    for number in range(rounds + 1):
        synchronise(device)
        start = time.perf_counter()
        work()
        synchronise(device)
        if number:
            best = min(best, time.perf_counter() - start)
    return best
