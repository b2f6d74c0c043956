"""Random draws that depend on what is drawn for and on nothing else: not on worker, order, time or global state.

Scalars come from Python's Mersenne twister and pixels from the raw output of PCG64: both are fixed by their
specifications, so that a suite is the same on every machine and for every version of NumPy.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
from numpy.typing import NDArray


def seed_of(*parts: str | int) -> int:
    """A 64-bit seed from what the draw is for, e.g. ``seed_of(seed, "shapes", "train", 17)``."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "little")


def stream(*parts: str | int) -> random.Random:
    """A generator of scalars of its own for what the draw is for."""
    return random.Random(seed_of(*parts))  # noqa: S311 - pictures, not secrets


def noise(seed: int, count: int) -> NDArray[np.uint8]:
    """``count`` independent uniform bytes."""
    raw = np.random.PCG64(seed).random_raw((count + 7) // 8)
    return raw.astype("<u8").view(np.uint8)[:count]
