"""Which ceiling bounds a stage, and how far the stage is from it (Williams et al., Roofline, CACM 52(4), 2009)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from lens_bench.perf.ceilings import Ceilings
from lens_bench.records import Cost

BoundBy: TypeAlias = Literal["compute", "memory"]


@dataclass(frozen=True, slots=True)
class Roof:
    """A stage under its roof.

    Attributes:
        flops: Model FLOPs of an expression in this stage.
        moved: Bytes of an expression that have to pass memory at the least.
        bound: The ceiling that would be reached first.
        attained: Share of that ceiling: least possible time over time taken. Above 1 where a stage does less than is
            counted, for example because weights stay in a cache.
        mfu: Model FLOPs per second over the matmul ceiling.
    """

    flops: float
    moved: float
    bound: BoundBy
    attained: float
    mfu: float


def roof(cost: Cost, seconds: float, ceilings: Ceilings) -> Roof | None:
    """The roof over a stage that took ``seconds``; None where it took no time, has no work, or that is not known."""
    computing, moving = cost.flops / ceilings.matmul_flops, cost.moved / ceilings.copy_bytes
    if not cost.known or seconds <= 0 or max(computing, moving) <= 0:
        return None
    bound: BoundBy = "compute" if computing >= moving else "memory"
    return Roof(cost.flops, cost.moved, bound, max(computing, moving) / seconds, computing / seconds)
