"""cIoU with intervals per split, and accuracy against throughput."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from lens_bench.report.figures import title
from lens_bench.report.plots.groups import Group, Shown
from lens_bench.report.plots.style import INK, LEADER, SOFT, drawing, log_axis, new_figure, save, short, slug

_ROOM = 0.55  # the longest bar that leaves room for a remark beside it
_BAR = 0.15  # inches of one bar and its gap
# Where a name may stand, seen from its point: how far (1/72 inch), and in which direction; the first that fits.
_REACHES = (6.0, 14.0, 24.0, 36.0, 50.0)
_DIRECTIONS = ((1, 0.6), (1, -0.6), (-1, 0.6), (-1, -0.6), (0, 1.2), (0, -1.2), (0.5, 1.2), (-0.5, -1.2))


def draw_bars(groups: Sequence[Group], folder: Path, metric: str = "ciou") -> list[Path]:
    """Horizontal bars of a metric with 95 % intervals, split by split; one figure for each protocol.

    Bars start at zero. Runs to which the metric does not apply are left out.
    """
    by_protocol: dict[str, list[tuple[Group, list[tuple[Shown, float]]]]] = defaultdict(list)
    for group in groups:
        values = [(s, v) for s in group.members if (v := _metric(s, metric)) is not None]
        if values:
            by_protocol[group.protocol].append((group, sorted(values, key=lambda p: (-p[1], p[0].name))))
    paths: list[Path] = []
    for protocol, blocks in sorted(by_protocol.items()):
        with drawing():
            rows = sum(len(values) + 1 for _, values in blocks)
            figure = new_figure(0.45 + _BAR * rows)
            axes = figure.add_subplot()
            _bars(axes, blocks, metric)
            known = any(_interval(s, metric) for _, values in blocks for s, _ in values)
            extent = " with 95 % interval" if known else ""
            figure.supxlabel(f"{title(metric)} (%){extent}, protocol {protocol}", fontsize=7)
            paths += save(figure, folder, f"{metric}-{slug(protocol)}")
    return paths


def _bars(axes: Axes, blocks: Sequence[tuple[Group, list[tuple[Shown, float]]]], metric: str) -> None:
    ticks, names, y = [], [], 0.0
    for group, values in blocks:
        axes.text(0, y, f" {group.title}", fontweight="bold", va="center", ha="left", fontsize=7)
        y += 1
        for shown, value in values:
            interval = _interval(shown, metric)
            axes.barh(y, 100 * value, height=0.72, color=shown.look.colour, alpha=1 if shown.ranked else 0.45)
            end = value
            if interval is not None:
                low, high = interval
                axes.plot([100 * low, 100 * high], [y, y], color="white", linewidth=2.6, solid_capstyle="butt")
                axes.plot([100 * low, 100 * high], [y, y], color=INK, linewidth=1.0, solid_capstyle="butt")
                end = max(value, high)
            coverage = shown.run.coverage
            part = f"  {coverage}" if coverage else ""
            if end > _ROOM and part:  # no room beside the bar
                axes.text(1, y, part.strip(), va="center", ha="left", fontsize=5.5)
                part = ""
            axes.text(100 * end + 1, y, f"{100 * value:.1f}{part}", va="center", ha="left", fontsize=6.5)
            ticks.append(y)
            names.append(short(shown.name))
            y += 1
    axes.set_yticks(ticks, names)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(y - 0.4, -0.6)
    axes.set_xlim(0, 108)
    axes.set_xticks(range(0, 101, 20))
    axes.spines["left"].set_bounds(y - 0.5, 0.5)
    axes.grid(axis="x")


# ---------------------------------------------------------------------------------------------- accuracy and speed


@dataclass(frozen=True, slots=True)
class Point:
    """One run in the plane of throughput (images/s) and accuracy (percent)."""

    shown: Shown
    x: float
    y: float
    interval: tuple[float, float] | None
    comparable: bool

    @property
    def on_offer(self) -> bool:
        """Whether it may stand on the front: a complete run, no oracle, with a speed that compares."""
        return self.comparable and self.shown.ranked


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points that no other is at least as fast and at least as accurate as (and better in one); slow to fast."""
    offered = [p for p in points if p.on_offer]
    front = [p for p in offered if not any(q.x >= p.x and q.y >= p.y and (q.x > p.x or q.y > p.y) for q in offered)]
    return sorted(front, key=lambda p: (p.x, p.shown.name))


def draw_pareto(group: Group, folder: Path, metric: str = "ciou") -> list[Path]:
    """Accuracy against images per second with the Pareto front; one figure for each kind of hardware.

    Hollow points are runs whose speed compares with no other, oracles and incomplete runs: never on the front.
    Runs without a speed are left out.
    """
    by_hardware: dict[str, list[Point]] = defaultdict(list)
    for shown in group.members:
        perf, value = shown.run.perf, _metric(shown, metric)
        speed = perf.get("images_per_s") if perf else None
        if perf and value is not None and isinstance(speed, float | int) and speed > 0:
            interval = _interval(shown, metric)
            percent = (100 * interval[0], 100 * interval[1]) if interval else None
            point = Point(shown, float(speed), 100 * value, percent, perf.get("comparable") is True)
            by_hardware[str(perf.get("hardware") or "unknown hardware")].append(point)
    paths: list[Path] = []
    for hardware, points in sorted(by_hardware.items()):
        apart = f"-{slug(hardware)}" if len(by_hardware) > 1 else ""
        with drawing():
            figure = new_figure(2.5)
            axes = figure.add_subplot()
            _scatter(axes, points)
            axes.set_ylabel(f"{title(metric)} (%), {group.title}")
            axes.set_xlabel(f"images/s on {short(hardware, 44)}")
            figure.draw_without_rendering()
            _name_points(axes, points)
            paths += save(figure, folder, f"pareto-{group.name}{apart}")
    return paths


