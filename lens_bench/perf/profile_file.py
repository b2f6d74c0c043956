"""``profile.json``: what `lens-bench profile` measured, as frozen records, and how it reads and writes as JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from pydantic import TypeAdapter, ValidationError

from lens_bench.errors import DataError
from lens_bench.perf.ceilings import Ceilings
from lens_bench.perf.memory import Memory
from lens_bench.perf.quantiles import CONFIDENCE, Estimate, confidence
from lens_bench.perf.roofline import Roof
from lens_bench.perf.stages import Stage
from lens_bench.perf.warmup import Warmup
from lens_bench.records import ArgValue

# The highest rate is compared with others where its 95 % interval is no wider than this share to either side.
PRECISE = 0.05
PROFILE_NAME = "profile.json"
PROFILE_SCHEMA: Literal[2] = 2

Scenario: TypeAlias = Literal["single-stream", "offline", "server"]
SCENARIOS: tuple[Scenario, ...] = ("single-stream", "offline", "server")


@dataclass(frozen=True, slots=True)
class Circumstances:
    """How a figure came about.

    Attributes:
        memory: At its end, peaks since its beginning.
        energy_j: Joules that the device used meanwhile; None where it has no counter.
        reasons: Why the figure compares with no other; empty where nothing speaks against it.
        session: In which session of the profile it was measured, from 1.
    """

    memory: Memory
    energy_j: float | None = None
    reasons: tuple[str, ...] = ()
    session: int = 1


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds that somebody waits who asks about one expression.

    Attributes:
        curve: The shortest wait, then the one that 1 %, 2 %, ... 100 % of all do not exceed.
    """

    mean: Estimate
    p50: Estimate
    p90: Estimate
    p99: Estimate
    curve: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SingleStream:
    """One picture with one expression after the other.

    Attributes:
        complete: It was measured for the whole duration.
        stages: Where the time of a call goes; ``unaccounted`` is the share of it that no stage names.
        tokens: Mean number of tokens written; None for a model that writes none.
        roof: Of the whole call; None where its work is not known.
        energy_per_expression_j: None where the device has no counter.
    """

    complete: bool
    calls: int
    seconds: float
    warmup: Warmup
    latency_ms: Latency
    stages: tuple[Stage, ...]
    unaccounted: float
    tokens: float | None
    roof: Roof | None
    energy_per_expression_j: float | None
    circumstances: Circumstances


@dataclass(frozen=True, slots=True)
class OfflinePoint:
    """Everything at once, so many pictures a call, with all their expressions.

    Attributes:
        images_per_s: None where the batch did not fit into memory.
    """

    batch_images: int
    calls: int
    images: int
    expressions: int
    seconds: float
    warmup: Warmup | None
    images_per_s: Estimate | None
    expressions_per_s: Estimate | None
    stages: tuple[Stage, ...]
    unaccounted: float
    roof: Roof | None
    energy_per_expression_j: float | None
    circumstances: Circumstances

    @property
    def fits(self) -> bool:
        """Whether the batch fitted into memory."""
        return self.images_per_s is not None


@dataclass(frozen=True, slots=True)
class Offline:
    """The sweep over batch sizes, in the order measured.

    Attributes:
        ended: Why the sweep ended where it did; empty while it has not.
    """

    complete: bool
    points: tuple[OfflinePoint, ...] = ()
    ended: str = ""

    @property
    def best(self) -> OfflinePoint | None:
        """The point of the highest throughput; None where nothing fitted."""
        fitting = [p for p in self.points if p.images_per_s is not None]
        return max(fitting, key=lambda p: p.images_per_s.value if p.images_per_s else 0.0) if fitting else None


@dataclass(frozen=True, slots=True)
class Trial:
    """Requests that arrived at one rate.

    Attributes:
        rate: Requests per second offered.
        latency_ms: Percentile that the bound is about, waiting included; without an interval, because waits in a queue
            depend on each other.
        p50_ms: The median.
        late: How many waited longer than the bound.
        sustained: The highest rate at which a long queue keeps the bound, by simulation with the call times measured
            until the end of this trial; None where not even requests that come alone keep it.
        holds: The model kept up, and the rate is at most 2 % above the sustained one, or as much as that is uncertain.
        kept_up: Requests were answered as fast as they came.
        cut: The trial was ended when it could no longer hold: too many requests were late, or the model was too far
            behind. Its figures are of the requests answered until then.
        busy: Share of the time in which the model worked.
    """

    rate: float
    requests: int
    seconds: float
    latency_ms: Estimate
    p50_ms: Estimate
    late: int
    sustained: Estimate | None
    holds: bool
    kept_up: bool
    cut: bool
    busy: float
    circumstances: Circumstances


