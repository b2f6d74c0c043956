"""Profiling a model on a suite's pictures: what is asked, how it is called, what is kept after every step."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from lens_bench.cards import ModelCard, SuiteCard
from lens_bench.errors import UsageError
from lens_bench.perf.bench import Bench, Observer
from lens_bench.perf.ceilings import Ceilings, measure_ceilings
from lens_bench.perf.clock import WallClock, synchronise
from lens_bench.perf.hardware import fingerprint
from lens_bench.perf.knobs import Knobs
from lens_bench.perf.nvml import Nvml
from lens_bench.perf.offline import offline
from lens_bench.perf.profile_file import PROFILE_NAME, Profile, Scenario, profile_from_json, profile_to_json
from lens_bench.perf.server import server
from lens_bench.perf.single_stream import single_stream
from lens_bench.records import ImageTask, LoadReport, ModelOptions, Prediction
from lens_bench.run.answer import adapter_code
from lens_bench.run.files import RunFiles, read_json, write_json
from lens_bench.run.journal import Lock
from lens_bench.run.pictures import Pictures, take_pictures
from lens_bench.run.plan import Plan, Request, make_plan
from lens_bench.run.session import load_model
from lens_bench.run.timed import TimedModel, call, check_later, compile_seconds
from lens_bench.segmenter import (
    RunsElsewhere,
    Segmenter,
    SupportsCosts,
    SupportsExpect,
    SupportsForcedLength,
    SupportsRandomWeights,
)

# Where a profile was measured under something else, its parts do not stand in one file.
_FIXED = ("suite_hash", "weight_digest", "args", "work", "knobs", "device", "dtype", "engine", "hardware", "seed")


@dataclass(frozen=True, slots=True)
class Job:
    """A profile to be made: where it lies, what it will be about, and how."""

    plan: Plan
    knobs: Knobs
    segmenter: Segmenter
    files: RunFiles
    profile: Profile

    @property
    def path(self) -> Path:
        """The file."""
        return self.files.root / PROFILE_NAME

    def todo(self, profile: Profile) -> tuple[Scenario, ...]:
        """Scenarios that are not measured completely."""
        return tuple(s for s in self.knobs.scenarios if not _complete(profile, s))


def make_job(
    suite: SuiteCard,
    split: str,
    card: ModelCard,
    options: ModelOptions,
    segmenter: Segmenter,
    request: Request,
    knobs: Knobs,
) -> Job:
    """Find everything that can be wrong before a model is loaded, and tell the model what is asked of it.

    Raises:
        UsageError: The model cannot be built or asked as the knobs say.
        DataError: The split, or a picture that the model would read, is missing or invalid.
        CheckpointError: The model's weights are not where they should be.
    """
    _check(card, segmenter, knobs)
    if knobs.new_tokens is not None and isinstance(segmenter, SupportsForcedLength):
        segmenter.force_length(knobs.new_tokens)
    plan = make_plan(suite, split, card, options, _Nameless() if knobs.random_weights else segmenter, request)
    manifest = plan.manifest
    _check_pictures(knobs, manifest.n_images)
    if knobs.random_weights:
        manifest = replace(manifest, weight_digest=_digest({"random": request.seed, "model": manifest.model}, 64))
    work = knobs.work()
    digest = _digest({"run": manifest.digest, "work": work}, 8) if work else manifest.digest
    root = request.out / suite.name / split / f"{card.name}-{digest}"
    empty = Profile(
        suite=suite.name,
        split=split,
        suite_hash=manifest.suite_hash,
        model=card.name,
        weight_digest=manifest.weight_digest,
        digest=digest,
        args=dict(manifest.settings.args),
        work=work,
        knobs=knobs.manner(),
        device=options.device,
        dtype=options.dtype,
        engine=options.engine,
        hardware=fingerprint(options.device),
        environment=dict(manifest.environment),
        sees_ground_truth=card.sees_ground_truth,
        seed=request.seed,
        sessions=(),
    )
    return Job(plan, knobs, segmenter, RunFiles(root), empty)


def measured_before(job: Job) -> Profile:
    """What an earlier session of the same command measured; the empty profile where there is none.

    Raises:
        UsageError: The file is of another measurement.
        DataError: It cannot be read.
    """
    if job.plan.request.fresh or not job.path.exists():
        return job.profile
    found = profile_from_json(read_json(job.path), str(job.path))
    for name in _FIXED:
        before, now = getattr(found, name), getattr(job.profile, name)
        if before != now:
            raise UsageError(
                f"{job.path} was measured with {name} = {before!r}, this is {now!r}",
                "--fresh measures everything again; another --out keeps both",
            )
    packages = [p.environment.get("packages") for p in (found, job.profile)]
    if packages[0] != packages[1]:
        raise UsageError(f"{job.path} was measured under other package versions", "--fresh measures everything again")
    return found


def run_profile(job: Job, observer: Observer, kept: Callable[[Profile], None] = lambda _: None) -> Profile:
    """Measure what is missing; after every step what there is is written.

    Ctrl-C (KeyboardInterrupt) is raised again; the file holds what was measured.

    Args:
        job: What is measured.
        observer: Is told how far it is.
        kept: Is given what was measured whenever it is written, for whoever wants it in spite of an error.

    Raises:
        UsageError: The directory is in use, or holds another measurement.
        RunError: The model failed on a picture.
        CheckpointError: Raised by the model while loading.
    """
    with Lock(job.files):
        if job.plan.request.fresh:
            job.path.unlink(missing_ok=True)
        profile = measured_before(job)
        todo = job.todo(profile)
        if not todo:
            return profile.judged()
        return _Session(job, profile, observer, kept).measure(todo)


class _Session:
    """One loading of the model, and what is measured with it."""

    def __init__(self, job: Job, profile: Profile, observer: Observer, kept: Callable[[Profile], None]) -> None:
        started = datetime.now(UTC).isoformat(timespec="seconds")
        self._job, self._observer, self._kept = job, observer, kept
        self._profile = replace(profile, sessions=(*profile.sessions, started))
        self._measured = False

    def measure(self, todo: Sequence[Scenario]) -> Profile:
        job, knobs = self._job, self._job.knobs
        pictures = take_pictures(job.plan, knobs.images, knobs.image_size)
        compiled = compile_seconds()
        self._load(pictures)
        bench = self._bench()
        steps: Mapping[Scenario, Callable[[], None]] = {
            "single-stream": lambda: single_stream(bench, pictures.single, self._keeper("single_stream")),
            "offline": lambda: offline(
                bench, pictures.whole, knobs.batch_sizes, self._profile.offline, self._keeper("offline")
            ),
            "server": lambda: server(
                bench,
                pictures.single,
                knobs.bound,
                self._concurrency(len(pictures.single)),
                job.plan.request.seed,
                self._profile.server,
                self._keeper("server"),
            ),
        }
        try:
            for scenario in todo:
                steps[scenario]()
        finally:
            now = compile_seconds()
            if now is not None and self._measured:
                self._keep(compile_s=round(now - (compiled or 0.0), 3))
        return self._profile

    def _load(self, pictures: Pictures) -> None:
        job, segmenter, model = self._job, self._job.segmenter, self._job.plan.card.name
        if isinstance(segmenter, RunsElsewhere):
            segmenter.log_to(job.files.log)
        if isinstance(segmenter, SupportsExpect):
            with adapter_code(model, "preparing"):
                segmenter.expect([replace(task, pixels=None) for task in pictures.whole])
        start = time.perf_counter()
        report = _load_random(segmenter, model, job) if job.knobs.random_weights else load_model(segmenter, model)
        synchronise(job.plan.options.device)
        seconds = round(time.perf_counter() - start, 3)
        notes = (*report.warnings, *report.notes)
        self._profile = replace(self._profile, load_s=seconds, parameters=report.parameters, notes=notes)

    def _bench(self) -> Bench:
        job, options = self._job, self._job.plan.options
        model = TimedModel(job.segmenter, job.plan.card.name, options.device)
        ceilings: Ceilings | None = None
        if isinstance(job.segmenter, SupportsCosts):
            ceilings = measure_ceilings(options.device, options.dtype)
            self._profile = replace(self._profile, ceilings=ceilings)
        standing = ["the model runs in a process of its own: its memory is not counted"]
        return Bench(
            call=lambda tasks: call(model, tasks),
            ask=lambda tasks: check_later(model, tasks),
            clock=WallClock(),
            device=options.device,
            duration=job.knobs.duration,
            observer=self._observer,
            session=len(self._profile.sessions),
            driver=Nvml.open(options.device),
            ceilings=ceilings,
            standing=tuple(standing) if isinstance(job.segmenter, RunsElsewhere) else (),
        )

    def _concurrency(self, most: int) -> int:
        knobs, swept = self._job.knobs, self._profile.offline
        best = swept.best if swept is not None else None
        size = knobs.concurrency or (best.batch_images if best is not None else self._job.plan.card.batch_size)
        return min(size, most)

    def _keeper(self, part: str) -> Callable[[object], None]:
        return lambda found: self._keep(**{part: found})

    def _keep(self, **parts: object) -> None:
        self._profile = replace(self._profile, **parts).judged()  # type: ignore[arg-type]  # named by ``_keeper``
        write_json(self._job.path, profile_to_json(self._profile))
        self._kept(self._profile)
        self._measured = True


# ---------------------------------------------------------------------------------------------- before and after


class _Nameless:
    """Stands for a model whose weights are not there to be digested."""

    def load(self) -> LoadReport:
        raise AssertionError("only a stand-in")

    def segment(self, tasks: Sequence[ImageTask]) -> list[Prediction]:
        raise AssertionError("only a stand-in")

    def close(self) -> None:
        """Nothing to free."""


def _check(card: ModelCard, segmenter: Segmenter, knobs: Knobs) -> None:
    if not card.timed:
        raise UsageError(f"model {card.name} only looks its answers up: it has no speed to measure")
    if knobs.random_weights and not isinstance(segmenter, SupportsRandomWeights):
        raise UsageError(f"model {card.name} cannot be built without its weights", "leave out --random-weights")
    if knobs.new_tokens is not None and not isinstance(segmenter, SupportsForcedLength):
        raise UsageError(f"model {card.name} cannot be made to write a given length", "leave out --new-tokens")
    if knobs.image_size is not None and card.sees_ground_truth:
        raise UsageError(f"model {card.name} sees the ground truth, which has its own size", "leave out --image-size")


def _check_pictures(knobs: Knobs, there_are: int) -> None:
    """A picture stands in a call once, so the largest call needs as many."""
    asked = {"--batch-sizes": max(knobs.batch_sizes, default=0), "--concurrency": knobs.concurrency or 0}
    for option, most in asked.items():
        if most > there_are:
            raise UsageError(f"{option} {most} needs as many pictures, the split has {there_are}", "smaller calls")
        if most > knobs.images:
            raise UsageError(f"{option} {most} needs as many pictures", f"--images {most}")


def _load_random(segmenter: Segmenter, model: str, job: Job) -> LoadReport:
    if not isinstance(segmenter, SupportsRandomWeights):
        raise UsageError(f"model {model} cannot be built without its weights")
    with adapter_code(model, "building"):
        return segmenter.load_random(job.plan.request.seed)


def _complete(profile: Profile, scenario: Scenario) -> bool:
    part = {"single-stream": profile.single_stream, "offline": profile.offline, "server": profile.server}[scenario]
    return part is not None and part.complete


def _digest(content: Mapping[str, object], length: int) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:length]
