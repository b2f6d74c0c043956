"""Putting the shards of a run together: the result is the run that one process would have made."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from lens_bench.errors import DataError, UsageError
from lens_bench.records import Score
from lens_bench.run.files import JsonObject, RunFiles, find_runs, read_scores, write_json, write_scores, write_text
from lens_bench.run.journal import Journal, Lock, read, repair
from lens_bench.run.manifest import Manifest, check_same, read_manifest
from lens_bench.run.summary import build_summary, read_summary
from lens_bench.scoring.protocols import Protocol, get_protocol


@dataclass(frozen=True, slots=True)
class Shards:
    """All shards of one run."""

    files: tuple[RunFiles, ...]
    manifests: tuple[Manifest, ...]

    @property
    def target(self) -> RunFiles:
        """The run directory that the shards lie in."""
        return RunFiles(self.files[0].root.parents[1])


def find_shards(paths: Sequence[Path]) -> list[Shards]:
    """Shards at or below the given paths, grouped by the run they belong to.

    Raises:
        UsageError: There are none, or a run lacks one; the message names it.
    """
    groups: dict[Path, dict[Path, tuple[RunFiles, Manifest]]] = {}
    for path in paths:
        for files in find_runs(path.resolve()):
            manifest = read_manifest(files)
            if manifest.shard:
                groups.setdefault(files.root.parents[1], {})[files.root] = (files, manifest)
    if not groups:
        raise UsageError(f"no shards below {', '.join(str(p) for p in paths)}", "`run --shard i/n` makes them")
    return [_complete(run, list(found.values())) for run, found in sorted(groups.items())]


def merge(shards: Shards) -> tuple[RunFiles, JsonObject]:
    """Write the merged run into the directory that the shards lie in; the shards stay.

    Raises:
        DataError: A shard is not finished, its files do not belong together, two hold the same expression, or they are
            scored under different protocols.
        UsageError: Shards differ in a setting, one is in use, or the target holds another run.
    """
    target, whole = shards.target, _whole(shards)
    with ExitStack() as locks:
        for files in (target, *shards.files):
            locks.enter_context(Lock(files))
        protocol = _protocol(shards)
        scores = [s for files, m in zip(shards.files, shards.manifests, strict=True) for s in _scores(files, m)]
        if target.manifest.exists():
            check_same(read_manifest(target), whole, target)
        _write_predictions(shards, target)
        _write_images(shards, target)
        whole.write(target)
        summary = build_summary(whole, protocol, scores, None)
        write_scores(target.scores, scores)
        write_json(target.summary, summary)
    return target, summary


def _whole(shards: Shards) -> Manifest:
    """The manifest of the run that the shards are parts of."""
    whole = replace(
        shards.manifests[0],
        shard=None,
        n_samples=sum(m.n_samples for m in shards.manifests),
        n_images=sum(m.n_images for m in shards.manifests),
        sessions=tuple(s for m in shards.manifests for s in m.sessions),
    )
    for files, manifest in zip(shards.files, shards.manifests, strict=True):
        check_same(whole, replace(manifest, shard=None, n_samples=whole.n_samples), files)
    return whole


def _protocol(shards: Shards) -> Protocol:
    """The one protocol under which all shards are scored now, which need not be that of their first run."""
    names = {str(read_summary(files)["protocol"]) for files in shards.files}
    if len(names) > 1:
        raise DataError(
            f"the shards of {shards.target.root} are scored under {' and '.join(sorted(names))}",
            "`lens-bench score SHARD... --protocol P` scores them alike",
        )
    return get_protocol(names.pop())


def _scores(files: RunFiles, manifest: Manifest) -> list[Score]:
    """The scores of a finished shard, checked against its predictions."""
    repair(files.predictions)
    scores = read_scores(files.scores)
    if len(scores) != manifest.n_samples:
        raise DataError(
            f"{files.root} has {len(scores)} of {manifest.n_samples} expressions",
            "finish the shard first: the same command continues it",
        )
    if {s.sample_id for s in scores} != {p.sample_id for p in read(files.predictions)}:
        raise DataError(
            f"{files.root}: predictions and scores are not of the same expressions",
            "`lens-bench run` with the same options scores them again",
        )
    return scores


def _write_predictions(shards: Shards, target: RunFiles) -> None:
    temporary = target.predictions.with_suffix(".merging")
    temporary.unlink(missing_ok=True)
    seen: set[str] = set()
    with Journal(temporary) as journal:
        for files in shards.files:
            for prediction in read(files.predictions):
                if prediction.sample_id in seen:
                    raise DataError(f"{prediction.sample_id} is in two shards of {target.root}")
                seen.add(prediction.sample_id)
                journal.append([prediction])
    temporary.replace(target.predictions)


def _write_images(shards: Shards, target: RunFiles) -> None:
    """Put the records of the images that were read together, so that the merged run is continued on the same ones."""
    parts = [files.images for files in shards.files]
    text = "".join(path.read_text(encoding="utf-8") for path in parts if path.is_file())
    if text:
        write_text(target.images, text)


def _complete(run: Path, found: list[tuple[RunFiles, Manifest]]) -> Shards:
    by_index = {m.shard[0]: (f, m) for f, m in found if m.shard}
    counts = {m.shard[1] for _, m in found if m.shard}
    if len(counts) > 1:
        raise UsageError(f"{run} has shards of {' and '.join(str(c) for c in sorted(counts))}", "remove the old ones")
    total = counts.pop()
    missing = [f"{i}/{total}" for i in range(1, total + 1) if i not in by_index]
    if missing:
        raise UsageError(f"{run} lacks the shards {', '.join(missing)}", f"`run --shard {missing[0]}` makes the first")
    ordered = [by_index[i] for i in range(1, total + 1)]
    return Shards(tuple(f for f, _ in ordered), tuple(m for _, m in ordered))