@dataclass(frozen=True, slots=True)
class Server:
    """The search for the highest rate that keeps the latency bound.

    Attributes:
        percentile: Which percentile is bounded, e.g. 0.99.
        bound_ms: By how much.
        concurrency: Most requests that one call answers.
        requests_needed: Requests of a trial that the percentile needs at 99 % confidence.
        start_rate: Where the search began.
        rate: The highest rate that the model sustains, with the interval that its call times leave; None where no trial
            holds.
    """

    complete: bool
    percentile: float
    bound_ms: float
    concurrency: int
    requests_needed: int
    start_rate: float
    rate: Estimate | None = None
    warmup: Warmup | None = None
    trials: tuple[Trial, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the rate found compares with no other, beside the circumstances of the trials."""
        found = []
        decided = next((t for t in reversed(self.trials) if t.holds), None)
        if decided is not None and decided.requests < self.requests_needed:
            left = confidence(decided.requests, 1, self.percentile)
            found.append(
                f"{decided.requests} requests in a trial give p{100 * self.percentile:.9g} a confidence of "
                f"{100 * left:.2g} %; {100 * CONFIDENCE:.0f} % takes {self.requests_needed:,}"
            )
        error = self.rate.relative if self.rate is not None else None
        if error is not None and error > PRECISE:
            found.append(f"call times vary, so the rate is known to {100 * error:.0f} % only")
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Profile:
    """Content of ``profile.json``.

    Attributes:
        digest: Eight digits of the identity: that of the run of the same settings, where the work is the run's own.
        work: What differs from a run of the model: image size, forced length, random weights. Empty for a run's work.
        knobs: How it was measured: pictures, duration, batch sizes, bound.
        sessions: When each session began.
        load_s: Seconds that loading took, ``compile_s`` those that torch spent compiling; both of the last session.
        comparable: Nothing speaks against comparing the figures; ``reasons`` say what does.
    """

    suite: str
    split: str
    suite_hash: str
    model: str
    weight_digest: str
    digest: str
    args: Mapping[str, ArgValue]
    work: Mapping[str, ArgValue]
    knobs: Mapping[str, ArgValue]
    device: str
    dtype: str
    engine: str | None
    hardware: str
    environment: Mapping[str, object]
    sees_ground_truth: bool
    seed: int
    sessions: tuple[str, ...]
    parameters: int = 0
    notes: tuple[str, ...] = ()
    load_s: float = 0.0
    compile_s: float | None = None
    ceilings: Ceilings | None = None
    single_stream: SingleStream | None = None
    offline: Offline | None = None
    server: Server | None = None
    comparable: bool = True
    reasons: tuple[str, ...] = ()
    schema_version: Literal[2] = PROFILE_SCHEMA

    def judged(self) -> Profile:
        """The profile with ``comparable`` and ``reasons`` from what its parts say."""
        found: list[str] = []
        sessions = {c.session for _, c in self.circumstances()}
        if len(sessions) > 1:
            found.append(f"resumed: parts were measured in {len(sessions)} sessions")
        found += [f"server: {reason}" for reason in (self.server.reasons if self.server is not None else ())]
        kept: dict[str, str] = {}
        for where, circumstances in self.circumstances():
            for reason in circumstances.reasons:  # once a scenario, whatever its figures are from trial to trial
                kept.setdefault(re.sub(r"\d+", "", f"{where}: {reason}"), f"{where}: {reason}")
        found += kept.values()
        return replace(self, comparable=not found, reasons=tuple(found))

    def circumstances(self) -> Iterator[tuple[Scenario, Circumstances]]:
        """Of every measured part, with its scenario."""
        if self.single_stream is not None:
            yield "single-stream", self.single_stream.circumstances
        for point in self.offline.points if self.offline is not None else ():
            yield "offline", point.circumstances
        for trial in self.server.trials if self.server is not None else ():
            yield "server", trial.circumstances

    def reasons_of(self, scenario: Scenario) -> tuple[str, ...]:
        """Why a scenario's figures compare with no other; the profile's own where it was resumed."""
        return tuple(r for r in self.reasons if r.startswith((scenario, "resumed")))


_ADAPTER: TypeAdapter[Profile] = TypeAdapter(Profile)


def profile_to_json(profile: Profile) -> dict[str, object]:
    """The profile as plain JSON values."""
    content = _ADAPTER.dump_python(profile, mode="json")
    return {"schema_version": content.pop("schema_version"), **content}


def profile_from_json(content: Mapping[str, object], what: str) -> Profile:
    """Read a profile.

    Raises:
        DataError: It is of another schema version, or a field is not as it was written; the message names ``what``.
    """
    version = content.get("schema_version")
    if version != PROFILE_SCHEMA:
        raise DataError(f"{what} has schema version {version}, this is version {PROFILE_SCHEMA}", "measure it again")
    try:
        return _ADAPTER.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"]) or "file"
        raise DataError(f"{what}: {where}: {first['msg']}", "measure it again with `lens-bench profile`") from None
