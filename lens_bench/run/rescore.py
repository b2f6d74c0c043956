"""Scoring stored predictions again, under any protocol, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lens_bench.data.empty import without_empty
from lens_bench.data.split import known_root, open_split
from lens_bench.errors import DataError
from lens_bench.records import Sample
from lens_bench.registry import find_suite
from lens_bench.run.files import JsonObject, RunFiles
from lens_bench.run.journal import Lock, read_asked, repair
from lens_bench.run.manifest import Manifest, read_manifest
from lens_bench.run.plan import select_samples
from lens_bench.run.results import other_protocols, write_results
from lens_bench.run.scorer import BackgroundScorer
from lens_bench.run.summary import earlier_speed
from lens_bench.run.watch import Progress, Quiet
from lens_bench.scoring.protocols import get_protocol


def rescore(
    files: RunFiles,
    protocols: Sequence[str],
    data_root: Path | None,
    *,
    suite: str | None = None,
    progress: Progress | None = None,
) -> tuple[JsonObject, ...]:
    """Score a run's predictions; writes scores and summaries and returns the latter, the run's own protocol first.

    Args:
        files: The run directory.
        protocols: Any; predictions and manifest stay as they are. None at all stands for the run's own. The run's own
            brings along those that the run was scored under before, so that all are of the same predictions.
        data_root: Where the suite's annotations are, by default where the run found them; images are not needed.
        suite: Name or path of the suite card, where the one of the manifest's name is not it.
        progress: Told what happens.

    Raises:
        UsageError: Not a run directory, or in use; or there is no such protocol.
        DataError: The suite is not there, or has another content than the run had.
    """
    watcher = progress or Quiet()
    manifest = read_manifest(files.require())
    names = dict.fromkeys(protocols or [manifest.protocol])
    if manifest.protocol in names:
        names |= dict.fromkeys(other_protocols(files, manifest))
    chosen = [get_protocol(name) for name in names]
    samples = _samples(manifest, data_root, suite)
    with Lock(files):
        repair(files.predictions)
        known = {s.id for s in samples}
        scorer = BackgroundScorer(chosen, samples, manifest.seed, manifest.suite_hash)
        watcher.start(f"scoring {manifest.model} on {manifest.suite} {manifest.split}", manifest.n_samples, 0)
        try:
            for batch in read_asked(files.predictions, known):
                scorer.put(*batch)
                watcher.advance(len(batch), sum(p.status == "error" for p in batch))
        finally:
            watcher.stop()
        return tuple(write_results(files, manifest, scorer.finish(), earlier_speed(files)).values())


def _samples(manifest: Manifest, data_root: Path | None, suite: str | None) -> tuple[Sample, ...]:
    root = known_root(data_root, manifest.data_root)
    split = open_split(find_suite(suite or manifest.suite), manifest.split, root, allow_partial=True)
    if split.content_hash != manifest.suite_hash:
        raise DataError(
            f"{manifest.suite} {manifest.split} under {root} is not what the run was made on: content hash "
            f"{split.content_hash[:12]}, not {manifest.suite_hash[:12]}",
            "name the folder of the data that the run used with --data-root",
        )
    chosen = select_samples(split.samples, manifest.settings.limit, manifest.shard)
    return without_empty(split, chosen, allow_partial=True) if manifest.data.get("left_out") else chosen
