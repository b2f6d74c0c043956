"""The regression gate: is a run worse than a reference by more than a margin, or can that not be told?

Three answers. ``regression``: the paired difference is below ``-margin`` and the upper bound of its clustered 95 %
interval is below zero, so that a loss is there, is large enough to matter and is no chance. ``pass``: the whole
interval lies at or above ``-margin``, so that a larger loss is ruled out. ``inconclusive``: anything else, which mostly
means too few images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from lens_bench.errors import DataError, GateError, UsageError
from lens_bench.records import Score
from lens_bench.report.changes import Change, Changes, Group, Resampling, changed_samples
from lens_bench.report.figures import interval, percent, points, title
from lens_bench.report.gate_reference import (
    DEFAULT_MARGIN,
    Reference,
    check_complete,
    make_reference,
    read_reference,
    write_reference,
)
from lens_bench.report.gate_speed import LOWER_IS_BETTER, SpeedCheck, SpeedFigures, judge_speed
from lens_bench.report.runset import ScoredRun, check_same_truth, load_run, shortened
from lens_bench.run.files import JsonObject, RunFiles
from lens_bench.scoring.stats import DRAWS
from lens_bench.scoring.table import ScoreTable

Answer: TypeAlias = Literal["pass", "inconclusive", "regression"]


@dataclass(frozen=True, slots=True)
class Quality:
    """The accuracy part of a verdict.

    Attributes:
        change: Reference (``a``) and run (``b``) in the metric that is judged.
        margin: Largest accepted loss, as a fraction.
        reason: Why the answer is what it is, in a sentence.
    """

    change: Change
    margin: float
    n_samples: int
    n_images: int
    answer: Answer
    reason: str

    @property
    def mde(self) -> float | None:
        """Smallest true difference that such a comparison finds with 80 % power; None where it cannot be estimated.

        Two runs with the same answers say nothing about how much answers vary.
        """
        paired = self.change.paired
        return paired.mde if paired is not None and paired.standard_error > 0 else None

    @property
    def weak(self) -> bool:
        """Whether the gate would overlook losses larger than its margin."""
        return self.change.paired is None or (self.mde is not None and self.mde > self.margin)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate says about a run.

    Attributes:
        run: Label of the run, ``reference`` of the run that the reference was made of.
        speed: One entry a tolerance of the reference.
        by_tag: The judged metric and all others by tag; not judged.
        samples: The most changed expressions.
    """

    suite: str
    split: str
    protocol: str
    run: str
    run_path: str
    reference: str
    reference_path: str
    quality: Quality
    speed: tuple[SpeedCheck, ...]
    by_tag: tuple[Group, ...]
    samples: Changes

    @property
    def answer(self) -> Answer:
        """The answer on accuracy; ``regression`` also where a speed figure is beyond its tolerance."""
        if any(check.answer == "regression" for check in self.speed):
            return "regression"
        return self.quality.answer

    @property
    def undecided(self) -> tuple[str, ...]:
        """What the gate was asked to judge and could not."""
        parts = (self.quality.change.metric,) if self.quality.answer == "inconclusive" else ()
        return parts + tuple(check.name for check in self.speed if check.answer == "not comparable")

    def failed(self, strict: bool = False) -> bool:
        """Whether the exit code is 3: on a regression, and with ``strict`` on anything that could not be judged."""
        return self.answer == "regression" or (strict and bool(self.undecided))

    def enforce(self, strict: bool = False) -> None:
        """Raise ``GateError`` where the gate failed."""
        if not self.failed(strict):
            return
        reasons = [self.quality.reason] if self.quality.answer == "regression" else []
        reasons += [describe_speed(c) for c in self.speed if c.answer == "regression"]
        if not reasons:
            reasons = [f"--strict: could not be judged: {', '.join(self.undecided)}"]
        hint = "`--update` accepts this run as the new reference; `lens-bench report RUN` shows its samples"
        raise GateError(f"{self.run} on {self.suite} {self.split}: {'; '.join(reasons)}", hint)

    def to_json(self) -> JsonObject:
        """Everything, as fractions."""
        quality = self.quality
        return {
            "answer": self.answer,
            "undecided": list(self.undecided),
            "suite": self.suite,
            "split": self.split,
            "protocol": self.protocol,
            "run": self.run,
            "reference": self.reference,
            "quality": {
                **quality.change.to_json(),
                "mde": quality.mde,
                "margin": quality.margin,
                "n_samples": quality.n_samples,
                "n_images": quality.n_images,
                "answer": quality.answer,
                "reason": quality.reason,
            },
            "speed": [asdict(check) for check in self.speed],
            "by_tag": [g.to_json() for g in self.by_tag],
            "samples": self.samples.to_json(),
        }


