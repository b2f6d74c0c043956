"""``summary.json``: the numbers of a run under one protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from lens_bench.errors import DataError
from lens_bench.records import Score
from lens_bench.run.files import SCHEMA_VERSION, JsonObject, RunFiles, read_json
from lens_bench.run.manifest import Manifest
from lens_bench.scoring.metrics import by_tag, summarise
from lens_bench.scoring.protocols import Protocol
from lens_bench.scoring.stats import intervals
from lens_bench.scoring.table import ScoreTable


def build_summary(
    manifest: Manifest, protocol: Protocol, scores: Sequence[Score], perf: Mapping[str, object] | None
) -> JsonObject:
    """Metrics with 95 % intervals, by tag too, and the speed of the session that made the predictions.

    A run that is not complete is summarised over the expressions that were answered: ``complete`` is then false.
    ``coverage`` says how much of the split it covers, and is empty where that is all (``Manifest.coverage``).

    Args:
        manifest: Of the run.
        protocol: Under which ``scores`` were computed.
        scores: Of every answered expression.
        perf: ``Speed.to_json()``, or None where nothing is known of the speed. Ignored where the model's card says that
            its calls measure nothing.
    """
    table = ScoreTable.of(scores)
    metrics = summarise(table, protocol)
    found = intervals(table, protocol, seed=manifest.seed)
    return {
        "schema_version": SCHEMA_VERSION,
        "suite": manifest.suite,
        "split": manifest.split,
        "model": manifest.model,
        "protocol": protocol.name,
        "complete": len(scores) == manifest.n_samples,
        "coverage": manifest.coverage(len(scores)),
        "n_samples": metrics.n_samples,
        "n_images": metrics.n_images,
        "n_answered": len(scores),
        "n_expected": manifest.n_samples,
        "metrics": metrics.to_json(),
        "ci95": {name: list(ci) if ci else None for name, ci in found.items()},
        "by_tag": by_tag(table, protocol, seed=manifest.seed),
        "perf": dict(perf) if perf is not None and manifest.timed else None,
        "suite_hash": manifest.suite_hash,
        "weight_digest": manifest.weight_digest,
        "digest": manifest.digest,
        "sees_ground_truth": manifest.sees_ground_truth,
        "created": manifest.created,
    }


def earlier_speed(files: RunFiles) -> Mapping[str, object] | None:
    """The ``perf`` block that an earlier session wrote; None where there is none that can be read."""
    if not files.summary.exists():
        return None
    try:
        perf = read_json(files.summary).get("perf")
    except DataError:  # the file is about to be written anew, and nothing else of it is kept
        return None
    return cast("Mapping[str, object]", perf) if isinstance(perf, dict) else None


def read_summary(files: RunFiles) -> JsonObject:
    """Read ``summary.json``. Raises ``DataError`` where it is missing or lacks what every summary has."""
    content = read_json(files.summary)
    missing = [k for k in ("suite", "split", "model", "protocol", "metrics", "ci95", "by_tag") if k not in content]
    if missing:
        raise DataError(
            f"{files.summary} lacks {', '.join(missing)}", f"`lens-bench score {files.root}` writes it anew"
        )
    return content
