"""The scores of a run and their summary, under one or several protocols: written together, read together.

``scores.jsonl`` and ``summary.json`` are those of the run's own protocol, the one in its manifest; those of another lie
beside them as ``scores.<protocol>.jsonl`` and ``summary.<protocol>.json``. A summary holds the digest of its scores
file, and is written after it: where a process is killed between the two, or somebody changes one of them, the reader
says so. It holds the digest of the predictions too, as far as they went: the journal only grows, so lines behind that
are answers that were not scored yet. What the reader checks is whether files agree and whether the arithmetic is that
of the protocol. Somebody who rewrites predictions, scores, summary and manifest consistently is not found out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar, cast

from lens_bench.errors import DataError
from lens_bench.records import Score
from lens_bench.run.files import JsonObject, RunFiles, read_scores, write_json, write_scores
from lens_bench.run.manifest import Manifest
from lens_bench.run.summary import build_summary, read_summary
from lens_bench.scoring.metrics import same_figures, summarise
from lens_bench.scoring.protocols import PROTOCOLS, Protocol, get_protocol
from lens_bench.scoring.stats import intervals
from lens_bench.scoring.table import ScoreTable
from lens_bench.scoring.verify import check_scores

T = TypeVar("T")
S = TypeVar("S")

# Of an interval's width. Another stream of random numbers, as a later NumPy may have, moves an end by some 2 %.
_NOISE = 0.1


# In a line of predictions. Within a text, quotes are escaped, so nothing else looks like it.
_TIMES = re.compile(rb'"stages_ms":\{[^{}]*\}')


@dataclass(frozen=True, slots=True)
class Results:
    """Scores and summary of a run under one protocol, checked against each other.

    Attributes:
        scores: In the suite's order.
        table: The same scores as columns, in the order of sample ids.
    """

    summary: JsonObject
    protocol: Protocol
    scores: tuple[Score, ...]
    table: ScoreTable


def write_results(
    files: RunFiles,
    manifest: Manifest,
    scores: Mapping[str, Sequence[Score]],
    perf: Mapping[str, object] | None,
) -> dict[str, JsonObject]:
    """Write scores and summaries of a run. Hold a ``Lock`` on the directory.

    Where the run's own protocol is among them, files of protocols that are not are removed: they may be of other
    predictions.

    Args:
        files: The run directory.
        manifest: As it is stored there.
        scores: Of every answered expression, by protocol.
        perf: As of ``build_summary``.

    Returns:
        The summaries by protocol, the run's own first.
    """
    own = manifest.protocol
    stale = other_protocols(files, manifest) if own in scores else tuple(name for name in scores if name != own)
    for name in stale:  # first: no summary is ever beside one of later predictions
        files.other_summary(name).unlink(missing_ok=True)
    written = {}
    answers = _predictions(files)
    for name in sorted(scores, key=lambda n: n != own):
        where = _places(files, manifest, name)
        digest = write_scores(where.scores, scores[name])
        summary = build_summary(manifest, get_protocol(name), scores[name], perf)
        summary |= {"scores_sha256": digest, "predictions": answers}
        write_json(where.summary, summary)
        written[name] = summary
    for name in stale:
        if name not in scores:
            files.other_scores(name).unlink(missing_ok=True)
    return written


def other_protocols(files: RunFiles, manifest: Manifest) -> tuple[str, ...]:
    """Protocols under which a run is scored beside its own, in the order of the list of protocols."""
    return tuple(
        name
        for name in PROTOCOLS
        if name != manifest.protocol and (files.other_scores(name).exists() or files.other_summary(name).exists())
    )


def read_results(files: RunFiles, manifest: Manifest, protocol: str | None = None) -> Results:
    """The one reader of scores and summaries.

    Checked are the types and ranges of all fields, that the summary belongs to the manifest, to its scores file and to
    the predictions (where the directory still holds them), every score under the rules of the protocol, and the metrics
    and their intervals, by tag too, against those of the scores. Of intervals it is checked that they are no further
    off than resampling leaves open.

    Args:
        files: The run directory.
        manifest: As ``read_manifest`` gives it.
        protocol: A protocol that the run is scored under; its own by default.

    Raises:
        UsageError: There is no such protocol.
        DataError: A file is missing or damaged, or they do not belong together; the hint is the command that writes
            them anew.
    """
    name = protocol or manifest.protocol
    chosen = get_protocol(name) if protocol else PROTOCOLS.get(name)
    if chosen is None:
        raise DataError(f"{files.manifest}: this version of lens-bench has no protocol {name!r}")
    where = _places(files, manifest, name)
    try:
        if protocol and not where.summary.exists():
            raise DataError(f"{files.root} is not scored under {name}")
        summary = read_summary(where.summary)
        _check_same_run(where, summary, manifest, name)
        _check_predictions(files, summary)
        scores = read_scores(where.scores, str(summary["scores_sha256"]))
        table = _checked(where, summary, scores, chosen, manifest)
    except DataError as error:
        again = f"`lens-bench score {files.root} --protocol {name}` writes scores and summary anew"
        unfinished = not protocol and not where.summary.exists()
        raise DataError(error.message, error.hint if unfinished else again) from None
    return Results(summary, chosen, tuple(scores), table)


# ---------------------------------------------------------------------------------------------- checks


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the two files of a protocol lie."""

    scores: Path
    summary: Path


def _places(files: RunFiles, manifest: Manifest, protocol: str) -> _Places:
    if protocol == manifest.protocol:
        return _Places(files.scores, files.summary)
    return _Places(files.other_scores(protocol), files.other_summary(protocol))


