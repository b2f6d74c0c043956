"""Every metric is a ratio of two sums over expressions; here is which ones.

This one form gives the point value (``metrics.py``) and, with the sums of each image resampled together, its interval
(``stats.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lens_bench.scoring.protocols import PRECISION_THRESHOLDS, Protocol
from lens_bench.scoring.table import Bools, Floats, Ints, ScoreTable

BOX_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class Ratio:
    """``sum(numerator) / (sum(denominator) + epsilon)``; both arrays have one entry per row of the table."""

    numerator: Floats
    denominator: Floats
    epsilon: float = 0.0

    @property
    def value(self) -> float | None:
        """The metric; None where the denominator is zero, that is, where nothing is there to be measured."""
        below = float(self.denominator.sum()) + self.epsilon
        return float(self.numerator.sum()) / below if below > 0 else None


def precision_name(threshold: float) -> str:
    """``precision_0.5``: the flat name of one precision."""
    return f"precision_{threshold}"


def ratios(table: ScoreTable, protocol: Protocol) -> Mapping[str, Ratio | None]:
    """All metrics of a set of scores by flat name. None where a metric does not apply.

    Mask metrics do not apply where the model answered with boxes alone, box metrics where no answer or no annotation
    holds a box, N-acc and T-acc where no expression is without a target. A model that answered nothing scores 0 on
    masks: it is a model that fails, not one that does something else.

    Rates are shares of all rows, the others run over the rows that the protocol counts. The rate of answers that hold
    numbers but no box applies where there is one: most models say no boxes.
    """
    every = np.ones(len(table), dtype=np.bool_)
    none_without_target = not (table.counted & table.no_target).any()
    empty, failed = table.predicted_empty, table.error  # a failure is no answer, right or wrong: it counts as wrong
    return {
        **_mask_ratios(table, protocol),
        **_box_ratios(table, protocol),
        "n_acc": None if none_without_target else _share(empty & ~failed, table.counted & table.no_target),
        "t_acc": None if none_without_target else _share(~empty & ~failed, table.counted & ~table.no_target),
        "no_mask_rate": _share(table.no_mask, every),
        "error_rate": _share(table.error, every),
        "unread_rate": _share(table.unread, every) if table.unread.any() else None,
    }


def _mask_ratios(table: ScoreTable, protocol: Protocol) -> dict[str, Ratio | None]:
    counted = table.counted
    names = ["ciou", "giou", *(precision_name(t) for t in PRECISION_THRESHOLDS), "boundary_iou"]
    if not table.kinds.masks or not counted.any():
        return dict.fromkeys(names)
    iou = np.where(counted, table.iou, 0.0)
    eligible = counted & ~table.no_target if protocol.precision_on == "targeted" else counted
    banded = counted & ~np.isnan(table.boundary_iou)
    found: dict[str, Ratio | None] = {
        "ciou": Ratio(_kept(table.intersection, counted), _kept(table.union, counted), protocol.ciou_epsilon),
        "giou": Ratio(iou, counted.astype(np.float64), protocol.mean_epsilon),
        "boundary_iou": Ratio(np.where(banded, table.boundary_iou, 0.0), banded.astype(np.float64)),
    }
    for threshold in PRECISION_THRESHOLDS:
        applies = threshold in protocol.precision_thresholds
        found[precision_name(threshold)] = _share(iou >= threshold, eligible) if applies else None
    return {name: found[name] for name in names}


def _box_ratios(table: ScoreTable, protocol: Protocol) -> dict[str, Ratio | None]:
    """Without boxes taken from masks every counted row is in the denominator, a null box being a wrong one."""
    known = table.counted & ~np.isnan(table.box_iou)
    if not table.kinds.boxes or not known.any():
        return {"box_acc_0.5": None, "mean_box_iou": None}
    eligible = known if protocol.pred_box_from_mask else table.counted
    iou = np.where(known, table.box_iou, 0.0)
    hit = iou >= BOX_THRESHOLD if protocol.box_inclusive else iou > BOX_THRESHOLD
    return {"box_acc_0.5": _share(hit, eligible), "mean_box_iou": Ratio(iou * eligible, eligible.astype(np.float64))}


def _share(hit: Bools, eligible: Bools) -> Ratio:
    return Ratio((hit & eligible).astype(np.float64), eligible.astype(np.float64))


def _kept(values: Ints, counted: Bools) -> Floats:
    return np.where(counted, values, 0).astype(np.float64)
