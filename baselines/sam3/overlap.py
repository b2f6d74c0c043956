"""Leaving out masks that repeat a better one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lens_bench.masks import area, overlap

if TYPE_CHECKING:
    from .concepts import Instance

# SAM 3's agent: the intersection may be at most this share of the smaller mask.
MOST_SHARED = 0.3


def without_repeats(instances: Sequence[Instance]) -> tuple[Instance, ...]:
    """Greedy: the most probable first, each kept if it shares little with all kept before it. Order is kept.

    Args:
        instances: Most probable first.
    """
    kept: list[Instance] = []
    for instance in instances:
        size = area(instance.mask)
        shares = (overlap(instance.mask, k.mask) / max(1, min(size, area(k.mask))) for k in kept)
        if all(share <= MOST_SHARED for share in shares):
            kept.append(instance)
    return tuple(kept)
