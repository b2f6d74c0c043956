"""``summary.json``: the numbers of a run under one protocol."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lens_bench.errors import DataError
from lens_bench.records import Score
from lens_bench.run.files import SCHEMA_VERSION, JsonObject, RunFiles, first_problem, read_json
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
        _Speed.model_validate(perf)
    except (DataError, ValidationError):  # the file is about to be written anew, and nothing else of it is kept
        return None
    return cast("Mapping[str, object]", perf)


# ---------------------------------------------------------------------------------------------- reading

_Fraction = Annotated[float, Field(ge=0, le=1)]
_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0)]


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Speed(_Record):
    """The ``perf`` block, as far as anything reads it; see ``perf.speed.Speed.to_json``."""

    comparable: bool
    reasons: list[str] = []
    device: str
    hardware: str
    batch_images: _Count
    expressions: _Count | None = None
    load_s: _Amount | None = None
    wall_s: _Amount | None = None
    model_s: _Amount | None = None
    first_call_ms: _Amount | None = None
    expressions_per_s: _Amount | None = None
    images_per_s: _Amount | None = None
    latency_ms: dict[str, _Amount] | None = None
    stages_ms: dict[str, _Amount] = {}
    completion_tokens: _Amount | None = None
    peak_rss_mb: _Amount | None = None
    peak_device_mb: _Amount | None = None


class _Intervals(_Record):
    ci95: dict[str, Annotated[list[_Fraction], Field(min_length=2, max_length=2)] | None]

    @model_validator(mode="after")
    def _ordered(self) -> _Intervals:
        if any(ci is not None and ci[0] > ci[1] for ci in self.ci95.values()):
            raise ValueError("an interval ends before it begins")
        return self


class _Predictions(_Record):
    lines: _Count
    digest: str


class _Summary(_Intervals):
    """Types and ranges; ``results.read_results`` checks the figures against the scores."""

    suite: str
    split: str
    model: str
    protocol: str
    complete: bool
    coverage: str
    n_samples: _Count
    n_images: _Count
    n_answered: _Count
    n_expected: _Count
    metrics: dict[str, object]
    by_tag: dict[str, _Intervals]
    perf: _Speed | None
    suite_hash: str
    weight_digest: str
    digest: str
    sees_ground_truth: bool
    created: str
    scores_sha256: str
    predictions: _Predictions | None = None


def read_summary(path: Path) -> JsonObject:
    """Read a summary: every field has the type and the range that ``build_summary`` gives it.

    Whether it belongs to its scores and its manifest is checked by ``results.read_results``.

    Raises:
        DataError: It is missing or damaged, or of another schema version; the message names the field.
    """
    content = read_json(path)
    if content.get("schema_version") != SCHEMA_VERSION:
        found = reprlib.repr(content.get("schema_version"))
        raise DataError(f"{path} has schema version {found}, this is version {SCHEMA_VERSION}")
    try:
        _Summary.model_validate(content)
    except ValidationError as error:
        raise DataError(f"{path}: {first_problem(error)}") from None
    return content
