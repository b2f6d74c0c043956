"""What a page says of its runs in words and figures: what was run on what, metrics with intervals, speed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import cast

import numpy as np

from lens_bench.report.changes import Change, headline
from lens_bench.report.compare import Comparison
from lens_bench.report.figures import NOTHING, interval, p_value, percent, points, title
from lens_bench.report.runset import ScoredRun
from lens_bench.run.manifest import commit
from lens_bench.scoring.ratios import ratios
from lens_bench.scoring.stats import Interval, intervals
from lens_bench.scoring.table import ScoreTable

LETTERS = "AB"


@dataclass(frozen=True, slots=True)
class Figure:
    """A value with its interval, as fractions of 1 and as text."""

    value: float | None
    ci95: Interval | None

    @property
    def text(self) -> str:
        """In percent."""
        return percent(self.value)

    @property
    def range(self) -> str:
        """The interval in percent; empty where there is none."""
        return f"{percent(self.ci95[0])}–{percent(self.ci95[1])}" if self.ci95 else ""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table of metrics or of tags; ``change`` only where two runs are compared."""

    name: str
    n_samples: int
    figures: tuple[Figure, ...]
    change: Change | None = None

    @property
    def delta(self) -> str:
        """The difference in points."""
        return points(self.change.delta) if self.change else NOTHING

    @property
    def delta_range(self) -> str:
        """Its interval."""
        return interval(self.change.paired.ci95 if self.change and self.change.paired else None)

    @property
    def p(self) -> str:
        """Its p-value."""
        return p_value(self.change.paired.p_value if self.change and self.change.paired else None)

    @property
    def direction(self) -> str:
        """``gain`` or ``loss`` where the interval of the difference excludes zero, else empty."""
        paired = self.change.paired if self.change else None
        if paired is None or paired.ci95[0] <= 0 <= paired.ci95[1]:
            return ""
        rates = self.change is not None and self.change.metric in ("no_mask_rate", "error_rate", "unread_rate")
        return "loss" if (paired.delta < 0) != rates else "gain"


def metric_lines(runs: Sequence[ScoredRun], comparison: Comparison | None) -> list[Line]:
    """Every metric that applies to at least one run. Of two runs, over the expressions that they share."""
    tables = [_restricted(run, comparison, runs) for run in runs]
    found = [_figures(table, run) for table, run in zip(tables, runs, strict=True)]
    changes = {c.metric: c for c in comparison.overall.changes} if comparison else {}
    n_samples = int(tables[0].counted.sum())
    return [
        Line(title(name), n_samples, tuple(f[name] for f in found), changes.get(name))
        for name in found[0]
        if any(f[name].value is not None for f in found)
    ]


@dataclass(frozen=True, slots=True)
class Highlight:
    """One of the few figures at the top; ``tone`` is ``gain``, ``loss`` or empty."""

    name: str
    value: str
    under: str
    tone: str = ""


def highlights(lines: Sequence[Line], runs: Sequence[ScoredRun]) -> list[Highlight]:
    """The figures that most people look for first: of two runs those of the second, with what changed."""
    wanted = ("cIoU", "gIoU", "P@0.5", "Box accuracy @0.5")
    found: list[Highlight] = []
    for line in lines:
        figure = line.figures[-1]
        if line.name not in wanted[:3] and not (line.name == wanted[3] and len(found) < 2):
            continue
        under = f"{line.delta} points ({line.delta_range})" if line.change else figure.range
        found.append(Highlight(line.name, figure.text, under, line.direction))
    rate, latency = _speed(runs[-1], "expressions_per_s"), _latency(runs[-1])
    if rate is not None:
        under = f"{_number(latency.get('p50'))} ms p50, {_number(latency.get('p99'))} ms p99"
        found.append(Highlight("Expressions per second", _number(rate), under))
    return found


