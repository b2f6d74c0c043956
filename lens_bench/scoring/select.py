"""Which expressions count: selections that do not depend on order, shards or workers."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import assert_never

from lens_bench.records import Sample
from lens_bench.scoring.protocols import Select

PER_IMAGE = 3  # GLaMM's num_classes_per_sample


def select_ids(samples: Iterable[Sample], rule: Select, seed: int = 0) -> frozenset[str]:
    """Ids of the samples that a protocol counts.

    The result is a function of the set of samples and, for ``three_per_image``, of (seed, image id, sample id); never
    of the order in which samples come. All expressions of an image must be given for its choice to be the same.

    Args:
        samples: The expressions of a split.
        rule: See ``Protocol.select``.
        seed: Of the draw.
    """
    if rule == "all":
        return frozenset(s.id for s in samples)
    groups: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    if rule == "three_per_image":
        for sample in samples:
            groups[sample.image_id, ""].append(sample)
        ranked = (sorted(group, key=lambda s: _lot(seed, s))[:PER_IMAGE] for group in groups.values())
    elif rule == "one_per_ref":
        for sample in samples:
            groups[sample.image_id, sample.id if sample.ref_id is None else sample.ref_id].append(sample)
        ranked = (sorted(group, key=_natural)[:1] for group in groups.values())
    else:
        assert_never(rule)
    return frozenset(s.id for group in ranked for s in group)


def _lot(seed: int, sample: Sample) -> bytes:
    return hashlib.sha256(f"{seed}\x00{sample.image_id}\x00{sample.id}".encode()).digest()


def _natural(sample: Sample) -> tuple[list[tuple[int, str]], str]:
    """By the set's own key, digits compared as numbers, so that sentence 9 comes before sentence 10."""
    pieces = re.findall(r"\d+|\D+", sample.key if sample.key is not None else sample.id)
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in pieces], sample.id
