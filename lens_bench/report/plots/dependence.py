"""Mean IoU against what an expression asks for: the size of the object and the length of the expression."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from lens_bench.records import Size
from lens_bench.report.plots.groups import Group, Shown
from lens_bench.report.plots.style import drawing, label_ends, log_axis, new_figure, save, short
from lens_bench.report.runset import ScoredRun
from lens_bench.run.files import read_lines
from lens_bench.scoring.ratios import Ratio
from lens_bench.scoring.stats import clustered_ci
from lens_bench.scoring.table import Floats, ScoreTable

_BINS = 6
_FEWEST = 10  # expressions that a bin has to hold for its mean to be drawn


@dataclass(frozen=True, slots=True)
class Bin:
    """Mean IoU of the expressions whose property lies in one range; ``x`` is the median of the property."""

    x: float
    mean: float
    interval: tuple[float, float] | None
    n: int


def binned(values: Floats, table: ScoreTable, edges: Floats) -> list[Bin]:
    """Mean IoU with its interval (whole images resampled) in each range of ``values``.

    Args:
        values: The property of every row of the table; nan where it is not known.
        table: The scores.
        edges: Of the ranges; a value belongs to the range that it is the lower edge of, the last edge to the last.
    """
    usable = table.counted & ~np.isnan(values)
    number = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    bins = []
    for i in range(len(edges) - 1):
        inside = usable & (number == i)
        if int(inside.sum()) < _FEWEST:
            continue
        rows = table.rows(inside)
        ratio = Ratio(rows.iou, np.ones(len(rows)))
        bins.append(
            Bin(float(np.median(values[inside])), float(rows.iou.mean()), clustered_ci(ratio, rows.cluster), len(rows))
        )
    return bins


def quantile_edges(values: Floats, bins: int = _BINS) -> Floats:
    """Edges of ranges that hold about as many values each; fewer ranges where values repeat. Empty without values."""
    known = values[~np.isnan(values)]
    if not len(known):
        return np.zeros(0)
    edges: Floats = np.unique(np.quantile(known, np.linspace(0, 1, bins + 1)))
    return edges if len(edges) > 1 else np.array([edges[0], np.nextafter(edges[0], np.inf)])


# ---------------------------------------------------------------------------------------------- object size


def relative_sizes(run: ScoredRun, known: Mapping[str, Size]) -> Floats:
    """Share of its image that each annotated object covers, in the order of the run's table.

    nan for an expression without a target and where the size of the image is not known.

    Args:
        run: The run.
        known: (height, width) by image id, see ``image_sizes``.
    """
    side = run.protocol.resize
    areas = {s.sample_id: float(s.gt_area) for s in run.scores}
    shares = np.full(len(run.table), np.nan)
    for i, (sample, image) in enumerate(zip(run.table.sample_ids, run.table.image_ids, strict=True)):
        size = (side, side) if side is not None else known.get(image)
        if size is not None and areas[sample] > 0:
            shares[i] = areas[sample] / (size[0] * size[1])
    return shares


def image_sizes(run: ScoredRun) -> dict[str, Size]:
    """(height, width) by image id, read off the predicted masks, which are at their image's size.

    An image of which no expression was answered with a mask is not in it.
    """
    images = dict(zip(run.table.sample_ids, run.table.image_ids, strict=True))
    sizes: dict[str, Size] = {}
    if not run.files.predictions.is_file():
        return sizes
    for _, line in read_lines(run.files.predictions):
        mask, image = line.get("mask"), images.get(str(line.get("sample_id")))
        if image is not None and image not in sizes and isinstance(mask, dict):
            height, width = mask["size"]
            sizes[image] = (int(height), int(width))
    return sizes


def draw_size(group: Group, folder: Path, left_out: list[str]) -> list[Path]:
    """Mean IoU against the share of the image that the object covers.

    Image sizes come from the predicted masks of all runs of the group. What has none is left out and said so.
    """
    sizes: dict[str, Size] = {}
    for shown in group.members:
        sizes |= image_sizes(shown.run)
    values = {shown.name: relative_sizes(shown.run, sizes) for shown in group.members}
    unknown = {
        image
        for shown in group.members
        if shown.run.protocol.resize is None
        for image in shown.run.table.image_ids
        if image not in sizes
    }
    if unknown:
        left_out.append(
            f"IoU against object size, {group.title}: {len(unknown)} images of unknown size (no run has a mask of them)"
        )
    edges = quantile_edges(np.concatenate(list(values.values())))
    return _draw(group, folder, "size", values, edges, "object/image area (%)", log=True)


# ---------------------------------------------------------------------------------------------- expression length


def draw_length(group: Group, folder: Path, expressions: Mapping[str, str]) -> list[Path]:
    """Mean IoU against the number of words of the expression.

    Args:
        group: The runs.
        folder: To write to.
        expressions: By sample id; a run directory does not hold them. Samples without one are left out.
    """
    values = {}
    for shown in group.members:
        words = [expressions.get(sample) for sample in shown.run.table.sample_ids]
        values[shown.name] = np.array([np.nan if w is None else float(len(w.split())) for w in words])
    edges = quantile_edges(np.concatenate(list(values.values())))
    return _draw(group, folder, "length", values, edges, "words", log=False)


def _draw(
    group: Group, folder: Path, kind: str, values: Mapping[str, Floats], edges: Floats, label: str, *, log: bool
) -> list[Path]:
    drawn = [(s, bins) for s in group.members if len(edges) and (bins := _bins(s, values[s.name], edges))]
    if not drawn:
        return []
    factor = 100 if log else 1
    with drawing():
        figure = new_figure(2.3)
        axes = figure.add_subplot()
        for number, (shown, bins) in enumerate(drawn):
            _line(axes, shown, bins, factor, number - (len(drawn) - 1) / 2, log=log)
        if log:
            log_axis(axes)
        axes.set_ylim(0, 102)
        axes.set_xlabel(f"{label}; vertical bars: 95 % intervals")
        axes.set_ylabel(f"mean IoU (%), {group.title}")
        axes.grid()
        ends = [(factor * b[-1].x, 100 * b[-1].mean, short(s.name, 18), s.look.colour) for s, b in drawn]
        label_ends(axes, ends)
        return save(figure, folder, f"{kind}-{group.name}")


def _bins(shown: Shown, values: Floats, edges: Floats) -> list[Bin]:
    metrics = shown.run.summary.get("metrics")
    if not isinstance(metrics, dict) or metrics.get("giou") is None:
        return []  # a run of boxes alone
    return binned(values, shown.run.table, edges)


def _line(axes: Axes, shown: Shown, bins: list[Bin], factor: int, place: float, *, log: bool) -> None:
    """One run's line; intervals of several runs are moved a little apart so that they can be seen."""
    at = [factor * b.x * 1.03**place if log else b.x + 0.06 * place for b in bins]
    look = shown.look
    means = [100 * b.mean for b in bins]
    axes.plot(at, means, linestyle=look.line, marker=look.marker, color=look.colour, clip_on=False)
    for x, b in zip(at, bins, strict=True):
        if b.interval:
            axes.plot([x, x], [100 * b.interval[0], 100 * b.interval[1]], color=look.colour, linewidth=0.8, alpha=0.6)
