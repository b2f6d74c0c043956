"""How numbers are written where people read them: percent for values, points for differences."""

from __future__ import annotations

_TITLES = {
    "ciou": "cIoU",
    "giou": "gIoU",
    "boundary_iou": "Boundary IoU",
    "box_acc_0.5": "Box accuracy @0.5",
    "mean_box_iou": "Mean box IoU",
    "n_acc": "N-acc",
    "t_acc": "T-acc",
    "no_mask_rate": "Without an answer",
    "error_rate": "Errors",
    "unread_rate": "Numbers but no box",
}
NOTHING = "–"


def title(metric: str) -> str:
    """A metric's name in the field's spelling: ``cIoU``, ``P@0.7``."""
    if metric.startswith("precision_"):
        return f"P@{metric.removeprefix('precision_')}"
    return _TITLES.get(metric, metric)


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction in percent, without the sign: ``71.25``."""
    return NOTHING if value is None else f"{100 * value:.{digits}f}"


def points(value: float | None, digits: int = 2) -> str:
    """A difference of fractions in points, with its sign: ``+0.25``; a difference that rounds to nothing has none."""
    if value is None:
        return NOTHING
    text = f"{100 * value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def interval(ends: tuple[float, float] | None, digits: int = 2) -> str:
    """An interval of differences in points: ``−0.31 to +0.12``."""
    return NOTHING if ends is None else f"{points(ends[0], digits)} to {points(ends[1], digits)}"


def p_value(p: float | None) -> str:
    """Three digits, or that it is smaller."""
    if p is None:
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
