"""The distribution of IoU: precision over thresholds, and histograms."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lens_bench.report.plots.groups import Group, Shown
from lens_bench.report.plots.style import SOFT, drawing, label_ends, new_figure, save, short
from lens_bench.scoring.protocols import PRECISION_THRESHOLDS
from lens_bench.scoring.table import Floats

_CURVE = np.round(np.arange(0.5, 0.9501, 0.01), 2)
_BINS = np.linspace(0.0, 1.0, 21)


def precision_at(ious: Floats, thresholds: Floats) -> Floats:
    """Share of expressions with IoU of at least each threshold: float [thresholds]."""
    ordered = np.sort(ious)
    below = np.searchsorted(ordered, thresholds, side="left")
    shares: Floats = 1.0 - below / len(ordered)
    return shares


def draw_precision(group: Group, folder: Path) -> list[Path]:
    """Precision (share of expressions with IoU of at least X) for X from 0.5 to 0.95, a line for each run.

    Runs that predict no masks are left out; an empty list where that leaves none.
    """
    drawn = [(s, ious) for s in group.members if len(ious := _counted_ious(s, targeted=True))]
    if not drawn:
        return []
    marks = np.array(PRECISION_THRESHOLDS)
    with drawing():
        figure = new_figure(2.3)
        axes = figure.add_subplot()
        ends = []
        for shown, ious in drawn:
            look = shown.look
            shares = 100 * precision_at(ious, _CURVE)
            axes.plot(_CURVE, shares, color=look.colour, linestyle=look.line, clip_on=False)
            axes.plot(marks, 100 * precision_at(ious, marks), look.marker, color=look.colour, clip_on=False)
            ends.append((float(_CURVE[-1]), float(shares[-1]), short(shown.name, 18), look.colour))
        axes.set_xlim(0.48, 0.96)
        axes.set_ylim(0, 102)
        axes.set_xticks(marks)
        axes.set_xlabel("X (IoU threshold)")
        axes.set_ylabel(f"P@X (% of expressions), {group.title}")
        axes.grid()
        label_ends(axes, ends)
        return save(figure, folder, f"precision-{group.name}")


def draw_histogram(group: Group, folder: Path) -> list[Path]:
    """Histograms of IoU, one panel for each run. An empty list where no run predicts masks.

    All panels have one scale, but for those of oracles, whose single high bar would flatten the others.
    """
    drawn = [(s, ious) for s in group.members if len(ious := _counted_ious(s, targeted=False))]
    if not drawn:
        return []
    shares = [100 * np.histogram(ious, _BINS)[0] / len(ious) for _, ious in drawn]
    compared = [float(share.max()) for (s, _), share in zip(drawn, shares, strict=True) if not _oracle(s)]
    with drawing():
        figure = new_figure(0.45 + 0.75 * len(drawn))
        panels = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (shown, ious), share in zip(panels, drawn, shares, strict=True):
            axes.bar(_BINS[:-1], share, width=0.046, align="edge", color=shown.look.colour)
            axes.set_title(short(shown.name), loc="left", color=shown.look.colour, pad=2)
            none = 100 * float(np.mean(ious == 0))
            note = f"IoU = 0: {none:.1f} %  median {float(np.median(ious)):.2f}"
            note = f"{shown.run.coverage}  {note}" if shown.run.coverage else note
            axes.set_title(note, loc="right", color=SOFT, fontsize=6, pad=2)
            axes.set_ylim(0, 1.08 * (max(compared) if compared and not _oracle(shown) else float(share.max())))
            axes.set_xlim(0, 1)
            axes.grid(axis="y")
        panels[-1].set_xlabel(f"IoU, {group.title}")
        figure.supylabel("% of expressions", fontsize=7)
        return save(figure, folder, f"histogram-{group.name}")


def _counted_ious(shown: Shown, *, targeted: bool) -> Floats:
    """IoU of the rows that count, where the run predicts masks at all; ``targeted`` as the protocol's precision is."""
    table, protocol = shown.run.table, shown.run.protocol
    if not _has_masks(shown):
        return np.zeros(0)
    keep = table.counted
    if targeted and protocol.precision_on == "targeted":
        keep = keep & ~table.no_target
    return table.iou[keep]


def _has_masks(shown: Shown) -> bool:
    """The same rule as the metrics': a run of boxes alone has no cIoU."""
    metrics = shown.run.summary.get("metrics")
    return isinstance(metrics, dict) and metrics.get("ciou") is not None


def _oracle(shown: Shown) -> bool:
    return shown.run.manifest.sees_ground_truth
