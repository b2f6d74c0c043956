"""Measured rows: what the run directories below a folder say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

from lens_bench.errors import DataError
from lens_bench.perf.profile_file import PROFILE_NAME, Profile, profile_from_json
from lens_bench.report.leaderboard.rows import Row, RowSpeed
from lens_bench.report.namesakes import FILE, System, distinctions, system_of
from lens_bench.run.files import JsonObject, RunFiles, find_runs, read_json
from lens_bench.run.manifest import Manifest, read_manifest
from lens_bench.run.merge import whole_of
from lens_bench.run.results import other_protocols, read_results

PER_BENCHMARK = "per-benchmark checkpoints"
_COUNTS = ("n_samples", "n_images", "ci95")


@dataclass(frozen=True, slots=True)
class Run:
    """One finished or unfinished run under one protocol, and with its profile where one was measured.

    ``summary`` was checked against the scores (``run.results``), which are not kept.
    """

    files: RunFiles
    manifest: Manifest
    summary: JsonObject
    profile: Profile | None = None

    @property
    def protocol(self) -> str:
        """Under which the summary was computed."""
        return str(self.summary["protocol"])

    @property
    def other_protocol(self) -> str | None:
        """The protocol, where it is not the run's own."""
        return None if self.protocol == self.manifest.protocol else self.protocol

    @property
    def variant(self) -> str:
        """Digest of settings and seed: runs of one variant differ only in suite and weights."""
        content = {"settings": asdict(self.manifest.settings), "seed": self.manifest.seed}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]

    @property
    def submission(self) -> str:
        """What files of predictions of one submission have in common beside its name; empty for anything else.

        That is where they come from (``--source``) and how they were read. Who names no source gets no more than a row
        for each file.
        """
        source = str(self.manifest.model_card.get("source") or "")
        if self.manifest.timed or not source:
            return ""
        settings = asdict(self.manifest.settings)
        settings["args"] = {k: v for k, v in settings["args"].items() if not str(v).startswith(FILE)}
        return json.dumps([source, settings, self.manifest.seed], sort_keys=True)

    @property
    def coverage(self) -> str:
        """How much of the split the run covers; empty for all of it."""
        return str(self.summary["coverage"])

    @property
    def whole(self) -> bool:
        """Every expression that the suite's card expects was there, asked and answered."""
        return self.coverage == ""


@dataclass(frozen=True, slots=True)
class Found:
    """The runs below a folder, once for each protocol that they are scored under.

    Attributes:
        notes: What was left out, and why.
        damaged: The errors of runs whose files cannot be read or believed; the notes name them, too.
    """

    runs: tuple[Run, ...]
    notes: tuple[str, ...]
    damaged: tuple[DataError, ...] = ()

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
        """Names that have other weights on other splits, and one model on each.

        Nothing is known of the weights behind a predictions file, and a file may be of one split alone.
        """
        digests: dict[str, set[str]] = {}
        for run in (r for r in self.runs if r.manifest.timed):
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
    damaged: list[DataError] = []
    shards: set[Path] = set()
    for files in find_runs(folder):
        where = _relative(files.root, folder)
        try:
            manifest = read_manifest(files)
            if manifest.shard is not None:
                target = whole_of(RunFiles(files.root.resolve()), manifest.shard)
                if not target.manifest.is_file():
                    shards.add(target.root)
                continue
            profile, problem = _profile_of(files, manifest)
            notes += [f"left out {where}/{PROFILE_NAME}: {problem}"] if problem else []
            if not files.summary.exists() and not files.scores.exists():
                notes.append(f"left out {where}: it is not finished and has no scores")
                continue
        except DataError as error:
            notes.append(f"left out {where}: {error.message}")
            damaged.append(error)
            continue
        for protocol in (None, *other_protocols(files, manifest)):
            try:
                summary = read_results(files, manifest, protocol).summary
                runs.append(Run(files, manifest, summary, profile))
            except DataError as error:
                under = f" under {protocol}" if protocol else ""
                notes.append(f"left out {where}{under}: {error.message}")
                damaged.append(error)
    notes += [f"left out {_relative(root, folder.resolve())}: its shards are not merged" for root in sorted(shards)]
    kept, repeated = _without_copies(runs)
    copies = dict.fromkeys(_relative(r.files.root, folder) for r in repeated)
    notes += [f"left out {where}: an older copy of the same run" for where in copies]
    return Found(tuple(kept), tuple(notes), tuple(damaged))


def rows_of(run: Run, metric: str, folder: Path, *, distinct: str = "", per_benchmark: bool = False) -> list[Row]:
    """The rows of one metric: of the whole split, then by tag. Empty where the metric does not apply.

    Args:
        run: The run.
        metric: Flat name of a metric, see ``flat_metrics``.
        folder: Paths are given relative to it.
        distinct: What sets the run apart from others of the same name.
        per_benchmark: The name has other weights on other splits.
    """
    summary = cast("Mapping[str, Mapping[str, object]]", run.summary)
    blocks = {"": {**summary["metrics"], "n_samples": summary["n_samples"], "ci95": summary["ci95"]}}
    blocks |= cast("Mapping[str, dict[str, object]]", summary["by_tag"])
    found = []
    for subset, block in blocks.items():
        value = flat_metrics(block).get(metric)
        if value is not None:
            row = _row(run, metric, subset, value, block, folder)
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


def _row(
    run: Run,
    metric: str,
    subset: str,
    value: float,
    block: Mapping[str, object],
    folder: Path,
) -> Row:
    manifest = run.manifest
    interval = cast("Mapping[str, tuple[float, float] | None]", block["ci95"]).get(metric)
    low, high = interval or (None, None)
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


def _profile_of(files: RunFiles, manifest: Manifest) -> tuple[Profile | None, str]:
    """The profile of the same model, settings and content; or None, and why one that is there does not count."""
    path = files.root / PROFILE_NAME
    if not path.is_file():
        return None, ""
    try:
        profile = profile_from_json(read_json(path), path.name)
    except DataError as error:
        return None, error.message
    for key in ("suite", "split", "model", "digest", "suite_hash", "weight_digest"):
        if getattr(profile, key) != getattr(manifest, key):
            return None, f"its {key} is {getattr(profile, key)!r}, that of the run {getattr(manifest, key)!r}"
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
        requests_per_s=server.rate.value if server is not None and server.rate is not None and found else None,
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


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, float | int) and not isinstance(value, bool) else None
