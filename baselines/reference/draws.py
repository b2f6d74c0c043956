"""Random draws that are a function of seed, purpose and sample id: never of order, batch or process."""

from __future__ import annotations

import hashlib

from lens_bench.errors import UsageError
from lens_bench.records import ModelOptions


def uniform(seed: int, purpose: str, sample_id: str) -> float:
    """A number in [0, 1). Draws of different purposes are independent of one another."""
    digest = hashlib.sha256(f"{seed}\x1f{purpose}\x1f{sample_id}".encode()).digest()
    # 53 bits, the precision of a double: the largest draw stays below 1.
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def number(options: ModelOptions, key: str, low: float, high: float) -> float:
    """An argument as a number within bounds. Raises ``UsageError`` where it is outside."""
    value = float(options.args[key] or 0)
    if not low <= value <= high:
        raise UsageError(f"--model-arg {key}={value:g}: {options.name} expects a value from {low:g} to {high:g}")
    return value
