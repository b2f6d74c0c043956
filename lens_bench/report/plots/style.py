"""How all figures look: one column of a paper wide, Okabe-Ito colours, names beside what they name, stable bytes.

Colours: Okabe and Ito, "Color Universal Design", 2008; without yellow, which is faint on white.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

WIDTH = 3.3  # inches: one column of a two-column paper
DPI = 200
INK = "#222222"
SOFT = "#6b6b6b"
GRID = "#e3e3e3"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D")
NAME_LENGTH = 22
LEADER: dict[str, object] = {"arrowstyle": "-", "lw": 0.5, "shrinkA": 1, "shrinkB": 0, "alpha": 0.6}
LINE_HEIGHT = 0.115  # inches of one line of small text

_SETTINGS: dict[str, object] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so figures look alike everywhere
    "font.size": 7,
    "axes.labelsize": 7,
    "axes.titlesize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "axes.linewidth": 0.6,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
    "text.parse_math": False,  # a name may hold dollar signs
    "svg.hashsalt": "lens-bench",
    "svg.fonttype": "path",
}


@dataclass(frozen=True, slots=True)
class Look:
    """Colour, line and marker of one run, the same in every figure."""

    colour: str
    line: str
    marker: str


@contextmanager
def drawing() -> Iterator[None]:
    """The settings that every figure is made and saved under; nothing outside is changed."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever a matplotlibrc of the user says
        matplotlib.rcParams.update(_SETTINGS)  # type: ignore[arg-type]  # its stubs name every key one by one
        yield


def look(number: int) -> Look:
    """The look of the n-th run: colours first, then other lines and markers."""
    turn = number // len(PALETTE)
    return Look(PALETTE[number % len(PALETTE)], LINES[turn % len(LINES)], MARKERS[turn % len(MARKERS)])


def new_figure(height: float) -> Figure:
    """An empty figure of column width; ``height`` in inches. Use inside ``drawing``."""
    figure = Figure(figsize=(WIDTH, height))
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write ``name.svg`` and ``name.png`` without dates or versions in them. Use inside ``drawing``."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once: both files are the same picture
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.svg", folder / f"{name}.png"]
    figure.savefig(paths[0], metadata={"Date": None, "Creator": None})
    figure.savefig(paths[1], metadata={"Software": None})
    return paths


def ink_on(colour: str) -> str:
    """Black or white, whichever has more contrast with a colour (relative luminance, WCAG 2.1)."""
    channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    luminance = 0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2]
    return "black" if luminance > 0.179 else "white"


def slug(text: str) -> str:
    """A text as part of a file name."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", text).strip("-.").lower() or "unnamed"


def short(name: str, length: int = NAME_LENGTH) -> str:
    """A long name with its middle left out: both ends tell variants apart."""
    if len(name) <= length:
        return name
    tail = length // 3
    return f"{name[: length - tail - 1]}…{name[-tail:]}"


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions apart until neighbours are ``gap`` from each other, as little as that needs, within the limits.

    Where they cannot all fit, they are spaced evenly.
    """
    count = len(positions)
    if count == 0:
        return []
    gap = min(gap, (high - low) / (count - 1)) if count > 1 else gap
    order = sorted(range(count), key=lambda i: positions[i])
    # Blocks of labels that touch, each with the mean of what its labels want as its centre (isotonic regression).
    blocks: list[tuple[float, int]] = []
    for rank, index in enumerate(order):
        blocks.append((min(max(positions[index], low), high) - rank * gap, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (b, nb), (a, na) = blocks.pop(), blocks.pop()
            blocks.append(((a * na + b * nb) / (na + nb), na + nb))
    bases = [base for base, size in blocks for _ in range(size)]
    top = high - (count - 1) * gap
    placed = [0.0] * count
    for rank, index in enumerate(order):
        placed[index] = min(max(bases[rank], low), top) + rank * gap
    return placed


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write names beside the right ends of lines: ``(x, y, name, colour)``. Call when the limits are final.

    Names stand right of the axes, moved apart where lines end close together, each with a thin line to its end.
    """
    low, high = axes.get_ylim()
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]  # settles the layout, whose height is needed
    inches = axes.get_window_extent().height / DPI
    gap = LINE_HEIGHT / inches * (high - low) if inches > 0 else 0.0
    right = axes.get_xlim()[1]
    for (x, y, name, colour), at in zip(ends, spread([e[1] for e in ends], gap, low, high), strict=True):
        axes.annotate(
            name,
            xy=(x, y),
            xytext=(1.04, at),
            textcoords=axes.get_yaxis_transform(),
            color=colour,
            fontsize=6.5,
            va="center",
            ha="left",
            annotation_clip=False,
            arrowprops=LEADER | {"color": colour, "relpos": (0, 0.5)},
        )
    axes.set_xlim(right=right)


def log_axis(axes: Axes) -> None:
    """A logarithmic horizontal axis with plain numbers, at 1, 2 and 5 so that less than a decade has some too."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
