"""Runs as the report reads them: manifest, summary and scores of a directory, checked against one another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from lens_bench.errors import DataError, UsageError
from lens_bench.records import Score
from lens_bench.run.files import JsonObject, RunFiles, find_runs
from lens_bench.run.manifest import Manifest, read_manifest
from lens_bench.run.results import read_results
from lens_bench.scoring.protocols import Protocol
from lens_bench.scoring.table import ScoreTable

_SHOWN = 4


@dataclass(frozen=True, slots=True)
class ScoredRun:
    """A run directory, read.

    Attributes:
        protocol: Under which ``scores`` were computed; by default the run's own.
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


def load_run(files: RunFiles, protocol: str | None = None) -> ScoredRun:
    """Read a run directory.

    Args:
        files: The directory.
        protocol: One that the run is scored under; its own by default.

    Raises:
        UsageError: It is none, or there is no such protocol.
        DataError: As ``run.results.read_results``.
    """
    manifest = read_manifest(files.require())
    found = read_results(files, manifest, protocol)
    return ScoredRun(files, manifest, found.summary, found.protocol, found.scores, found.table)


def runs_at(path: Path, left_out: list[DataError]) -> tuple[RunFiles, ...]:
    """The runs that a RUN argument names: the directory itself, or every merged run below a folder.

    Args:
        path: The argument.
        left_out: Gets the error of every run below a folder whose manifest cannot be read.

    Raises:
        UsageError: There is none, or only shards of a run that was not merged.
        DataError: No run below the folder can be read.
    """
    files = RunFiles(path)
    if files.manifest.is_file():
        return (files,)
    found = find_runs(path) if path.is_dir() else []
    whole: list[RunFiles] = []
    damaged: list[DataError] = []
    for run in found:
        try:
            if read_manifest(run).shard is None:
                whole.append(run)
        except DataError as error:
            damaged.append(error)
    if not whole and damaged:
        raise damaged[0]
    left_out += damaged
    if whole:
        return tuple(whole)
    if found:
        raise UsageError(f"{path} holds {len(found)} shards of a run and no whole run", "merge the shards first")
    raise UsageError(
        f"{path} is not a run directory and holds none",
        "a run directory is <out>/<suite>/<split>/<model>-<digest>: it holds manifest.json",
    )


def runs_by_split(path: Path, left_out: list[DataError]) -> dict[tuple[str, str], RunFiles]:
    """The runs of one model that a RUN argument names, by (suite, split).

    Args:
        path: The argument.
        left_out: As of ``runs_at``.

    Raises:
        UsageError: There is no run, there are runs of several models, or two runs of one split.
        DataError: As ``runs_at``.
    """
    runs = {files: read_manifest(files) for files in runs_at(path, left_out)}
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