def gate(run: RunFiles, against: Path, *, protocol: str | None = None, draws: int = DRAWS, seed: int = 0) -> Verdict:
    """Judge a run against a reference file.

    Args:
        run: The run in question.
        against: A reference, as ``update`` writes it.
        protocol: One that the run is scored under; its own by default. It must be the reference's.
        draws: Resamples of the interval.
        seed: Of the draws.

    Raises:
        UsageError: The run is on another split than the reference, or scored under another protocol.
        DataError: Run or reference is damaged or incomplete, they were made on different data, or one has expressions
            that the other lacks.
    """
    return judge(load_run(run, protocol), read_reference(against), against, draws=draws, seed=seed)


def update(
    run: RunFiles,
    path: Path,
    *,
    margin: float | None = None,
    tolerances: Mapping[str, float] | None = None,
    metric: str | None = None,
    protocol: str | None = None,
    allow_lower: bool = True,
) -> Reference:
    """Make a run the reference. What is not given is kept from the file that is replaced, if there is one.

    Args:
        run: A complete run.
        path: The reference file; written atomically.
        margin: Largest accepted loss, as a fraction.
        tolerances: Limits of new / old by speed figure; see ``gate_speed``.
        metric: Flat name of the judged metric.
        protocol: One that the run is scored under; its own by default.
        allow_lower: Replace a reference whose judged metric is higher, or that judges another metric or protocol.

    Raises:
        UsageError: The metric, margin or a tolerance does not fit the run, the old file is of another split, or the
            run would lower the reference and ``allow_lower`` is False.
        DataError: The run is damaged or incomplete, or the old file is not a reference.
    """
    old = read_reference(path) if path.exists() else None
    scored = load_run(run, protocol)
    if old and (old.suite, old.split) != (scored.manifest.suite, scored.manifest.split):
        raise UsageError(
            f"{path} is a reference of {old.suite} {old.split}, {scored.label} is on {scored.where}",
            "name another file",
        )
    reference = make_reference(
        scored,
        margin=margin if margin is not None else old.margin if old else DEFAULT_MARGIN,
        tolerances=tolerances if tolerances is not None else old.tolerances if old else {},
        metric=metric if metric is not None else old.metric if old else "ciou",
    )
    if old is not None and not allow_lower:
        _refuse_lower(old, reference, path)
    write_reference(path, reference)
    return reference


def _refuse_lower(old: Reference, new: Reference, path: Path) -> None:
    if (old.metric, old.protocol) != (new.metric, new.protocol):
        change = f"judge {title(new.metric)} ({new.protocol}) instead of {title(old.metric)} ({old.protocol})"
    elif old.value is not None and (new.value is None or new.value < old.value):
        change = f"lower {title(new.metric)} from {percent(old.value)} to {percent(new.value)}"
    else:
        return
    raise UsageError(f"{path}: the update would {change}", "add --yes to replace the reference all the same")


