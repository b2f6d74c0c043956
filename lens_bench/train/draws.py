"""Random draws as functions of what they are for: no state, the same after a resume and on any number of ranks."""

from __future__ import annotations

import hashlib

import numpy as np


def stream(*key: str | int) -> np.random.Generator:
    """A generator that is a function of the key alone, e.g. ``stream(seed, "order", epoch)``."""
    text = "\0".join(f"{type(part).__name__}:{part}" for part in key)
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
