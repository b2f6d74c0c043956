"""Training curves from a trainer's log: one JSON object a step, with ``step`` and numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lens_bench.errors import DataError
from lens_bench.parsing import parse_json
from lens_bench.report.plots.style import drawing, label_ends, look, new_figure, save, short
from lens_bench.scoring.table import Floats

_PANEL = 1.0  # inches
_SMOOTH_ABOVE = 80  # points: below, the raw line is readable
# A panel for every kind of quantity; a key belongs to the first whose word it contains.
_KINDS = (
    ("evaluation", ("eval", "val/", "val_", "ciou", "giou", "box_acc")),
    ("reward", ("reward",)),
    ("loss", ("loss", "dice", "bce")),
    ("KL to the reference", ("kl",)),
    ("entropy", ("entropy",)),
    ("length (tokens)", ("length", "tokens")),
    ("rate", ("rate/", "format", "fraction", "clip")),
    ("gradient norm", ("grad",)),
)
_LEARNING_RATES = ("lr", "learning_rate")
_LARGEST = 1e300  # larger integers than a float holds can be written
_MOST_STEPS = 2**53  # what a float counts to
_NOT_DRAWN = ("step", "epoch", "time", "timestamp", "seed")


def read_log(path: Path) -> dict[str, tuple[Floats, Floats]]:
    """The series of a log by key: steps and values. A line that is torn at the end of the file is left out.

    Nested objects are flattened with ``/``. Values that are no finite numbers are gaps.

    Raises:
        DataError: It is missing, a line is malformed, or nothing in it can be drawn.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        raise DataError(f"no training log at {path}", "`lens-bench train` writes train_log.jsonl") from None
    found: dict[str, dict[float, float]] = defaultdict(dict)
    for number, line in enumerate(lines, start=1):
        try:
            content = parse_json(line)
        except ValueError as error:
            if number == len(lines) and not line.endswith(b"\n"):
                break
            raise DataError(f"{path}, line {number}: {error}") from None
        step = content.get("step") if isinstance(content, dict) else None
        if not isinstance(content, dict) or not isinstance(step, int | float) or not abs(step) <= _MOST_STEPS:
            raise DataError(f"{path}, line {number} is not an object with a step")
        for key, value in _numbers(content):
            found[key][float(step)] = value
    series = {key: _series(points) for key, points in found.items()}
    drawable = {key: points for key, points in series.items() if not np.isnan(points[1]).all()}
    if not drawable:
        raise DataError(f"{path} holds no numbers to draw")
    return drawable


def draw_training(log: Path, folder: Path, name: str = "training") -> list[Path]:
    """Rewards, KL, entropy, lengths, losses, learning rate, evaluation: a panel for each kind that the log holds.

    Long series are drawn as a running mean over a faint line of the raw values; the axis says over how many steps.

    Raises:
        DataError: See ``read_log``.
    """
    panels = _panels(read_log(log))
    with drawing():
        figure = new_figure(0.4 + _PANEL * len(panels))
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        windows = [_panel(a, kind, series) for a, (kind, series) in zip(axes, panels, strict=True)]
        window = max(windows)
        axes[-1].set_xlabel("step" if window == 1 else f"step (lines: running mean of up to {window} points)")
        axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        for a, (_, series) in zip(axes, panels, strict=True):
            _label(a, series)
        return save(figure, folder, name)


def _panel(axes: Axes, kind: str, series: Mapping[str, tuple[Floats, Floats]]) -> int:
    """Draw one panel; returns the widest window of a running mean."""
    widest = 1
    for number, (steps, values) in enumerate(series.values()):
        chosen = look(number)
        window = max(1, len(values) // 40) if len(values) > _SMOOTH_ABOVE else 1
        if window > 1:
            axes.plot(steps, values, color=chosen.colour, linewidth=0.4, alpha=0.3)
        few = len(values) <= 25
        axes.plot(
            steps,
            running_mean(values, window),
            color=chosen.colour,
            linestyle=chosen.line,
            marker=chosen.marker if few else "",
            markersize=2.5,
            linewidth=1.0,
        )
        widest = max(widest, window)
    axes.set_ylabel(kind)
    axes.grid()
    axes.margins(x=0.01)
    return widest


def _label(axes: Axes, series: Mapping[str, tuple[Floats, Floats]]) -> None:
    ends = []
    for number, (key, (steps, values)) in enumerate(series.items()):
        known = np.flatnonzero(~np.isnan(values))
        window = max(1, len(values) // 40) if len(values) > _SMOOTH_ABOVE else 1
        last = int(known[-1])
        ends.append(
            (float(steps[last]), float(running_mean(values, window)[last]), short(key, 20), look(number).colour)
        )
    label_ends(axes, ends)


def running_mean(values: Floats, window: int) -> Floats:
    """Mean of the values within half a window on both sides, gaps left out; fewer at the ends. Float [values]."""
    known = ~np.isnan(values)
    sums = np.concatenate(([0.0], np.cumsum(np.where(known, values, 0.0))))
    counts = np.concatenate(([0], np.cumsum(known)))
    index = np.arange(len(values))
    first, last = np.maximum(index - window // 2, 0), np.minimum(index + (window - 1) // 2 + 1, len(values))
    number = counts[last] - counts[first]
    means: Floats = np.divide(sums[last] - sums[first], number, out=np.full(len(values), np.nan), where=number > 0)
    means[~known] = np.nan
    return means


def _panels(series: Mapping[str, tuple[Floats, Floats]]) -> list[tuple[str, dict[str, tuple[Floats, Floats]]]]:
    by_kind: dict[str, dict[str, tuple[Floats, Floats]]] = defaultdict(dict)
    for key in sorted(series):
        by_kind[_kind(key)][key] = series[key]
    order = [kind for kind, _ in _KINDS] + ["learning rate"]
    return sorted(by_kind.items(), key=lambda item: (order.index(item[0]) if item[0] in order else len(order), item[0]))


def _kind(key: str) -> str:
    low = key.lower()
    if low.rpartition("/")[2] in _LEARNING_RATES or low.startswith("lr"):
        return "learning rate"
    return next((kind for kind, words in _KINDS if any(word in low for word in words)), key)


def _numbers(content: Mapping[str, object], prefix: str = "") -> Sequence[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for key, value in content.items():
        if isinstance(value, dict):
            found += _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and f"{prefix}{key}" not in _NOT_DRAWN:
            found.append((f"{prefix}{key}", float(value) if abs(value) < _LARGEST else np.nan))
    return found


def _series(points: Mapping[float, float]) -> tuple[Floats, Floats]:
    """In the order of steps; of a step that was logged twice (a resumed training) the later line counts."""
    steps = np.array(sorted(points))
    values = np.array([points[s] for s in steps])
    return steps, np.where(np.isfinite(values), values, np.nan)
