"""Figures of a profile: throughput over batch size, latency over request rate, percentiles, where the time goes."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from lens_bench.perf.profile_file import Latency, Offline, Profile, Server
from lens_bench.perf.quantiles import Estimate
from lens_bench.perf.stages import OTHER, Stage
from lens_bench.report.plots.style import PALETTE, drawing, log_axis, look, new_figure, save, short

_HEIGHT = 1.7  # inches
_BAR = 0.24
_LINE = 54  # letters that fit under a figure
_DOUBT = "\n* compares with no other measurement"
_OTHER_COLOUR = "#c8c8c8"


def draw_profile(profile: Profile, folder: Path) -> list[Path]:
    """Draw what the profile holds; returns the files written.

    Args:
        profile: As measured, complete or not.
        folder: To write to; made where absent.
    """
    paths: list[Path] = []
    if profile.single_stream is not None:
        waits = profile.single_stream.latency_ms
        paths += _figure(folder, "latency", _HEIGHT, lambda axes: _latency(axes, waits, _mark(profile)))
    swept, served = profile.offline, profile.server
    if swept is not None and any(point.fits for point in swept.points):
        paths += _figure(folder, "throughput", _HEIGHT, lambda axes: _throughput(axes, swept, _mark(profile)))
    if served is not None and served.trials:
        paths += _figure(folder, "rate", _HEIGHT, lambda axes: _rates(axes, served, _mark(profile)))
    stacks = _stacks(profile)
    if stacks:
        names = dict.fromkeys(stage.name for _, stages in stacks for stage in stages)
        height = 0.75 + _BAR * (len(stacks) + (len(names) + 1) // 2)
        paths += _figure(folder, "stages", height, lambda axes: _stages(axes, stacks, _mark(profile)))
    return paths


def _figure(folder: Path, name: str, height: float, draw: Callable[[Axes], None]) -> list[Path]:
    with drawing():
        figure = new_figure(height)
        draw(figure.add_subplot())
        return save(figure, folder, name)


def _mark(profile: Profile) -> str:
    """What stands under the axis: the model and its hardware, and whether the figures are in doubt."""
    work = "".join(f", {key} {value}" for key, value in profile.work.items())
    subject = textwrap.fill(f"{short(profile.model, 30)}{work}", _LINE, break_on_hyphens=False)
    return f"{subject}\non {short(profile.hardware, 50)}" + ("" if profile.comparable else _DOUBT)


def _latency(axes: Axes, waits: Latency, mark: str) -> None:
    """Share of calls over latency, and on it the percentiles with their intervals."""
    chosen, marked = look(0), look(1)
    axes.plot(waits.curve, range(len(waits.curve)), color=chosen.colour, linewidth=1.0, drawstyle="steps-post")
    for height, value in ((50, waits.p50), (90, waits.p90), (99, waits.p99)):
        low, high = _ends(value)
        axes.plot([low, high], [height, height], color=marked.colour, linewidth=1.2)
        axes.plot([value.value], [height], marker="o", markersize=3.5, color=marked.colour)
        label = f"p{height} {value.value:.3g}" + ("" if value.high is not None else " or more")
        axes.annotate(label, (high, height), xytext=(4, -1), textcoords="offset points", va="top", fontsize=6.5)
    axes.set_ylim(0, 102)
    axes.set_xlim(0, 1.3 * max(waits.curve[-1], *(_ends(v)[1] for v in (waits.p50, waits.p90, waits.p99))))
    axes.set_ylabel("% of calls")
    axes.grid()
    _under(axes, f"latency of one expression (ms)\n{mark}")


def _throughput(axes: Axes, swept: Offline, mark: str) -> None:
    """Pictures per second over pictures per call, with intervals."""
    found = [(p.batch_images, p.images_per_s) for p in swept.points if p.images_per_s is not None]
    sizes, values = [size for size, _ in found], [value.value for _, value in found]
    chosen = look(0)
    lows, highs = zip(*(_ends(value) for _, value in found), strict=True)
    errors = [
        [v - low for v, low in zip(values, lows, strict=True)],
        [h - v for v, h in zip(values, highs, strict=True)],
    ]
    axes.errorbar(
        sizes, values, yerr=errors, color=chosen.colour, marker=chosen.marker, markersize=3, linewidth=1.0, capsize=2
    )
    log_axis(axes)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_ylim(bottom=0)
    axes.set_ylabel("images per second")
    axes.grid()
    axes.xaxis.set_minor_locator(NullLocator())
    _under(axes, f"images per call\n{mark}")


def _rates(axes: Axes, served: Server, mark: str) -> None:
    """The bounded percentile over the rate of requests; filled where the bound holds, the bound as a line."""
    chosen = look(0)
    trials = sorted(served.trials, key=lambda t: t.rate)
    axes.plot([t.rate for t in trials], [t.latency_ms.value for t in trials], color=chosen.colour, linewidth=0.8)
    for trial in trials:
        fill = chosen.colour if trial.holds else "white"
        axes.plot(
            [trial.rate],
            [trial.latency_ms.value],
            marker="o",
            markersize=3.5,
            color=chosen.colour,
            markerfacecolor=fill,
        )
    axes.axhline(served.bound_ms, color="black", linewidth=0.6, linestyle="--")
    axes.annotate(
        "bound", (0.01, served.bound_ms), xycoords=("axes fraction", "data"), va="bottom", ha="left", fontsize=6.5
    )
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.set_xlim(left=0)
    axes.set_ylabel(f"p{100 * served.percentile:g} (ms)")
    axes.grid()
    _under(axes, f"requests per second (filled: holds)\n{mark}")


def _stages(axes: Axes, stacks: Sequence[tuple[str, Sequence[Stage]]], mark: str) -> None:
    """Shares of a call's time, a bar for each scenario."""
    names = list(dict.fromkeys(stage.name for _, stages in stacks for stage in stages))
    looks = {name: (PALETTE[n % len(PALETTE)], "" if n < len(PALETTE) else "////") for n, name in enumerate(names)}
    looks[OTHER] = (_OTHER_COLOUR, "")
    for place, (_, stages) in enumerate(stacks):
        left = 0.0
        for stage in stages:
            _segment(axes, place, left, 100 * stage.share, looks[stage.name])
            left += 100 * stage.share
    for name in names:
        _segment(axes, 0, 0.0, 0.0, looks[name], name)
    axes.set_yticks(range(len(stacks)), [title for title, _ in stacks])
    axes.set_ylim(len(stacks) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.tick_params(axis="y", length=0)
    _under(axes, f"% of a call's time\n{mark}")
    axes.figure.legend(loc="outside upper left", ncols=3, handlelength=0.8, columnspacing=1)


def _segment(
    axes: Axes, place: int, left: float, width: float, chosen: tuple[str, str], label: str | None = None
) -> None:
    """One part of a bar; hatched where the colours had to be used again."""
    colour, hatch = chosen
    axes.barh(
        place, width, left=left, height=0.7, color=colour, hatch=hatch, edgecolor="white", linewidth=0.4, label=label
    )


def _stacks(profile: Profile) -> list[tuple[str, Sequence[Stage]]]:
    found: list[tuple[str, Sequence[Stage]]] = []
    if profile.single_stream is not None and profile.single_stream.stages:
        found.append(("single-stream", profile.single_stream.stages))
    best = profile.offline.best if profile.offline is not None else None
    if best is not None and best.stages:
        found.append((f"offline, {best.batch_images} a call", best.stages))
    return found


def _under(axes: Axes, text: str) -> None:
    """A label below the whole figure, which is wider than the axes."""
    axes.get_figure(root=True).supxlabel(text, fontsize=7)  # type: ignore[union-attr]


def _ends(value: Estimate) -> tuple[float, float]:
    """The interval, with the value itself for an end that is not known."""
    return (value.value if value.low is None else value.low), (value.value if value.high is None else value.high)
