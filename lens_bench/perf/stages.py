"""Stage times of calls, held against the wall clock: what no stage accounts for is shown, not lost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lens_bench.perf.ceilings import Ceilings
from lens_bench.perf.quantiles import Estimate, percentile
from lens_bench.perf.roofline import Roof, roof
from lens_bench.records import Cost

OTHER = "other"
# The sum of the stages is taken for the whole where it is this close to the wall clock.
RECONCILED = 0.05


@dataclass(frozen=True, slots=True)
class CallTime:
    """One measured call of a model, the device waited for at both ends.

    Attributes:
        seconds: By the wall clock.
        stages: Seconds by the model's own stages, of the whole call.
        costs: Work by stage, where the model says it.
        tokens: Tokens written.
    """

    seconds: float
    images: int
    expressions: int
    stages: Mapping[str, float] = field(default_factory=dict)
    costs: Mapping[str, Cost] = field(default_factory=dict)
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage over many calls, in milliseconds per call.

    Attributes:
        share: Of the wall clock.
        roof: Which ceiling bounds it; None where it has no work that is counted, or that or the ceilings are not known.
        known: False where the model says that it does not know the work of this stage.
    """

    name: str
    mean_ms: float
    p50: Estimate
    p90: Estimate
    p99: Estimate
    share: float
    roof: Roof | None = None
    known: bool = True


@dataclass(frozen=True, slots=True)
class Stages:
    """All stages of a measurement.

    Attributes:
        unaccounted: Share of the wall clock that no stage names; negative where stages overlap.
    """

    stages: tuple[Stage, ...] = ()
    unaccounted: float = 0.0

    @property
    def reasons(self) -> list[str]:
        """Why the stage times cannot be right."""
        if self.unaccounted < -RECONCILED:
            return [f"the stages add up to {100 * (1 - self.unaccounted):.0f} % of the wall clock"]
        return []


def stage_table(calls: Sequence[CallTime], ceilings: Ceilings | None) -> Stages:
    """Stages in the order in which they first occur; ``other`` last, where the rest is more than 5 % of the wall clock.

    Args:
        calls: Of one kind, so that their stages compare.
        ceilings: Of the device.
    """
    wall = sum(call.seconds for call in calls)
    if not calls or wall <= 0 or not any(call.stages for call in calls):
        return Stages()
    times: dict[str, list[float]] = defaultdict(list)
    names = list(dict.fromkeys(name for call in calls for name in call.stages))
    for call in calls:
        for name in names:
            times[name].append(call.stages.get(name, 0.0))
    named = sum(sum(values) for values in times.values())
    rest = 1 - named / wall
    if rest > RECONCILED:
        times[OTHER] = [max(0.0, call.seconds - sum(call.stages.values())) for call in calls]
    expressions = sum(call.expressions for call in calls)
    rows = []
    for name, values in times.items():
        work = sum((call.costs[name] for call in calls if name in call.costs), Cost())
        over = None if ceilings is None else roof(_per(expressions, work), sum(values) / expressions, ceilings)
        rows.append(replace(_stage(name, values, wall), roof=over, known=work.known))
    return Stages(tuple(rows), rest)


def whole_roof(calls: Sequence[CallTime], ceilings: Ceilings | None) -> Roof | None:
    """The roof over whole calls; None where no work is known, or that of some stage is not."""
    expressions = sum(call.expressions for call in calls)
    work = sum((cost for call in calls for cost in call.costs.values()), Cost())
    if ceilings is None or not expressions or not work.flops:
        return None
    return roof(_per(expressions, work), sum(call.seconds for call in calls) / expressions, ceilings)


def _per(expressions: int, work: Cost) -> Cost:
    return replace(work, flops=work.flops / expressions, moved=work.moved / expressions)


def _stage(name: str, seconds: Sequence[float], wall: float) -> Stage:
    found = [1e3 * s for s in seconds]
    p50, p90, p99 = (percentile(found, q) for q in (0.5, 0.9, 0.99))
    return Stage(name, sum(found) / len(found), p50, p90, p99, sum(seconds) / wall)
