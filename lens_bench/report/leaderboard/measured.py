"""Measured rows: what the run directories below a folder say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lens_bench.errors import DataError
from lens_bench.perf.profile_file import PROFILE_NAME, Profile, profile_from_json
from lens_bench.report.leaderboard.rows import Row, RowSpeed
from lens_bench.report.namesakes import System, distinctions, system_of
from lens_bench.run.files import SCHEMA_VERSION, JsonObject, RunFiles, find_runs, read_json
from lens_bench.run.manifest import Manifest, read_manifest

PER_BENCHMARK = "per-benchmark checkpoints"
_COUNTS = ("n_samples", "n_images")
_SCORE_AGAIN = "score the run again with `lens-bench score RUN_DIR`"


@dataclass(frozen=True, slots=True)
class Run:
    """One finished or unfinished run with its summary, and with its profile where one was measured."""

    files: RunFiles
    manifest: Manifest
    summary: JsonObject
    profile: Profile | None = None

    @property
    def protocol(self) -> str:
        """Under which the summary was computed; the manifest holds the one the run was started with."""
        return _text(self.summary, "protocol", self.files)

    @property
    def variant(self) -> str:
        """Digest of settings and seed: runs of one variant differ only in suite and weights."""
        content = {"settings": asdict(self.manifest.settings), "seed": self.manifest.seed}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]

    @property
    def coverage(self) -> str:
        """How much of the split the run covers; empty for all of it."""
        answered = self.summary.get("n_answered")
        if not isinstance(answered, int):
            raise DataError(f"{self.files.summary} has no n_answered", _SCORE_AGAIN)
        return self.manifest.coverage(answered)

    @property
    def whole(self) -> bool:
        """Every expression that the suite's card expects was there, asked and answered."""
        return self.coverage == ""


@dataclass(frozen=True, slots=True)
class Found:
    """The runs below a folder. ``notes`` name what was left out, and why."""

    runs: tuple[Run, ...]
    notes: tuple[str, ...]

    @property
    def repeated(self) -> frozenset[str]:
        """Names under which several models were run on one split: own trainings, arguments, submissions."""
        cells: dict[tuple[str, str, str], set[System]] = {}
        for run in self.runs:
            m = run.manifest
            cells.setdefault((m.model, m.suite, m.split), set()).add(system_of(m))
        return frozenset(name for (name, _, _), systems in cells.items() if len(systems) > 1)

    @property
    def per_benchmark(self) -> frozenset[str]:
        """Names that have other weights on other splits, and one model on each."""
        digests: dict[str, set[str]] = {}
        for run in self.runs:
            digests.setdefault(run.manifest.model, set()).add(run.manifest.weight_digest)
        return frozenset(name for name, used in digests.items() if len(used) > 1) - self.repeated

    @property
    def distinctions(self) -> Mapping[System, str]:
        """What sets the models of a repeated name apart; others are not in it."""
        repeated = self.repeated
        return distinctions(r.manifest for r in self.runs if r.manifest.model in repeated)


def collect(folder: Path) -> Found:
    """Read every run below ``folder``. A directory that cannot be read is left out and named in the notes."""
    runs: list[Run] = []
    notes: list[str] = []
    shards: set[Path] = set()
    for files in find_runs(folder):
        try:
            manifest = read_manifest(files)
            if manifest.shard is not None:
                target = RunFiles(files.root.parents[1])
                if not target.manifest.is_file():
                    shards.add(target.root)
                continue
            run = _read(files, manifest)
            profile, problem = _profile_of(run)
            notes += [f"left out {_relative(files.root, folder)}/{PROFILE_NAME}: {problem}"] if problem else []
            runs.append(replace(run, profile=profile))
        except DataError as error:
            notes.append(f"left out {_relative(files.root, folder)}: {error.message}")
    notes += [f"left out {_relative(root, folder)}: its shards are not merged" for root in sorted(shards)]
    kept, repeated = _without_copies(runs)
    notes += [f"left out {_relative(r.files.root, folder)}: an older copy of the same run" for r in repeated]
    return Found(tuple(kept), tuple(notes))


