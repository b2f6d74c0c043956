"""Differences between two tables of scores with the same rows: by metric, and expression by expression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from lens_bench.run.files import JsonObject
from lens_bench.scoring.protocols import Protocol
from lens_bench.scoring.ratios import ratios
from lens_bench.scoring.stats import DRAWS, PairedDelta, common_rows, paired_delta
from lens_bench.scoring.table import Floats, ScoreTable

LISTED = 10  # changed samples listed in each direction


@dataclass(frozen=True, slots=True)
class Change:
    """One metric in both runs.

    Attributes:
        metric: Flat name, see ``scoring.ratios``.
        a: Value of the first run over the shared expressions, ``b`` of the second; None where it does not apply.
        paired: Difference with its interval; None where it does not apply to both, or with fewer than two images.
    """

    metric: str
    a: float | None
    b: float | None
    paired: PairedDelta | None

    @property
    def delta(self) -> float | None:
        """Second minus first; None where the metric does not apply to both."""
        return None if self.a is None or self.b is None else self.b - self.a

    def to_json(self) -> JsonObject:
        """Flat object; without an interval its statistical fields are null."""
        p = self.paired
        return {
            "metric": self.metric,
            "a": self.a,
            "b": self.b,
            "delta": self.delta,
            "ci95": list(p.ci95) if p else None,
            "p_value": p.p_value if p else None,
            "mde": p.mde if p else None,
        }


@dataclass(frozen=True, slots=True)
class Group:
    """All expressions, or those of one tag."""

    name: str
    n_samples: int
    n_images: int
    changes: tuple[Change, ...]

    def change(self, metric: str) -> Change:
        """The change of one metric. Raises ``KeyError`` where there is no such metric."""
        for change in self.changes:
            if change.metric == metric:
                return change
        raise KeyError(metric)

    def to_json(self) -> JsonObject:
        """Counts and every metric."""
        return {
            "name": self.name,
            "n_samples": self.n_samples,
            "n_images": self.n_images,
            "metrics": [c.to_json() for c in self.changes],
        }


@dataclass(frozen=True, slots=True)
class SampleChange:
    """One expression whose score differs: IoU of the masks, or of the boxes where masks do not apply."""

    sample_id: str
    image_id: str
    a: float
    b: float
    tags: tuple[str, ...]

    @property
    def delta(self) -> float:
        """Second minus first."""
        return self.b - self.a


@dataclass(frozen=True, slots=True)
class Changes:
    """How many expressions got better and worse, and the extremes of both.

    Attributes:
        measure: ``iou`` or ``box_iou``.
        worst: Largest losses first; only losses.
        best: Largest gains first; only gains.
    """

    measure: str
    better: int
    worse: int
    same: int
    worst: tuple[SampleChange, ...]
    best: tuple[SampleChange, ...]

    def to_json(self) -> JsonObject:
        """Counts and samples."""
        return {
            "measure": self.measure,
            "better": self.better,
            "worse": self.worse,
            "same": self.same,
            "worst": [asdict(s) | {"delta": s.delta} for s in self.worst],
            "best": [asdict(s) | {"delta": s.delta} for s in self.best],
        }


@dataclass(frozen=True, slots=True)
class Resampling:
    """How differences get their intervals: the protocol of both runs, number of draws, and their seed."""

    protocol: Protocol
    draws: int = DRAWS
    seed: int = 0

    def change(self, metric: str, first: ScoreTable, second: ScoreTable) -> Change:
        """One metric of two tables with the same rows (see ``common_rows``). Raises ``UsageError`` for no metric."""
        return self._changes([metric], first, second)[0]

    def group(self, name: str, first: ScoreTable, second: ScoreTable) -> Group:
        """Every metric of two tables with the same rows."""
        counted = first.counted | second.counted
        changes = self._changes(list(ratios(first, self.protocol)), first, second)
        return Group(name, int(counted.sum()), first.rows(counted).n_images, changes)

    def _changes(self, metrics: Sequence[str], first: ScoreTable, second: ScoreTable) -> tuple[Change, ...]:
        values = ratios(first, self.protocol), ratios(second, self.protocol)
        changes: list[Change] = []
        for metric in metrics:
            paired = paired_delta(first, second, metric, self.protocol, draws=self.draws, seed=self.seed)
            a, b = values[0][metric], values[1][metric]
            changes.append(Change(metric, a.value if a else None, b.value if b else None, paired))
        return tuple(changes)

    def by_tag(self, first: ScoreTable, second: ScoreTable) -> tuple[Group, ...]:
        """``group`` for every tag, in alphabetical order."""
        return tuple(self.group(tag, *common_rows(first, rows)) for tag, rows in second.by_tag().items())


def headline(group: Group) -> str:
    """``ciou``, or ``box_acc_0.5`` where masks do not apply to both runs."""
    ciou = group.change("ciou")
    return "ciou" if ciou.a is not None and ciou.b is not None else "box_acc_0.5"


def changed_samples(first: ScoreTable, second: ScoreTable, listed: int = LISTED) -> Changes:
    """Which expressions differ, in two tables with the same rows; by box where no row has a mask to compare.

    Rows that the protocol leaves out of either run are left out here.
    """
    masks = bool(first.has_mask.any() or second.has_mask.any()) or np.isnan(first.box_iou).all()
    measure, read = ("iou", _iou) if masks else ("box_iou", _box_iou)
    a, b = read(first), read(second)
    known = ~(np.isnan(a) | np.isnan(b)) & first.counted & second.counted
    delta = np.where(known, b - a, 0.0)
    order = np.argsort(delta, kind="stable")  # rows are in the order of sample ids, so ties are too
    losses = [int(i) for i in order if delta[i] < 0][:listed]
    gains = [int(i) for i in np.argsort(-delta, kind="stable") if delta[i] > 0][:listed]

    def pick(rows: Sequence[int]) -> tuple[SampleChange, ...]:
        return tuple(
            SampleChange(second.sample_ids[i], second.image_ids[i], float(a[i]), float(b[i]), second.tags[i])
            for i in rows
        )

    better, worse = int((delta > 0).sum()), int((delta < 0).sum())
    return Changes(measure, better, worse, int(known.sum()) - better - worse, pick(losses), pick(gains))


def _iou(table: ScoreTable) -> Floats:
    return table.iou


def _box_iou(table: ScoreTable) -> Floats:
    return np.nan_to_num(table.box_iou)  # no box where one is wanted is a miss, as in the box metrics
