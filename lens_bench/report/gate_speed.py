"""The speed part of a gate: figures with a tolerance, judged on the same hardware only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from pydantic import BaseModel, ConfigDict

SpeedAnswer: TypeAlias = Literal["pass", "regression", "not comparable"]

LOWER_IS_BETTER = ("latency_p50_ms", "latency_p90_ms", "latency_p99_ms", "peak_rss_mb", "peak_device_mb")
HIGHER_IS_BETTER = ("expressions_per_s", "images_per_s")


class SpeedFigures(BaseModel):
    """The figures of a run's ``perf`` block that a gate can judge, and what they were measured on and with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hardware: str
    device: str
    comparable: bool
    reasons: tuple[str, ...] = ()
    batch_images: int
    latency_p50_ms: float | None = None
    latency_p90_ms: float | None = None
    latency_p99_ms: float | None = None
    expressions_per_s: float | None = None
    images_per_s: float | None = None
    peak_rss_mb: float | None = None
    peak_device_mb: float | None = None

    @classmethod
    def of(cls, perf: Mapping[str, object] | None) -> SpeedFigures | None:
        """Read a ``perf`` block (``perf.speed.Speed.to_json``); None where the run has none."""
        if perf is None:
            return None
        latency = cast("Mapping[str, float]", perf.get("latency_ms") or {})
        figures = {name: perf.get(name) for name in (*HIGHER_IS_BETTER, "peak_rss_mb", "peak_device_mb")}
        figures |= {f"latency_{q}_ms": latency.get(q) for q in ("p50", "p90", "p99")}
        about = {name: perf.get(name) for name in ("hardware", "device", "comparable", "reasons", "batch_images")}
        return cls.model_validate(about | figures)


@dataclass(frozen=True, slots=True)
class SpeedCheck:
    """One judged figure.

    Attributes:
        name: One of ``LOWER_IS_BETTER`` and ``HIGHER_IS_BETTER``.
        tolerance: Limit of new / old: at most this where lower is better, at least this where higher is.
        ratio: new / old; None where it is not comparable.
        reason: Why it is not comparable; empty otherwise.
    """

    name: str
    reference: float | None
    value: float | None
    tolerance: float
    ratio: float | None
    answer: SpeedAnswer
    reason: str = ""


def check_tolerances(tolerances: Mapping[str, float]) -> None:
    """Refuse tolerances that are no limits: of an unknown figure, or on the wrong side of 1.

    Raises:
        ValueError: Names the first that is wrong.
    """
    for name, limit in tolerances.items():
        if name not in (*LOWER_IS_BETTER, *HIGHER_IS_BETTER):
            known = ", ".join((*LOWER_IS_BETTER, *HIGHER_IS_BETTER))
            raise ValueError(f"no speed figure is called {name!r}; there are: {known}")
        if name in LOWER_IS_BETTER and not (math.isfinite(limit) and limit >= 1):
            raise ValueError(f"the tolerance {limit} of {name} must be at least 1: 1.1 accepts a rise by a tenth")
        if name in HIGHER_IS_BETTER and not 0 < limit <= 1:
            raise ValueError(f"the tolerance {limit} of {name} must be above 0 and at most 1: 0.9 accepts a tenth less")


def judge_speed(
    old: SpeedFigures | None, new: SpeedFigures | None, tolerances: Mapping[str, float]
) -> tuple[SpeedCheck, ...]:
    """Judge every figure that has a tolerance, in the order of the tolerances."""
    return tuple(_check(name, limit, old, new) for name, limit in tolerances.items())


def _check(name: str, limit: float, old: SpeedFigures | None, new: SpeedFigures | None) -> SpeedCheck:
    before: float | None = getattr(old, name) if old else None
    now: float | None = getattr(new, name) if new else None
    reason = _obstacle(name, old, new)
    if reason or before is None or now is None:
        return SpeedCheck(name, before, now, limit, None, "not comparable", reason)
    ratio = now / before
    worse = ratio > limit if name in LOWER_IS_BETTER else ratio < limit
    return SpeedCheck(name, before, now, limit, ratio, "regression" if worse else "pass")


def _obstacle(name: str, old: SpeedFigures | None, new: SpeedFigures | None) -> str:
    """Why a figure cannot be compared; empty where it can."""
    for who, figures in (("the reference", old), ("the run", new)):
        if figures is None:
            return f"{who} has no speed figures"
        if not figures.comparable:
            return f"{who} is marked not comparable: {'; '.join(figures.reasons) or 'no reason given'}"
        value = getattr(figures, name)
        if value is None or value <= 0:
            return f"{who} did not measure it"
    if old is None or new is None:
        return ""
    for what, before, now in (
        ("hardware", old.hardware, new.hardware),
        ("device", old.device.partition(":")[0], new.device.partition(":")[0]),
        ("images per call", old.batch_images, new.batch_images),
    ):
        if before != now:
            return f"other {what}: {now} here, {before} in the reference"
    return ""