def tag_lines(runs: Sequence[ScoredRun], comparison: Comparison | None) -> tuple[str, list[Line]]:
    """The headline metric by tag, and its title."""
    tables = [_restricted(run, comparison, runs).by_tag() for run in runs]
    metric = headline(comparison.overall) if comparison else _headline(runs[0])
    changes = {g.name: g.change(metric) for g in comparison.by_tag} if comparison else {}
    lines = []
    for tag, table in tables[0].items():
        of_runs = [t[tag] for t in tables if tag in t]
        figures = tuple(_figure(t, run, metric) for t, run in zip(of_runs, runs, strict=False))
        lines.append(Line(tag, int(table.counted.sum()), figures, changes.get(tag)))
    return title(metric), lines


def run_facts(run: ScoredRun) -> list[tuple[str, list[tuple[str, str]]]]:
    """What was run and on what, in groups of name and value; from the manifest, nothing left out but the load notes."""
    m = run.manifest
    card, about = m.model_card, m.environment
    settings = {k: v for k, v in asdict(m.settings).items() if v not in (None, {}, "")}
    answered = f"{len(run.scores):,} of {m.n_samples:,}" + ("" if run.complete else " (not complete)")
    coverage = {"coverage": run.coverage} if run.coverage else {}
    load = {k: v for k, v in (m.load_report or {}).items() if v}
    return [
        (
            "Data",
            [
                *_pairs(suite=m.suite, split=m.split, content_hash=m.suite_hash, expressions=answered, **coverage),
                *_pairs(images=f"{m.n_images:,}", protocol=f"{run.protocol.name}: {run.protocol.summary}"),
            ],
        ),
        ("Model", [*_pairs(name=m.model, weights=m.weight_digest), *_flat(card), *_flat(load)]),
        ("Settings", [*_flat(settings), *_pairs(seed=m.seed, run=m.digest, device=m.device)]),
        (
            "Environment",
            [
                *_pairs(created=m.created, **({"commit": of} if (of := commit(about)) else {})),
                *_flat({k: v for k, v in about.items() if k != "git"}),
            ],
        ),
    ]


def differences(first: ScoredRun, second: ScoredRun) -> list[tuple[str, str, str]]:
    """What the two runs were not made with alike: name, and the value in each; ``–`` where one has none."""
    sides = [
        {(group, name): value for group, pairs in run_facts(run) for name, value in pairs} for run in (first, second)
    ]
    left_out = {("Environment", "created"), ("Settings", "run")}
    names = [key for key in dict.fromkeys([*sides[0], *sides[1]]) if key not in left_out]
    rows = [(f"{group.lower()}: {name}", *(s.get((group, name), NOTHING) for s in sides)) for group, name in names]
    return [(name, a, b) for name, a, b in rows if a != b]


def speed_rows(runs: Sequence[ScoredRun]) -> list[tuple[str, list[str]]]:
    """Speed figures, one text a run; rows that no run has are left out."""
    blocks = [run.perf or {} for run in runs]
    latency = [_latency(run) for run in runs]
    rows: list[tuple[str, list[object]]] = [
        ("Expressions per second", [b.get("expressions_per_s") for b in blocks]),
        ("Images per second", [b.get("images_per_s") for b in blocks]),
        ("Latency p50, ms", [b.get("p50") for b in latency]),
        ("Latency p90, ms", [b.get("p90") for b in latency]),
        ("Latency p99, ms", [b.get("p99") for b in latency]),
        ("First call, ms", [b.get("first_call_ms") for b in blocks]),
        ("Loading, s", [b.get("load_s") for b in blocks]),
        ("Wall clock, s", [b.get("wall_s") for b in blocks]),
        ("Completion tokens, mean", [b.get("completion_tokens") for b in blocks]),
        ("Peak memory, MiB", [b.get("peak_rss_mb") for b in blocks]),
        ("Peak device memory, MiB", [b.get("peak_device_mb") for b in blocks]),
        ("Images per call, at most", [b.get("batch_images") for b in blocks]),
        ("Measured on", [b.get("hardware") for b in blocks]),
    ]
    return [(name, [_number(v) for v in values]) for name, values in rows if any(v is not None for v in values)]