def _scatter(axes: Axes, points: Sequence[Point]) -> None:
    slow, fast = min(p.x for p in points), max(p.x for p in points)
    if fast > 5 * slow:
        log_axis(axes)
        axes.set_xlim(slow / 1.6, fast * 1.6)
    else:
        axes.set_xlim(0, fast * 1.2)
    low = min((p.interval or (p.y, p.y))[0] for p in points)
    high = max((p.interval or (p.y, p.y))[1] for p in points)
    room = max(0.12 * (high - low), 2.0)
    axes.set_ylim(max(0.0, low - room), min(104.0, high + room))
    axes.grid()
    corners = _corners(axes, points)
    if corners:
        axes.step(*zip(*corners, strict=True), where="pre", color=SOFT, linewidth=0.8, linestyle="--", zorder=1)
        axes.annotate("front", corners[0], (2, 2), textcoords="offset points", color=SOFT, fontsize=6)
    for p in points:
        colour = p.shown.look.colour
        if p.interval:
            axes.plot([p.x, p.x], p.interval, color=colour, linewidth=0.9, alpha=0.7, zorder=2)
        face = colour if p.on_offer else "white"
        axes.plot(
            p.x, p.y, p.shown.look.marker, color=colour, markerfacecolor=face, markersize=4.5, zorder=3, clip_on=False
        )


def _corners(axes: Axes, points: Sequence[Point]) -> list[tuple[float, float]]:
    """The front from the left edge to the lower one; empty where a single point is on offer."""
    front = pareto_front(points)
    if sum(p.on_offer for p in points) < 2:
        return []
    left, bottom = axes.get_xlim()[0], axes.get_ylim()[0]
    return [(left, front[0].y), *((p.x, p.y) for p in front), (front[-1].x, bottom)]


def _name_points(axes: Axes, points: Sequence[Point]) -> None:
    """Write each name as near as it hides no point, interval, line of the front or other name.

    Names away from their point get a thin line to it. Where there is no room at all, the place that hides least wins.
    """
    taken = [*(_extent(axes, p) for p in points), *_front_boxes(axes, points)]
    inside = axes.get_window_extent()
    for p in sorted(points, key=lambda p: -p.y):
        best: tuple[float, Annotation, Bbox] | None = None
        for reach, (right, up) in product(_REACHES, _DIRECTIONS):
            text = _name(axes, p, reach * right, reach * up)
            box = text.get_window_extent()
            beyond = box.x0 < inside.x0 or box.x1 > inside.x1 or box.y0 < inside.y0 or box.y1 > inside.y1
            hidden = sum(_shared(box, other) for other in taken) + (1e6 if beyond else 0)
            if best is not None and best[0] <= hidden:
                text.remove()
                continue
            if best is not None:
                best[1].remove()
            best = (hidden, text, box)
            if not hidden:
                break
        if best is not None:
            taken.append(best[2])


def _name(axes: Axes, p: Point, right: float, up: float) -> Annotation:
    """The name of a point, ``right`` and ``up`` of it in points of 1/72 inch."""
    colour = p.shown.look.colour
    far = math.hypot(right, up) > 2 * _REACHES[0]
    return axes.annotate(
        short(p.shown.name, 18),
        (p.x, p.y),
        xytext=(right, up),
        textcoords="offset points",
        ha="left" if right > 0 else "right" if right < 0 else "center",
        va="center",
        color=colour,
        fontsize=6.5,
        arrowprops=LEADER | {"color": colour} if far else None,
    )


def _shared(a: Bbox, b: Bbox) -> float:
    """Area that two boxes share, in square pixels."""
    both = Bbox.intersection(a, b)
    return 0.0 if both is None else float(both.width * both.height)


def _front_boxes(axes: Axes, points: Sequence[Point]) -> list[Bbox]:
    """The lines of the front, as boxes that names should not cover."""
    boxes = []
    for (x0, y0), (x1, y1) in pairwise(_corners(axes, points)):
        for a, b in (((x0, y1), (x1, y1)), ((x0, y0), (x0, y1))):
            (u, v), (w, z) = axes.transData.transform([a, b])
            boxes.append(Bbox([[min(u, w) - 1, min(v, z) - 1], [max(u, w) + 1, max(v, z) + 1]]))
    return boxes


def _extent(axes: Axes, p: Point) -> Bbox:
    low, high = p.interval or (p.y, p.y)
    (x, y0), (_, y1) = axes.transData.transform([(p.x, low), (p.x, high)])
    reach = 6.0
    return Bbox([[x - reach, min(y0, y1) - reach], [x + reach, max(y0, y1) + reach]])


def _metric(shown: Shown, metric: str) -> float | None:
    metrics = shown.run.summary.get("metrics")
    value = metrics.get(metric) if isinstance(metrics, dict) else None
    return float(value) if isinstance(value, float | int) else None


def _interval(shown: Shown, metric: str) -> tuple[float, float] | None:
    intervals = shown.run.summary.get("ci95")
    ends = intervals.get(metric) if isinstance(intervals, dict) else None
    return (float(ends[0]), float(ends[1])) if isinstance(ends, list) and len(ends) == 2 else None
