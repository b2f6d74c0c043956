"""Two runs on the same expressions: what changed, by how much, and whether it is more than chance.

Everything is paired: both runs are restricted to the expressions that they share, and the same images are resampled for
both. Differences are always second minus first.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from lens_bench.errors import DataError, UsageError
from lens_bench.report.changes import LISTED, Changes, Group, Resampling, changed_samples, headline
from lens_bench.report.runset import ScoredRun, check_same_truth, load_run, runs_by_split, shortened
from lens_bench.run.files import JsonObject, RunFiles
from lens_bench.scoring.stats import DRAWS, common_rows


@dataclass(frozen=True, slots=True)
class Side:
    """Which run stands on one side."""

    label: str
    model: str
    weight_digest: str
    path: str
    n_samples: int
    complete: bool

    @classmethod
    def of(cls, run: ScoredRun) -> Side:
        """Describe a run."""
        manifest = run.manifest
        return cls(
            run.label, manifest.model, manifest.weight_digest, str(run.files.root), len(run.scores), run.complete
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs on one split.

    Attributes:
        n_shared: Expressions that both answered; all numbers are over them.
        only_a: Expressions that only the first run answered, ``only_b`` only the second.
        notes: What a reader must know before believing the numbers.
    """

    suite: str
    split: str
    protocol: str
    a: Side
    b: Side
    n_shared: int
    only_a: int
    only_b: int
    overall: Group
    by_tag: tuple[Group, ...]
    samples: Changes
    notes: tuple[str, ...]

    @property
    def headline(self) -> str:
        """Flat name of the metric that stands for the whole: cIoU, or box accuracy where no masks were predicted."""
        return headline(self.overall)

    def to_json(self) -> JsonObject:
        """Everything, as fractions."""
        return {
            "suite": self.suite,
            "split": self.split,
            "protocol": self.protocol,
            "a": asdict(self.a),
            "b": asdict(self.b),
            "n_shared": self.n_shared,
            "only_a": self.only_a,
            "only_b": self.only_b,
            "overall": self.overall.to_json(),
            "by_tag": [g.to_json() for g in self.by_tag],
            "samples": self.samples.to_json(),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class ComparisonSet:
    """Two models on every split that both were run on.

    Attributes:
        only_a: ``suite split`` of runs without a partner on the other side, ``only_b`` likewise.
        left_out: The errors of runs below the folders that cannot be read.
    """

    comparisons: tuple[Comparison, ...]
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()
    left_out: tuple[DataError, ...] = ()

    def to_json(self) -> JsonObject:
        """Everything, as fractions."""
        return {
            "comparisons": [c.to_json() for c in self.comparisons],
            "only_a": list(self.only_a),
            "only_b": list(self.only_b),
            "left_out": [error.message for error in self.left_out],
        }


# ---------------------------------------------------------------------------------------------- runs


def compare_paths(
    a: Path, b: Path, *, protocol: str | None = None, listed: int = LISTED, draws: int = DRAWS, seed: int = 0
) -> ComparisonSet:
    """Compare two RUN arguments: run directories, or folders with the runs of one model on several splits.

    A damaged run among several is left out and named.

    Raises:
        UsageError: An argument is no run, holds several models, or the two have no split in common.
        DataError: As ``compare``, where no split is left to compare.
    """
    left_out: list[DataError] = []
    first, second = runs_by_split(a, left_out), runs_by_split(b, left_out)
    shared = [key for key in first if key in second]
    if not shared:
        names = [shortened(" ".join(key) for key in side) for side in (first, second)]
        raise UsageError(f"nothing to compare: {a} is on {names[0]}, {b} on {names[1]}", "name runs of one split")
    found: list[Comparison] = []
    damaged: list[DataError] = []
    for key in shared:
        try:
            pair = first[key], second[key]
            found.append(compare(*pair, protocol=protocol, listed=listed, draws=draws, seed=seed))
        except DataError as error:
            damaged.append(error)
    if not found:
        raise damaged[0]
    return ComparisonSet(
        tuple(found),
        tuple(" ".join(key) for key in first if key not in second),
        tuple(" ".join(key) for key in second if key not in first),
        (*left_out, *damaged),
    )


def compare(
    a: RunFiles,
    b: RunFiles,
    *,
    protocol: str | None = None,
    listed: int = LISTED,
    draws: int = DRAWS,
    seed: int = 0,
) -> Comparison:
    """Compare two runs of one split.

    Args:
        a: The run to compare with.
        b: The run in question; differences are ``b - a``.
        protocol: One that both are scored under; by default each run's own, which must be the same.
        listed: Number of most changed samples kept in each direction.
        draws: Resamples of the intervals.
        seed: Of the draws.

    Raises:
        UsageError: The runs are on different splits, scored under different protocols, or share no expression.
        DataError: A run is damaged, or the two were not run on the same ground truth.
    """
    return compare_runs(load_run(a, protocol), load_run(b, protocol), listed=listed, draws=draws, seed=seed)


def compare_runs(
    first: ScoredRun, second: ScoredRun, *, listed: int = LISTED, draws: int = DRAWS, seed: int = 0
) -> Comparison:
    """As ``compare``, for runs that were already read."""
    check_comparable(first, second)
    tables = common_rows(first.table, second.table)
    if not len(tables[0]):
        raise UsageError(f"{first.label} and {second.label} answered no expression in common on {first.where}")
    resampling = Resampling(first.protocol, draws, seed)
    return Comparison(
        suite=first.manifest.suite,
        split=first.manifest.split,
        protocol=first.protocol.name,
        a=Side.of(first),
        b=Side.of(second),
        n_shared=len(tables[0]),
        only_a=len(first.table) - len(tables[0]),
        only_b=len(second.table) - len(tables[0]),
        overall=resampling.group("all", *tables),
        by_tag=resampling.by_tag(*tables),
        samples=changed_samples(*tables, listed),
        notes=_notes(first, second),
    )


def check_comparable(first: ScoredRun, second: ScoredRun) -> None:
    """Refuse two runs of different splits, protocols or ground truth.

    Raises:
        UsageError: They are on different splits, or scored under different protocols.
        DataError: They were not run on the same annotations.
    """
    if first.where != second.where:
        raise UsageError(
            f"{first.label} is on {first.where}, {second.label} on {second.where}", "name runs of one split"
        )
    hashes = first.manifest.suite_hash, second.manifest.suite_hash
    if hashes[0] != hashes[1]:
        parts = "".join(f"; {run.label} covers {run.coverage}" for run in (first, second) if run.coverage)
        raise DataError(
            f"{first.label} and {second.label} have different ground truth: {first.where} has content hash "
            f"{hashes[0][:12]} in one and {hashes[1][:12]} in the other{parts}",
            "run both on the same data",
        )
    names = first.protocol.name, second.protocol.name
    if names[0] != names[1]:
        raise UsageError(
            f"{first.label} is scored under {names[0]}, {second.label} under {names[1]}",
            f"`lens-bench score RUN --protocol {names[0]}` for both, then --protocol {names[0]} here",
        )
    check_same_truth(first.scores, second.scores, f"{first.label} and {second.label}")


def _notes(first: ScoredRun, second: ScoredRun) -> tuple[str, ...]:
    notes = [f"{run.label} is not on the whole split: {run.coverage}" for run in (first, second) if run.coverage]
    notes += [f"{run.label} sees the ground truth" for run in (first, second) if run.manifest.sees_ground_truth]
    if first.files.root.resolve() == second.files.root.resolve():
        notes.append("both sides are the same run")
    return tuple(notes)
