"""Putting the shards of a run together: the result is the run that one process would have made."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain, count, islice
from pathlib import Path

from lens_bench.atomic import write_text
from lens_bench.errors import DataError, UsageError
from lens_bench.records import Score
from lens_bench.run.files import JsonObject, RunFiles, find_runs
from lens_bench.run.journal import Journal, Lock, read, repair
from lens_bench.run.manifest import Manifest, check_same, read_manifest
from lens_bench.run.results import other_protocols, read_results, write_results

_SHOWN = 4


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
        UsageError: There are none, a run lacks one (the message names it), or merging would write outside the paths.
        DataError: A shard is damaged, or does not lie where shards lie.
    """
    groups: dict[Path, dict[Path, tuple[RunFiles, Manifest]]] = {}
    for path in paths:
        inside = path.resolve()
        for files in find_runs(inside):
            manifest = read_manifest(files)
            if manifest.shard:
                target = whole_of(files, manifest.shard).root
                if not target.is_relative_to(inside):
                    raise UsageError(
                        f"merging {files.root} would write to {target}, which is outside {path}",
                        f"name the run directory: `lens-bench merge {target}`",
                    )
                groups.setdefault(target, {})[files.root] = (files, manifest)
    if not groups:
        raise UsageError(f"no shards below {', '.join(str(p) for p in paths)}", "`run --shard i/n` makes them")
    return [_complete(run, list(found.values())) for run, found in sorted(groups.items())]


def whole_of(files: RunFiles, shard: tuple[int, int]) -> RunFiles:
    """The run directory that a shard belongs to.

    Args:
        files: The shard's, by an absolute path.
        shard: As in its manifest.

    Raises:
        DataError: It does not lie where shards lie, so that the folder above may be anybody's.
    """
    name = "{}of{}".format(*shard)
    if (files.root.parent.name, files.root.name) != ("shards", name):
        raise DataError(
            f"{files.manifest} is of the shard {shard[0]}/{shard[1]} but does not lie in shards/{name}",
            "a shard lies where `lens-bench run --shard` put it: <run>/shards/<i>of<n>",
        )
    return RunFiles(files.root.parents[1])


def merge(shards: Shards) -> tuple[RunFiles, tuple[JsonObject, ...]]:
    """Write the merged run into the directory that the shards lie in; the shards stay.

    The run's own protocol is that of the merged run that is there already, else that of the first shard. Other
    protocols are merged where every shard is scored under them.

    Returns:
        The merged run and its summaries, that of its own protocol first.

    Raises:
        DataError: A shard is not finished or not scored under the run's own protocol, its files do not belong together,
            or two hold the same expression.
        UsageError: Shards differ in a setting, one is in use, or the target holds another run.
    """
    target, whole = shards.target, _whole(shards)
    with ExitStack() as locks:
        for files in (target, *shards.files):
            locks.enter_context(Lock(files))
        if target.manifest.exists():
            stored = read_manifest(target)
            check_same(stored, whole, target)
            whole = replace(whole, protocol=stored.protocol)
        scores = {name: _scores(shards, name) for name in _protocols(shards, whole.protocol)}
        for files, own in zip(shards.files, scores[whole.protocol], strict=True):
            _check_predictions(files, own)
        _write_predictions(shards, target)
        _write_images(shards, target)
        whole.write(target)
        joined = {name: list(chain.from_iterable(parts)) for name, parts in scores.items()}
        written = write_results(target, whole, joined, None)
    return target, tuple(written.values())


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


def _protocols(shards: Shards, own: str) -> list[str]:
    """The run's own protocol, and all others that every shard is scored under."""
    pairs = list(zip(shards.files, shards.manifests, strict=True))
    known = [{manifest.protocol, *other_protocols(files, manifest)} for files, manifest in pairs]
    return [own, *sorted(set.intersection(*known) - {own})]


def _scores(shards: Shards, protocol: str) -> list[tuple[Score, ...]]:
    """The scores of every shard, all of them finished."""
    scores = []
    for files, manifest in zip(shards.files, shards.manifests, strict=True):
        found = read_results(files, manifest, None if protocol == manifest.protocol else protocol).scores
        if len(found) != manifest.n_samples:
            raise DataError(
                f"{files.root} has {len(found)} of {manifest.n_samples} expressions",
                "finish the shard first: the same command continues it",
            )
        scores.append(found)
    return scores


def _check_predictions(files: RunFiles, scores: Sequence[Score]) -> None:
    """A shard that was killed while it asked failed expressions again has scores of the earlier answers."""
    repair(files.predictions)
    scored = {(s.sample_id, s.status == "error") for s in scores}
    if scored != {(p.sample_id, p.status == "error") for p in read(files.predictions)}:
        raise DataError(
            f"{files.root}: predictions and scores are not of the same expressions and answers",
            "`lens-bench run` with the same options scores them again",
        )


def _write_predictions(shards: Shards, target: RunFiles) -> None:
    # Named as other temporary files are, so that whoever locks the folder next removes it if this process is killed.
    temporary = target.root / f".{target.predictions.name}.{os.getpid()}.tmp"
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
    if len(by_index) < total:  # which may be any number that a manifest says
        missing = [f"{i}/{total}" for i in islice((i for i in count(1) if i not in by_index), _SHOWN)]
        missing = missing[: total - len(by_index)]
        more = total - len(by_index) - len(missing)
        raise UsageError(
            f"{run} lacks the shards {', '.join(missing)}" + (f" and {more} more" if more else ""),
            f"`run --shard {missing[0]}` makes the first",
        )
    ordered = [by_index[i] for i in range(1, total + 1)]
    return Shards(tuple(f for f, _ in ordered), tuple(m for _, m in ordered))
