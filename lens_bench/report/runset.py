"""Runs as the report reads them: manifest, summary and scores of a directory, checked against one another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from lens_bench.errors import DataError, UsageError
from lens_bench.records import Score
from lens_bench.run.files import JsonObject, RunFiles, find_runs, read_json, read_scores
from lens_bench.run.manifest import Manifest, read_manifest
from lens_bench.scoring.protocols import Protocol, get_protocol
from lens_bench.scoring.table import ScoreTable

_SHOWN = 4


@dataclass(frozen=True, slots=True)
class ScoredRun:
    """A run directory, read.

    Attributes:
        protocol: Under which ``scores`` were computed; the manifest's is the one that the run was started with.
        scores: In the suite's order.
        table: The same scores as columns, in the order of sample ids.
    """

    files: RunFiles
    manifest: Manifest
    summary: JsonObject
    protocol: Protocol
    scores: tuple[Score, ...]
    table: ScoreTable

    @property
    def label(self) -> str:
        """``model-digest8``, the name of the directory that the run was made in."""
        return f"{self.manifest.model}-{self.manifest.digest}"

    @property
    def where(self) -> str:
        """``suite split``."""
        return f"{self.manifest.suite} {self.manifest.split}"

    @property
    def complete(self) -> bool:
        """Whether every expression of the run was answered."""
        return self.summary.get("complete") is True

    @property
    def coverage(self) -> str:
        """How much of the split the run covers; empty for all of it."""
        return self.manifest.coverage(len(self.scores))

    @property
    def perf(self) -> Mapping[str, object] | None:
        """The ``perf`` block of the summary."""
        return cast("Mapping[str, object] | None", self.summary.get("perf")) if self.manifest.timed else None


def load_run(files: RunFiles) -> ScoredRun:
    """Read a run directory.

    Raises:
        UsageError: It is none.
        DataError: A file is missing or damaged, or summary and scores are not of the same scoring.
    """
    manifest = read_manifest(files.require())
    summary = read_json(files.summary)
    scores = tuple(read_scores(files.scores))
    protocol = get_protocol(str(summary.get("protocol")))
    if summary.get("digest") != manifest.digest or summary.get("n_answered") != len(scores):
        raise DataError(
            f"{files.root}: summary.json, scores.jsonl and manifest.json do not belong together",
            f"`lens-bench score {files.root} --protocol {protocol.name}` writes them again",
        )
    return ScoredRun(files, manifest, summary, protocol, scores, ScoreTable.of(scores))


def runs_at(path: Path) -> tuple[RunFiles, ...]:
    """The runs that a RUN argument names: the directory itself, or every merged run below a folder.

    Raises:
        UsageError: There is none, or only shards of a run that was not merged.
    """
    files = RunFiles(path)
    if files.manifest.is_file():
        return (files,)
    found = find_runs(path) if path.is_dir() else []
    whole = tuple(f for f in found if read_manifest(f).shard is None)
    if whole:
        return whole
    if found:
        raise UsageError(f"{path} holds {len(found)} shards of a run and no whole run", "merge the shards first")
    raise UsageError(
        f"{path} is not a run directory and holds none",
        "a run directory is <out>/<suite>/<split>/<model>-<digest>: it holds manifest.json",
    )


def runs_by_split(path: Path) -> dict[tuple[str, str], RunFiles]:
    """The runs of one model that a RUN argument names, by (suite, split).

    Raises:
        UsageError: There is no run, there are runs of several models, or two runs of one split.
    """
    runs = {files: read_manifest(files) for files in runs_at(path)}
    models = sorted({m.model for m in runs.values()})
    if len(models) > 1:
        raise UsageError(
            f"{path} holds runs of {len(models)} models: {shortened(models)}",
            "name one run directory; several trainings of one method are compared with --repeats",
        )
    chosen: dict[tuple[str, str], RunFiles] = {}
    for files, manifest in runs.items():
        key = (manifest.suite, manifest.split)
        if key in chosen:
            raise UsageError(
                f"{path} holds two runs of {manifest.model} on {' '.join(key)}: "
                f"{chosen[key].root.name} and {files.root.name}",
                "name one run directory",
            )
        chosen[key] = files
    return chosen


def check_same_truth(first: Iterable[Score], second: Iterable[Score], what: str) -> None:
    """Refuse scores of shared samples that were not computed on the same annotation.

    Args:
        first: Scores of one run.
        second: Scores of the other, under the same protocol.
        what: Names the two in the message.

    Raises:
        DataError: Names the first sample whose annotated area, image or kind differs.
    """
    known = {s.sample_id: s for s in first}
    for score in second:
        other = known.get(score.sample_id)
        if other is None:
            continue
        for field in ("gt_area", "image_id", "no_target"):
            before, now = getattr(other, field), getattr(score, field)
            if before != now:
                raise DataError(
                    f"{what} have different ground truth: {score.sample_id} has {field} {before!r} and {now!r}",
                    "score both on the same data: `lens-bench score RUN_DIR --data-root DIR`",
                )


def shortened(names: Iterable[str]) -> str:
    """The first names of a list, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