def rows_of(run: Run, metric: str, folder: Path, *, distinct: str = "", per_benchmark: bool = False) -> list[Row]:
    """The rows of one metric: of the whole split, then by tag. Empty where the metric does not apply.

    Args:
        run: The run.
        metric: Flat name of a metric, see ``flat_metrics``.
        folder: Paths are given relative to it.
        distinct: What sets the run apart from others of the same name.
        per_benchmark: The name has other weights on other splits.

    Raises:
        DataError: The summary is not as ``run/summary.py`` writes it.
    """
    summary = run.summary
    blocks = {"": {**_mapping(summary, "metrics", run.files), "n_samples": summary.get("n_samples")}}
    intervals = {"": _mapping(summary, "ci95", run.files)}
    for tag, block in _mapping(summary, "by_tag", run.files).items():
        if not isinstance(block, dict):
            raise DataError(f"{run.files.summary}: by_tag.{tag} is not an object")
        blocks[tag], intervals[tag] = block, block.get("ci95") or {}
    found = []
    for subset, block in blocks.items():
        value = flat_metrics(block).get(metric)
        if value is not None:
            row = _row(run, metric, subset, value, block, intervals[subset], folder)
            found.append(replace(row, distinct=distinct, notes=(*row.notes, *((PER_BENCHMARK,) * per_benchmark))))
    return found


def flat_metrics(block: Mapping[str, object]) -> dict[str, float]:
    """The metrics of a ``metrics`` or ``by_tag`` block by flat name; precision as ``precision_0.5``."""
    flat: dict[str, float] = {}
    for key, value in block.items():
        if key == "precision" and isinstance(value, dict):
            flat.update({f"precision_{t}": float(v) for t, v in value.items() if v is not None})
        elif key not in _COUNTS and isinstance(value, float | int) and not isinstance(value, bool):
            flat[key] = float(value)
    return flat


def _read(files: RunFiles, manifest: Manifest) -> Run:
    summary = read_json(files.summary)
    if summary.get("schema_version") != SCHEMA_VERSION:
        raise DataError(f"{files.summary} has schema version {summary.get('schema_version')}, not {SCHEMA_VERSION}")
    for key in ("suite", "split", "model", "digest"):
        expected = getattr(manifest, key)
        if summary.get(key) != expected:
            raise DataError(f"{files.summary} has {key} {summary.get(key)!r}, its manifest {expected!r}")
    run = Run(files, manifest, summary)
    _ = run.protocol, run.coverage  # raises where there is none
    return run


def _row(
    run: Run,
    metric: str,
    subset: str,
    value: float,
    block: Mapping[str, object],
    intervals: Mapping[str, object],
    folder: Path,
) -> Row:
    manifest = run.manifest
    interval = intervals.get(metric)
    low, high = interval if isinstance(interval, list) and len(interval) == 2 else (None, None)
    samples = block.get("n_samples")
    return Row(
        kind="measured",
        model=manifest.model,
        suite=manifest.suite,
        split=manifest.split,
        subset=subset,
        metric=metric,
        value=value,
        low=low,
        high=high,
        protocol=run.protocol,
        suite_hash=manifest.suite_hash,
        weight_digest=manifest.weight_digest,
        digest=manifest.digest,
        variant=run.variant,
        date=manifest.created,
        speed=None if subset else speed_of(run),
        n_samples=samples if isinstance(samples, int) else None,
        complete=run.whole,
        oracle=manifest.sees_ground_truth,
        source=str(manifest.model_card.get("source") or ""),
        notes=_notes(run),
        path=_relative(run.files.root, folder),
    )


