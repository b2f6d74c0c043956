"""Annotations that cover no pixel: by a mistake in the file, and rewarded by protocols in a model that finds nothing.

They cost a run nothing but a look at each annotation, which is far cheaper than a look at its image. A suite whose
authors' files have such annotations says so on its card (``expected.empty``).
"""

from __future__ import annotations

from collections.abc import Iterable

from lens_bench import masks
from lens_bench.data.split import Split
from lens_bench.errors import DataError
from lens_bench.records import GroundTruth, Sample

_HINT = "`lens-bench data verify` lists them; --allow-partial leaves out their expressions"


def covers_nothing(truth: GroundTruth) -> bool:
    """Whether an annotation that does not say ``no_target`` has no pixel in its image.

    Raises:
        DataError: A part cannot be read or has another size than the annotation.
    """
    if truth.no_target:
        return False
    if truth.outlines:
        return not any(masks.draws(outline, truth.size) for outline in truth.outlines if not outline.ignore)
    return not any(masks.area(masks.part_rle(part, truth.size)) for part in truth.parts)


def too_many(split: Split, count: int) -> bool:
    """Whether a split has more annotations that cover nothing than its card allows."""
    allowed = split.suite.splits[split.name].expected.empty
    return allowed != "any" and count > allowed


def without_empty(split: Split, samples: Iterable[Sample], *, allow_partial: bool) -> tuple[Sample, ...]:
    """The samples whose annotation covers something, or all where the suite's card allows those that do not.

    Args:
        split: That they are of.
        samples: Some or all of it.
        allow_partial: Leave the others out instead of refusing them.

    Raises:
        DataError: An annotation covers nothing, or cannot be read.
    """
    known: dict[int, bool] = {}
    samples = tuple(samples)
    if split.suite.splits[split.name].expected.empty == "any":
        return samples
    for sample in samples:
        if id(sample.truth) not in known:
            known[id(sample.truth)] = covers_nothing(sample.truth)
    found = sum(known.values())
    if not too_many(split, found):
        return samples
    first = next(s for s in samples if known[id(s.truth)])
    more = f" (and {found - 1} more annotations)" if found > 1 else ""
    if not allow_partial:
        raise DataError(f"the annotation of {first.id} covers no pixel of its image{more}", _HINT)
    kept = tuple(s for s in samples if not known[id(s.truth)])
    if not kept:
        raise DataError(f"no annotation of {split.suite.name} {split.name} covers a pixel of its image{more}", _HINT)
    return kept
