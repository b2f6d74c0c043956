"""What a leaderboard is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from lens_bench.errors import DataError

Kind: TypeAlias = Literal["measured", "published"]
KINDS: tuple[Kind, ...] = ("measured", "published")


@dataclass(frozen=True, slots=True)
class RowSpeed:
    """Speed of a measured run, or of the profile in its directory.

    Attributes:
        comparable: False where the figures stand beside no other run's; ``reasons`` say why.
        hardware: The fingerprint; speeds on different hardware are not compared.
        peak_memory_mb: In MiB, of the device where there is one, else of the process; ``memory_of`` says which.
        requests_per_s: Of a profile: the highest rate of requests that keeps ``bound``, e.g. ``p99=2s``.
        profiled: The figures are of ``profile.json``: throughput of its offline scenario, latencies of single-stream.
    """

    comparable: bool
    reasons: tuple[str, ...]
    hardware: str
    images_per_s: float | None
    expressions_per_s: float | None
    p50_ms: float | None
    p99_ms: float | None
    peak_memory_mb: float | None
    memory_of: Literal["device", "process", ""]
    requests_per_s: float | None = None
    bound: str = ""
    profiled: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One number of one model on one split.

    Attributes:
        subset: Tag within the split; empty for the whole of it.
        value: As a fraction; ``low`` and ``high`` are the ends of its 95 % interval.
        printed: A published value exactly as printed, in percent.
        protocol: Empty where a publication does not state one of ours.
        suite_hash: Of the split's content; empty for published rows, whose content nobody can check.
        distinct: What sets the row apart from others of the same model name, e.g. ``weights 1a2b3c4d``.
        variant: Digest of everything but suite and weights that can change an answer (settings and seed).
        complete: Every expression that the suite's card expects was asked and answered.
        oracle: The model sees the ground truth.
        disputed: A published number that contradicts its own source.
        rank: Place among the ``ranked`` rows of the same group, see ``ranking``; None for a row that is not ranked.
        notes: What a reader has to know.
        path: Run directory, as given.
    """

    kind: Kind
    model: str
    suite: str
    split: str
    subset: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    printed: str = ""
    protocol: str = ""
    suite_hash: str = ""
    weight_digest: str = ""
    digest: str = ""
    variant: str = ""
    distinct: str = ""
    date: str = ""
    speed: RowSpeed | None = None
    n_samples: int | None = None
    complete: bool = True
    oracle: bool = False
    disputed: bool = False
    verified: bool = True
    source: str = ""
    training: str = ""
    rank: int | None = None
    ranked: int | None = None
    notes: tuple[str, ...] = ()
    path: str = ""

    @property
    def cell(self) -> tuple[str, str, str, str]:
        """What the number is of: rows of one cell stand in one table."""
        return (self.suite, self.split, self.subset, self.metric)

    @property
    def group(self) -> tuple[str, ...]:
        """Only rows of the same group are ranked with each other."""
        return (self.kind, *self.cell, self.protocol, self.suite_hash)

    @property
    def rankable(self) -> bool:
        """Whether the row may be ranked at all."""
        return self.complete and self.verified and not self.oracle and not self.disputed


@dataclass(frozen=True, slots=True)
class Average:
    """The mean of a model's eight RefCOCO/+/g cells, as papers print it, and for measured models the pooled value.

    Attributes:
        mean8: Plain mean of the eight cells, a fraction.
        printed: The average given with the cells, in percent as printed; empty where there is none.
        pooled: cIoU of all expressions of the eight splits together, from the sums; ``low`` and ``high`` its interval.
            Large splits and large objects weigh more. None for published models and for other metrics.
        suite_hashes: Of the eight splits, in the order of the cells.
        weight_digests: One, or several for a model with a checkpoint or a predictions file per benchmark.
        one_submission: The digests are of predictions files that belong together.
        distinct: As of ``Row``.
    """

    kind: Kind
    model: str
    metric: str
    mean8: float
    printed: str = ""
    pooled: float | None = None
    low: float | None = None
    high: float | None = None
    protocol: str = ""
    suite_hashes: tuple[str, ...] = ()
    weight_digests: tuple[str, ...] = ()
    one_submission: bool = False
    distinct: str = ""
    oracle: bool = False
    disputed: bool = False
    verified: bool = True
    source: str = ""
    rank: int | None = None
    ranked: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def group(self) -> tuple[str, ...]:
        """Only averages of the same group are ranked with each other."""
        return (self.kind, self.metric, self.protocol, *self.suite_hashes)

    @property
    def value(self) -> float:
        """What is ranked."""
        return self.mean8

    @property
    def rankable(self) -> bool:
        """Whether the row may be ranked at all: eight cells of one checkpoint or submission, none of them in doubt."""
        one = self.one_submission or len(self.weight_digests) <= 1
        return self.verified and not self.oracle and not self.disputed and one


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """Everything that the writers write.

    Attributes:
        metric: The metric of all rows.
        rows: In the order of suites, splits, subsets; measured before published; best first.
        averages: Of the eight RefCOCO/+/g cells.
        notes: What was left out, and why.
        damaged: The errors of damaged runs; the notes name them, too.
    """

    metric: str
    rows: tuple[Row, ...]
    averages: tuple[Average, ...]
    notes: tuple[str, ...] = field(default=())
    damaged: tuple[DataError, ...] = ()