def speed_of(run: Run) -> RowSpeed | None:
    """The speed of a run, by its profile where it has one; None where it is not known."""
    if run.profile is not None:
        return _profiled(run.profile)
    perf = run.summary.get("perf")
    if not isinstance(perf, dict) or not run.manifest.timed:
        return None
    latency = perf.get("latency_ms")
    waits: Mapping[str, object] = latency if isinstance(latency, dict) else {}
    device, process = _number(perf.get("peak_device_mb")), _number(perf.get("peak_rss_mb"))
    return RowSpeed(
        comparable=perf.get("comparable") is True,
        reasons=tuple(str(r) for r in perf.get("reasons") or ()),
        hardware=str(perf.get("hardware") or ""),
        images_per_s=_number(perf.get("images_per_s")),
        expressions_per_s=_number(perf.get("expressions_per_s")),
        p50_ms=_number(waits.get("p50")),
        p99_ms=_number(waits.get("p99")),
        peak_memory_mb=process if device is None else device,
        memory_of="device" if device is not None else "process" if process is not None else "",
    )


def _profile_of(run: Run) -> tuple[Profile | None, str]:
    """The profile of the same model, settings and content; or None, and why one that is there does not count."""
    path = run.files.root / PROFILE_NAME
    if not path.is_file():
        return None, ""
    try:
        profile = profile_from_json(read_json(path), path.name)
    except DataError as error:
        return None, error.message
    for key in ("suite", "split", "model", "digest", "suite_hash", "weight_digest"):
        if getattr(profile, key) != getattr(run.manifest, key):
            return None, f"its {key} is {getattr(profile, key)!r}, that of the run {getattr(run.manifest, key)!r}"
    return (profile if profile.single_stream is not None or profile.offline is not None else None), ""


def _profiled(profile: Profile) -> RowSpeed:
    """The figures of a profile. What it did not measure stays empty: figures of two measurements are not mixed."""
    single, server = profile.single_stream, profile.server
    best = profile.offline.best if profile.offline is not None else None
    memories = [circumstances.memory for _, circumstances in profile.circumstances()]
    device = [m.peak_allocated_mb for m in memories if m.peak_allocated_mb is not None]
    found = server is not None and server.complete
    return RowSpeed(
        comparable=profile.comparable,
        reasons=profile.reasons,
        hardware=profile.hardware,
        images_per_s=best.images_per_s.value if best is not None and best.images_per_s is not None else None,
        expressions_per_s=(
            best.expressions_per_s.value if best is not None and best.expressions_per_s is not None else None
        ),
        p50_ms=single.latency_ms.p50.value if single is not None else None,
        p99_ms=single.latency_ms.p99.value if single is not None else None,
        peak_memory_mb=max(device) if device else max(m.peak_rss_mb for m in memories),
        memory_of="device" if device else "process",
        requests_per_s=server.rate if server is not None and found else None,
        bound=str(profile.knobs.get("latency_bound") or "") if found else "",
        profiled=True,
    )


def _notes(run: Run) -> tuple[str, ...]:
    oracle = ("oracle: sees the ground truth",) if run.manifest.sees_ground_truth else ()
    return (*oracle, *((f"incomplete: {run.coverage}",) if run.coverage else ()))


def _without_copies(runs: list[Run]) -> tuple[list[Run], list[Run]]:
    """A run directory that was copied counts once: the newest of each identity, by path where dates are equal."""
    newest: dict[tuple[str, ...], Run] = {}
    repeated: list[Run] = []
    for run in runs:
        m = run.manifest
        key = (m.suite, m.split, m.model, m.digest, run.protocol)
        other = newest.get(key)
        if other is None or other.manifest.created < m.created:
            newest[key] = run
            repeated += [other] if other is not None else []
        else:
            repeated.append(run)
    return list(newest.values()), repeated


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()


def _mapping(content: JsonObject, key: str, files: RunFiles) -> dict[str, object]:
    value = content.get(key)
    if not isinstance(value, dict):
        raise DataError(f"{files.summary} has no {key}", "score the run again with `lens-bench score RUN_DIR`")
    return value


def _text(content: JsonObject, key: str, files: RunFiles) -> str:
    value = content.get(key)
    if not isinstance(value, str):
        raise DataError(f"{files.summary} has no {key}", "score the run again with `lens-bench score RUN_DIR`")
    return value


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, float | int) and not isinstance(value, bool) else None