def speed_warnings(runs: Sequence[ScoredRun]) -> list[str]:
    """Why figures compare with no other run's, by run, and where two runs were not measured on the same hardware."""
    warnings = []
    for run in runs:
        if run.perf is not None and run.perf.get("comparable") is not True:
            reasons = cast("Sequence[str]", run.perf.get("reasons") or ())
            warnings.append(f"{run.label} is not comparable in speed: {'; '.join(reasons) or 'no reason given'}")
    if len({str(run.perf.get("hardware")) for run in runs if run.perf is not None}) > 1:
        warnings.append("The runs were measured on different hardware.")
    return warnings


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage's share of an expression's time; ``start`` and ``share`` are percent of the longest run's total."""

    name: str
    ms: float
    start: float
    share: float
    colour: int


def stage_bars(runs: Sequence[ScoredRun]) -> list[tuple[str, float, list[Stage]]]:
    """For every run with stage times: its label, total milliseconds, and the stages laid end to end."""
    times = [
        (run.label, cast("Mapping[str, float]", run.perf.get("stages_ms") or {}))
        for run in runs
        if run.perf is not None
    ]
    longest = max((sum(stages.values()) for _, stages in times), default=0.0)
    names = sorted({name for _, stages in times for name in stages})
    bars = []
    for label, stages in times:
        placed, start = [], 0.0
        for name, ms in stages.items():
            share = 100 * ms / longest if longest else 0.0
            placed.append(Stage(name, ms, start, share, names.index(name) % 8))
            start += share
        if placed:
            bars.append((label, sum(stages.values()), placed))
    return bars


# ---------------------------------------------------------------------------------------------- helpers


def _restricted(run: ScoredRun, comparison: Comparison | None, runs: Sequence[ScoredRun]) -> ScoreTable:
    """The run's table; where two are compared, its shared rows."""
    if comparison is None:
        return run.table
    other = {s for r in runs if r is not run for s in r.table.sample_ids}
    keep = [i for i, sample_id in enumerate(run.table.sample_ids) if sample_id in other]
    return run.table if len(keep) == len(run.table) else run.table.rows(np.array(keep, dtype=np.int64))


def _figures(table: ScoreTable, run: ScoredRun) -> dict[str, Figure]:
    values = ratios(table, run.protocol)
    found = intervals(table, run.protocol, list(values), seed=run.manifest.seed)
    return {name: Figure(ratio.value if ratio else None, found[name]) for name, ratio in values.items()}


def _figure(table: ScoreTable, run: ScoredRun, metric: str) -> Figure:
    ratio = ratios(table, run.protocol)[metric]
    found = intervals(table, run.protocol, [metric], seed=run.manifest.seed)
    return Figure(ratio.value if ratio else None, found[metric])


def _headline(run: ScoredRun) -> str:
    return "ciou" if ratios(run.table, run.protocol)["ciou"] is not None else "box_acc_0.5"


def _speed(run: ScoredRun, name: str) -> object:
    return (run.perf or {}).get(name)


def _latency(run: ScoredRun) -> Mapping[str, object]:
    return cast("Mapping[str, object]", _speed(run, "latency_ms") or {})


def _pairs(**values: object) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        yield name.replace("_", " "), str(value)


def _flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as lines ``args.shift: 4.0``; what is empty or off is left out."""
    for key, value in values.items():
        name = f"{prefix}{key}" if prefix else key.replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{key}.")
        elif isinstance(value, list | tuple):
            if value:
                yield name, ", ".join(str(v) for v in value)
        elif value is not None and value is not False and value != "":
            yield name, str(value)


def _number(value: object) -> str:
    if value is None:
        return NOTHING
    if isinstance(value, int | float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.4g}"
    return str(value)
