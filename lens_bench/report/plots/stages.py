"""Where the time goes: mean milliseconds of each stage, stacked, a bar for each run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from lens_bench.report.plots.groups import Group, Shown
from lens_bench.report.plots.style import PALETTE, drawing, ink_on, new_figure, save, short, slug

OTHER = "other"
_BAR = 0.2  # inches
_OTHER_COLOUR = "#c8c8c8"
_SPAN = 8  # between the slowest and the fastest model, up to which lengths are drawn


@dataclass(frozen=True, slots=True)
class Stack:
    """The stages of one run in milliseconds per expression; what the model's calls took beyond them is ``other``."""

    shown: Shown
    title: str
    stages: Mapping[str, float]
    comparable: bool

    @property
    def total(self) -> float:
        """Sum of the stages."""
        return sum(self.stages.values())


def draw_stages(groups: Sequence[Group], folder: Path) -> list[Path]:
    """Stacked bars, split by split; one figure for each kind of hardware. Runs that report no stages are left out."""
    by_hardware: dict[str, list[Stack]] = defaultdict(list)
    for group in groups:
        for shown in group.members:
            perf = shown.run.perf
            stages = stage_times(perf) if perf else {}
            if perf and stages:
                hardware = str(perf.get("hardware") or "unknown hardware")
                by_hardware[hardware].append(Stack(shown, group.title, stages, perf.get("comparable") is True))
    paths: list[Path] = []
    for hardware, stacks in sorted(by_hardware.items()):
        apart = f"-{slug(hardware)}" if len(by_hardware) > 1 else ""
        with drawing():
            titles = list(dict.fromkeys(s.title for s in stacks))
            figure = new_figure(0.85 + _BAR * (len(stacks) + len(titles)))
            axes = figure.add_subplot()
            unnamed = _stacks(axes, stacks, titles)
            label = f"{_unit(stacks)}\non {short(hardware, 50)}"
            doubt = any(not s.comparable for s in stacks)
            figure.supxlabel(f"{label}\n* compares with no other run" if doubt else label, fontsize=7)
            if unnamed:
                handles = [Patch(color=colour, label=name) for name, colour in unnamed.items()]
                figure.legend(handles=handles, loc="outside upper left", ncols=3, handlelength=0.8, columnspacing=1)
            paths += save(figure, folder, f"stages{apart}")
    return paths


def _in_shares(stacks: Sequence[Stack]) -> bool:
    """Beside a model that takes ten times as long nothing could be read off a bar: then all have the same length."""
    return max(s.total for s in stacks) > _SPAN * min(s.total for s in stacks)


def _unit(stacks: Sequence[Stack]) -> str:
    return "% of time (right: ms per expression)" if _in_shares(stacks) else "ms per expression"


def stage_times(perf: Mapping[str, object]) -> dict[str, float]:
    """Milliseconds per expression by stage, with the rest of the model's calls as ``other`` where it is above 1 %."""
    raw = perf.get("stages_ms")
    stages = {str(k): float(v) for k, v in raw.items()} if isinstance(raw, dict) else {}
    stages = {name: value for name, value in stages.items() if value > 0}
    seconds, expressions = perf.get("model_s"), perf.get("expressions")
    if stages and isinstance(seconds, float | int) and isinstance(expressions, int) and expressions:
        rest = 1e3 * seconds / expressions - sum(stages.values())
        if rest > 0.01 * sum(stages.values()):
            stages[OTHER] = rest
    return stages


def _stacks(axes: Axes, stacks: Sequence[Stack], titles: Sequence[str]) -> dict[str, str]:
    """Draw the bars; returns the stages that had no room for their name in any bar, with their colours."""
    names = sorted({name for s in stacks for name in s.stages if name != OTHER})
    colours = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)} | {OTHER: _OTHER_COLOUR}
    shares = _in_shares(stacks)
    longest = 100.0 if shares else max(s.total for s in stacks)
    axes.set_xlim(0, 1.18 * longest)
    if shares:
        axes.set_xticks(range(0, 101, 20))
    ticks, labels, y = [], [], 0.0
    segments: list[tuple[str, float, float, float]] = []
    for heading in titles:
        axes.text(0, y, f" {heading}", fontweight="bold", va="center", ha="left")
        y += 1
        for stack in sorted((s for s in stacks if s.title == heading), key=lambda s: (s.total, s.shown.name)):
            left, scale = 0.0, 100 / stack.total if shares else 1.0
            for name in (n for n in (*names, OTHER) if n in stack.stages):
                width = scale * stack.stages[name]
                axes.barh(y, width, left=left, height=0.74, color=colours[name], edgecolor="white", linewidth=0.4)
                segments.append((name, left + width / 2, y, width))
                left += width
            doubt = "" if stack.comparable else "*"
            axes.text(
                left + 0.01 * longest, y, f"{_milliseconds(stack.total)}{doubt}", va="center", ha="left", fontsize=6.5
            )
            ticks.append(y)
            labels.append(short(stack.shown.name))
            y += 1
    axes.set_yticks(ticks, labels)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(y - 0.4, -0.6)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    named = _name_segments(axes, segments, colours)
    used = {name for name, *_ in segments}
    return {name: colours[name] for name in (*names, OTHER) if name in used - named}


def _name_segments(
    axes: Axes, segments: Sequence[tuple[str, float, float, float]], colours: Mapping[str, str]
) -> set[str]:
    """Write each stage's name into its widest segment, where it fits; returns the names written."""
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]  # settles the layout, whose width is needed
    named = set()
    for name in sorted({s[0] for s in segments}):
        _, x, y, width = max((s for s in segments if s[0] == name), key=lambda s: s[3])
        text = axes.text(x, y, name, ha="center", va="center", fontsize=6, color=ink_on(colours[name]))
        (x0, _), (x1, _) = axes.transData.transform([(x - width / 2, y), (x + width / 2, y)])
        if text.get_window_extent().width + 4 > x1 - x0:
            text.remove()
        else:
            named.add(name)
    return named


def _milliseconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