def judge(run: ScoredRun, reference: Reference, path: Path, *, draws: int = DRAWS, seed: int = 0) -> Verdict:
    """As ``gate``, for a run and a reference that were already read. ``path`` is where the reference was read from."""
    check_complete(run)
    old = reference.samples.scores()
    _check_comparable(run, reference, path, old)
    tables = ScoreTable.of(old), run.table
    resampling = Resampling(run.protocol, draws, seed)
    return Verdict(
        suite=reference.suite,
        split=reference.split,
        protocol=reference.protocol,
        run=run.label,
        run_path=str(run.files.root),
        reference=f"{reference.model}-{reference.digest}",
        reference_path=str(path),
        quality=judge_quality(*tables, reference.metric, reference.margin, resampling),
        speed=judge_speed(reference.speed, SpeedFigures.of(run.perf), reference.tolerances),
        by_tag=resampling.by_tag(*tables),
        samples=changed_samples(*tables),
    )


def judge_quality(
    reference: ScoreTable, run: ScoreTable, metric: str, margin: float, resampling: Resampling
) -> Quality:
    """Judge one metric of two tables with the same rows.

    Raises:
        UsageError: The metric does not apply to the run.
    """
    change = resampling.change(metric, reference, run)
    if change.delta is None:
        raise UsageError(f"{title(metric)} does not apply to both run and reference", "were masks predicted by both?")
    answer, reason = _decide(change, margin)
    counted = reference.counted | run.counted
    return Quality(change, margin, int(counted.sum()), run.rows(counted).n_images, answer, reason)


def _decide(change: Change, margin: float) -> tuple[Answer, str]:
    name, delta = title(change.metric), points(change.delta)
    if change.paired is None:
        return "inconclusive", f"{name} changed by {delta} points; fewer than two images, so there is no interval"
    low, high = change.paired.ci95
    found = f"{name} changed by {delta} points (95 % interval {interval((low, high))})"
    loss = f"a loss of more than {percent(margin)} points"
    if change.paired.delta < -margin and high < 0:
        return "regression", f"{found}: {loss}, and not by chance"
    if low >= -margin:
        return "pass", f"{found}: {loss} is ruled out"
    return "inconclusive", f"{found}: {loss} can be neither shown nor ruled out with these samples"


def describe_speed(check: SpeedCheck) -> str:
    """One speed check as a sentence."""
    name = check.name.replace("_", " ")
    if check.ratio is None:
        return f"{name}: not comparable, {check.reason}"
    side = "at most" if check.name in LOWER_IS_BETTER else "at least"
    found = f"{check.value:g} against {check.reference:g}, {check.ratio:.3f} times"
    return f"{name}: {found}; {side} {check.tolerance:g} allowed"


def _check_comparable(run: ScoredRun, reference: Reference, path: Path, old: Sequence[Score]) -> None:
    if (reference.suite, reference.split) != (run.manifest.suite, run.manifest.split):
        raise UsageError(f"{run.label} is on {run.where}, {path} is of {reference.suite} {reference.split}")
    if reference.suite_hash != run.manifest.suite_hash:
        raise DataError(
            f"{run.label} has different ground truth: {run.where} has content hash {run.manifest.suite_hash[:12]}, "
            f"{path} was made on {reference.suite_hash[:12]}",
            "run on the data of the reference, or accept the new data with --update",
        )
    if reference.protocol != run.protocol.name:
        raise UsageError(
            f"{run.label} is scored under {run.protocol.name}, {path} under {reference.protocol}",
            f"`lens-bench score {run.files.root} --protocol {reference.protocol}`, "
            f"then `gate --protocol {reference.protocol}`",
        )
    ids = {s.sample_id for s in old}, set(run.table.sample_ids)
    for what, names in (("lacks", ids[0] - ids[1]), ("has, and the reference lacks,", ids[1] - ids[0])):
        if names:
            limit = f"--limit {reference.limit}" if reference.limit is not None else "no --limit"
            raise DataError(
                f"{run.label} {what} {len(names)} expressions: {shortened(sorted(names))}",
                f"the reference was made with {limit}; run with the same, or make a new reference with --update",
            )
    check_same_truth(old, run.scores, f"{path} and {run.label}")
