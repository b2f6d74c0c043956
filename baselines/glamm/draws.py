"""Draws that are a function of the seed and of what they are about, never of order or batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def pick(items: Sequence[Item], seed: int, purpose: str, sample_id: str) -> Item:
    """One item, each as likely as any other."""
    digest = hashlib.sha256(f"{seed}\x00{purpose}\x00{sample_id}".encode()).digest()
    return items[int.from_bytes(digest[:8], "big") % len(items)]


def lot(seed: int, image_id: str, sample_id: str) -> bytes:
    """Rank of an expression among those of its image.

    The one by which the protocol ``glamm`` chooses the three that count (``lens_bench/scoring/select.py``), so that
    the expressions of an image's first conversation are the ones that are scored.
    """
    return hashlib.sha256(f"{seed}\x00{image_id}\x00{sample_id}".encode()).digest()
