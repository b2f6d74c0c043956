"""What a suite's split contains, as a digest: ids, expressions and raw annotations, not files.

Two copies of a set in different layouts have the same content hash; one changed polygon, id or word changes it. The
hash is part of a run's identity and path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from lens_bench.records import GroundTruth, Outline, Part, Polygon, Rle, Sample


def content_hash(samples: Iterable[Sample]) -> str:
    """SHA-256 (hex) over the samples in order. Annotations shared by several expressions are digested once."""
    total = hashlib.sha256(b"lens-bench content 1\n")
    known: dict[int, bytes] = {}
    for sample in samples:
        truth = known.get(id(sample.truth))
        if truth is None:
            truth = known.setdefault(id(sample.truth), truth_digest(sample.truth))
        fields = (sample.id, sample.image_id, sample.expression, sample.raw, str(sample.is_sentence), *sample.tags)
        text = "\x1f".join(fields)
        total.update(text.encode())
        total.update(b"\x1e" + truth)
    return total.hexdigest()


def truth_digest(truth: GroundTruth) -> bytes:
    """SHA-256 of a raw annotation: 32 bytes. Raises ``DataError`` where a part is a file that cannot be read."""
    digest = hashlib.sha256(f"{truth.size}{truth.box}{truth.no_target}".encode())
    for part in (*truth.parts, None, *truth.ignore, None, *truth.outlines):
        digest.update(_part(part))
    return digest.digest()


def _part(part: Part | Outline | None) -> bytes:
    if part is None:
        return b"|"
    if isinstance(part, Polygon):
        return b"p" + np.asarray(part.points, dtype="<f8").tobytes()
    if isinstance(part, Outline):
        region = b"" if part.region is None else _part(part.region)
        return (b"I" if part.ignore else b"T") + np.asarray(part.points, dtype="<f8").tobytes() + region
    if isinstance(part, Rle):
        return b"r" + f"{part.size}".encode() + part.counts
    return b"s" + part.fingerprint()
