"""From scores to the numbers of ``summary.json``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lens_bench.records import Score
from lens_bench.scoring.protocols import PRECISION_THRESHOLDS, Protocol
from lens_bench.scoring.ratios import precision_name, ratios
from lens_bench.scoring.score_json import score_from_json, score_to_json
from lens_bench.scoring.stats import DRAWS, intervals
from lens_bench.scoring.table import ScoreTable

__all__ = ["Metrics", "by_tag", "same_figures", "score_from_json", "score_to_json", "summarise", "table_of"]


@dataclass(frozen=True, slots=True)
class Metrics:
    """The numbers of one set of scores, as fractions; None where a metric does not apply.

    Attributes:
        n_samples: Expressions that the protocol counts.
        n_images: Images with at least one of them.
        ciou: Sum of intersections over sum of unions.
        giou: Mean IoU over expressions.
        precision: Share of expressions with IoU >= the threshold, by threshold.
        boundary_iou: Mean boundary IoU over expressions where truth or prediction has a boundary.
        box_acc: Share of boxes with IoU of at least 0.5 (above 0.5 where the protocol says so).
        mean_box_iou: Mean IoU of boxes.
        n_acc: Share of the expressions without a target that were answered with "nothing".
        t_acc: Share of the others that were not.
        no_mask_rate: Share of all expressions without an answer.
        error_rate: Share of all expressions where the model failed.
        unread_rate: Share of all expressions whose answer holds numbers of which no box was made; None where there is
            none.
    """

    n_samples: int
    n_images: int
    ciou: float | None
    giou: float | None
    precision: Mapping[float, float | None]
    boundary_iou: float | None
    box_acc: float | None
    mean_box_iou: float | None
    n_acc: float | None
    t_acc: float | None
    no_mask_rate: float | None
    error_rate: float | None
    unread_rate: float | None = None

    def to_json(self) -> dict[str, object]:
        """The ``metrics`` object of ``summary.json``. ``unread_rate`` is there only where some answer was not read."""
        return {
            "ciou": self.ciou,
            "giou": self.giou,
            "precision": {str(threshold): value for threshold, value in self.precision.items()},
            "box_acc_0.5": self.box_acc,
            "mean_box_iou": self.mean_box_iou,
            "n_acc": self.n_acc,
            "t_acc": self.t_acc,
            "no_mask_rate": self.no_mask_rate,
            "error_rate": self.error_rate,
            "boundary_iou": self.boundary_iou,
            **({"unread_rate": self.unread_rate} if self.unread_rate is not None else {}),
        }


def table_of(scores: Iterable[Score] | ScoreTable) -> ScoreTable:
    """The scores as columns; a table is returned as it is."""
    return scores if isinstance(scores, ScoreTable) else ScoreTable.of(scores)


def summarise(scores: Iterable[Score] | ScoreTable, protocol: Protocol) -> Metrics:
    """All metrics of a set of scores. The order of the scores does not matter.

    Raises:
        DataError: A sample is scored twice.
    """
    table = table_of(scores)
    value = {name: None if ratio is None else ratio.value for name, ratio in ratios(table, protocol).items()}
    return Metrics(
        n_samples=int(table.counted.sum()),
        n_images=table.rows(table.counted).n_images,
        ciou=value["ciou"],
        giou=value["giou"],
        precision={threshold: value[precision_name(threshold)] for threshold in PRECISION_THRESHOLDS},
        boundary_iou=value["boundary_iou"],
        box_acc=value["box_acc_0.5"],
        mean_box_iou=value["mean_box_iou"],
        n_acc=value["n_acc"],
        t_acc=value["t_acc"],
        no_mask_rate=value["no_mask_rate"],
        error_rate=value["error_rate"],
        unread_rate=value["unread_rate"],
    )


def by_tag(
    scores: Iterable[Score] | ScoreTable, protocol: Protocol, *, draws: int = DRAWS, seed: int = 0
) -> dict[str, dict[str, object]]:
    """The ``by_tag`` object of ``summary.json``: counts, metrics and intervals of every tag on its own rows."""
    groups: dict[str, dict[str, object]] = {}
    for tag, table in table_of(scores).by_tag().items():
        metrics = summarise(table, protocol)
        found = intervals(table, protocol, draws=draws, seed=seed)
        groups[tag] = {
            "n_samples": metrics.n_samples,
            "n_images": metrics.n_images,
            **metrics.to_json(),
            "ci95": {name: None if ci is None else list(ci) for name, ci in found.items()},
        }
    return groups


def same_figures(computed: object, stored: object) -> bool:
    """Whether a stored JSON value is what was computed, but for the last digits, which differ between machines."""
    if isinstance(computed, Mapping):
        if not isinstance(stored, Mapping) or computed.keys() != stored.keys():
            return False
        return all(same_figures(value, stored[key]) for key, value in computed.items())
    if isinstance(computed, float) and isinstance(stored, float):
        return math.isclose(computed, stored, rel_tol=0, abs_tol=1e-9)
    return type(computed) is type(stored) and computed == stored
