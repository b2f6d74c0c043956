"""Two folders of runs, each of several trainings of one method: do the methods differ, or the seeds?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from lens_bench.errors import DataError, UsageError
from lens_bench.report.compare import check_comparable
from lens_bench.report.runset import ScoredRun, load_run, runs_at
from lens_bench.run.files import JsonObject, RunFiles
from lens_bench.run.manifest import read_manifest
from lens_bench.scoring.repeats import RepeatedDelta, repeated_delta
from lens_bench.scoring.stats import DRAWS, HEADLINE


@dataclass(frozen=True, slots=True)
class Repeats:
    """Two methods on one split.

    Attributes:
        a: Labels of the first side's runs, ``b`` of the second's.
        n_samples: Expressions of every run.
        changes: One per metric that applies to all runs.
    """

    suite: str
    split: str
    protocol: str
    a: tuple[str, ...]
    b: tuple[str, ...]
    n_samples: int
    changes: tuple[RepeatedDelta, ...]

    def to_json(self) -> JsonObject:
        """Everything, as fractions."""
        return asdict(self)


def compare_repeats(
    a: Path, b: Path, *, protocol: str | None = None, draws: int = DRAWS, seed: int = 0
) -> tuple[Repeats, ...]:
    """Compare the runs below two folders, on every split that both have.

    A damaged run is an error and not left out: without it the mean would be of other trainings than were asked for.

    Raises:
        UsageError: A folder holds no run, the same weights twice on a split, runs that are not complete or not scored
            alike; or the two have no split in common.
        DataError: A run is damaged, or they were not run on the same ground truth.
    """
    first, second = _by_split(a), _by_split(b)
    shared = [key for key in first if key in second]
    if not shared:
        raise UsageError(f"{a} and {b} have no split in common", "run both on the same splits")
    return tuple(_compare(first[key], second[key], protocol, draws, seed) for key in shared)


def _by_split(folder: Path) -> dict[tuple[str, str], list[RunFiles]]:
    found: dict[tuple[str, str], list[RunFiles]] = {}
    seen: dict[tuple[str, str, str], RunFiles] = {}
    damaged: list[DataError] = []
    runs = runs_at(folder, damaged)
    if damaged:
        raise damaged[0]
    for files in runs:
        manifest = read_manifest(files)
        key = (manifest.suite, manifest.split, manifest.weight_digest)
        if key in seen:
            raise UsageError(
                f"{folder} holds two runs of the same weights on {manifest.suite} {manifest.split}: "
                f"{seen[key].root} and {files.root}",
                "a repetition is another training; leave one of them out",
            )
        seen[key] = files
        found.setdefault(key[:2], []).append(files)
    return found


def _compare(a: list[RunFiles], b: list[RunFiles], protocol: str | None, draws: int, seed: int) -> Repeats:
    first, second = [load_run(files, protocol) for files in a], [load_run(files, protocol) for files in b]
    one = first[0]
    for run in [*first, *second]:
        _require_whole(run)
        check_comparable(one, run)
    tables = [run.table for run in first], [run.table for run in second]
    found = [repeated_delta(*tables, name, one.protocol, draws=draws, seed=seed) for name in HEADLINE]
    return Repeats(
        suite=one.manifest.suite,
        split=one.manifest.split,
        protocol=one.protocol.name,
        a=tuple(run.label for run in first),
        b=tuple(run.label for run in second),
        n_samples=len(one.table),
        changes=tuple(change for change in found if change is not None),
    )


def _require_whole(run: ScoredRun) -> None:
    if not run.complete:
        raise UsageError(f"{run.files.root} is not complete", "the same command again continues it")