def _check_same_run(where: _Places, summary: JsonObject, manifest: Manifest, protocol: str) -> None:
    expected = {
        "protocol": protocol,
        "suite": manifest.suite,
        "split": manifest.split,
        "model": manifest.model,
        "digest": manifest.digest,
        "suite_hash": manifest.suite_hash,
        "weight_digest": manifest.weight_digest,
        "sees_ground_truth": manifest.sees_ground_truth,
        "n_expected": manifest.n_samples,
    }
    for key, value in expected.items():
        if summary[key] != value:
            raise DataError(f"{where.summary} has {key} {summary[key]!r}, its manifest {value!r}")


def _predictions(files: RunFiles, first: int | None = None) -> JsonObject | None:
    """Number and digest of the lines of the predictions, or of the first of them; None where there are none.

    Neither the order of the answers nor the time they took matters: workers answer in any order, and their summary is
    that of one process.
    """
    if not files.predictions.is_file():
        return None
    number, total = 0, 0
    with files.predictions.open("rb") as stream:
        for line in islice(stream, first):
            number += 1
            total += int.from_bytes(hashlib.sha256(_TIMES.sub(b"", line)).digest())
    return {"lines": number, "digest": f"{total % 2**256:064x}"}


def _check_predictions(files: RunFiles, summary: JsonObject) -> None:
    """Summaries of an earlier version have no digest, and a run may be handed on without its predictions."""
    stored = cast("JsonObject | None", summary.get("predictions"))
    if stored is not None and _predictions(files, cast("int", stored["lines"])) not in (None, stored):
        raise DataError(f"{files.predictions} is not what was scored: lines were changed or removed since")


def _checked(
    where: _Places, summary: JsonObject, scores: Sequence[Score], protocol: Protocol, manifest: Manifest
) -> ScoreTable:
    whole = len(scores) == manifest.n_samples
    if len(scores) > manifest.n_samples or summary["n_answered"] != len(scores) or summary["complete"] != whole:
        raise DataError(
            f"{where.scores} has {len(scores)} of {manifest.n_samples} expressions, {where.summary.name} says "
            f"{summary['n_answered']}, and complete: {str(summary['complete']).lower()}"
        )
    if summary["coverage"] != (covers := manifest.coverage(len(scores))):
        raise DataError(f"{where.summary} covers {summary['coverage'] or 'all'}, its scores {covers or 'all'}")
    try:
        check_scores(scores, protocol, whole=whole)
        table = ScoreTable.of(scores)
    except DataError as error:
        raise DataError(f"{where.scores}: {error.message}") from None
    if whole and table.n_images != manifest.n_images:
        raise DataError(f"{where.scores} is of {table.n_images} images, the manifest of {manifest.n_images}")
    for what, computed, stored in _figures(table, protocol, summary):
        if not same_figures(computed, stored):
            raise DataError(f"{where.summary}: {what} is not that of {where.scores.name}")
    for what, rows, block in _blocks(table, summary):
        stored_ends = cast("Mapping[str, Sequence[float] | None]", block["ci95"])
        for name, interval in _paired(intervals(rows, protocol, seed=manifest.seed), stored_ends):
            if not _same_interval(*interval):
                raise DataError(f"{where.summary}: {what}ci95.{name} is not that of {where.scores.name}")
    return table


def _figures(table: ScoreTable, protocol: Protocol, summary: JsonObject) -> Iterator[tuple[str, object, object]]:
    """Every figure that a summary repeats of its scores: its name, what the scores give, and what the summary says."""
    metrics = summarise(table, protocol)
    yield "n_samples", metrics.n_samples, summary["n_samples"]
    yield "n_images", metrics.n_images, summary["n_images"]
    for name, pair in _paired(metrics.to_json(), cast("JsonObject", summary["metrics"])):
        yield f"metrics.{name}", *pair
    stored = cast("Mapping[str, JsonObject]", summary["by_tag"])
    tags = table.by_tag()
    yield "the list of tags", sorted(tags), sorted(stored)
    for tag, rows in tags.items():
        found = summarise(rows, protocol)
        computed = {"n_samples": found.n_samples, "n_images": found.n_images, **found.to_json()}
        yield f"by_tag.{tag}", computed, {k: v for k, v in stored[tag].items() if k != "ci95"}


def _blocks(table: ScoreTable, summary: JsonObject) -> Iterator[tuple[str, ScoreTable, JsonObject]]:
    """The parts of a summary that have intervals: the beginning of their names, their scores, what the summary says."""
    yield "", table, summary
    stored = cast("Mapping[str, JsonObject]", summary["by_tag"])
    for tag, rows in table.by_tag().items():
        yield f"by_tag.{tag}.", rows, stored[tag]


_ABSENT = object()  # equal to nothing that a file holds


def _paired(computed: Mapping[str, T], stored: Mapping[str, S]) -> Iterator[tuple[str, tuple[T | object, S | object]]]:
    """Both values under every name that either has, so that a figure that was added is found as one that is missing."""
    for name in dict.fromkeys((*computed, *stored)):
        yield name, (computed.get(name, _ABSENT), stored.get(name, _ABSENT))


def _same_interval(computed: object, stored: object) -> bool:
    if not isinstance(computed, tuple) or not isinstance(stored, list):
        return computed is stored
    room = _NOISE * (computed[1] - computed[0]) + 1e-9
    return all(abs(a - b) <= room for a, b in zip(computed, stored, strict=True))
