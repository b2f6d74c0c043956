"""Scoring stored predictions again, under any protocol, without a model."""

from __future__ import annotations

from pathlib import Path

from lens_bench.data.split import known_root, open_split
from lens_bench.errors import DataError
from lens_bench.records import Sample
from lens_bench.registry import find_suite
from lens_bench.run.files import JsonObject, RunFiles, write_json, write_scores
from lens_bench.run.journal import Lock, read_asked, repair
from lens_bench.run.manifest import Manifest, read_manifest
from lens_bench.run.plan import select_samples
from lens_bench.run.scorer import BackgroundScorer
from lens_bench.run.summary import build_summary, earlier_speed
from lens_bench.run.watch import Progress, Quiet
from lens_bench.scoring.protocols import Protocol


def rescore(
    files: RunFiles,
    protocol: Protocol,
    data_root: Path | None,
    *,
    suite: str | None = None,
    progress: Progress | None = None,
) -> JsonObject:
    """Score a run's predictions; writes ``scores.jsonl`` and ``summary.json`` and returns the latter.

    Args:
        files: The run directory.
        protocol: Any; predictions and manifest stay as they are.
        data_root: Where the suite's annotations are, by default where the run found them; images are not needed.
        suite: Name or path of the suite card, where the one of the manifest's name is not it.
        progress: Told what happens.

    Raises:
        UsageError: Not a run directory, or in use.
        DataError: The suite is not there, or has another content than the run had.
    """
    watcher = progress or Quiet()
    manifest = read_manifest(files.require())
    samples = _samples(manifest, data_root, suite)
    with Lock(files):
        repair(files.predictions)
        known = {s.id for s in samples}
        scorer = BackgroundScorer(protocol, samples, manifest.seed, manifest.suite_hash)
        watcher.start(f"scoring {manifest.model} on {manifest.suite} {manifest.split}", manifest.n_samples, 0)
        try:
            for batch in read_asked(files.predictions, known):
                scorer.put(*batch)
                watcher.advance(len(batch), sum(p.status == "error" for p in batch))
        finally:
            watcher.stop()
        scores = scorer.finish()
        summary = build_summary(manifest, protocol, scores, earlier_speed(files))
        write_scores(files.scores, scores)
        write_json(files.summary, summary)
    return summary


def _samples(manifest: Manifest, data_root: Path | None, suite: str | None) -> tuple[Sample, ...]:
    root = known_root(data_root, manifest.data_root)
    split = open_split(find_suite(suite or manifest.suite), manifest.split, root, allow_partial=True)
    if split.content_hash != manifest.suite_hash:
        raise DataError(
            f"{manifest.suite} {manifest.split} under {root} is not what the run was made on: content hash "
            f"{split.content_hash[:12]}, not {manifest.suite_hash[:12]}",
            "name the folder of the data that the run used with --data-root",
        )
    return select_samples(split.samples, manifest.settings.limit, manifest.shard)
