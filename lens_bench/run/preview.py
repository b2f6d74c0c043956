"""What a run would do and what it would take, or everything that stands in its way. Nothing is loaded or written."""

from __future__ import annotations

import glob
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from lens_bench.cards import ModelCard, SuiteCard
from lens_bench.data.split import Split, known_root, open_split, require_root
from lens_bench.data.tasks import require_images
from lens_bench.errors import DataError, LensBenchError, RunError
from lens_bench.perf.hardware import fingerprint
from lens_bench.perf.profile_file import PROFILE_NAME, profile_from_json
from lens_bench.run.evaluate import journalled
from lens_bench.run.files import RunFiles, read_json
from lens_bench.run.manifest import Manifest, read_manifest
from lens_bench.run.plan import Plan, Request, make_model, make_plan, select_samples, weights_of
from lens_bench.scoring.protocols import get_protocol

_LINE_BYTES = 650  # of predictions.jsonl for an expression, masks of RefCOCO; see docs/scale.md
_SPARE = 2**20  # bytes for the small files

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Preview:
    """One split.

    Attributes:
        plan: What would be done; None where something stands in the way.
        obstacles: Everything that does, in the order in which a run would meet it.
    """

    plan: Plan | None
    obstacles: tuple[LensBenchError, ...]


@dataclass(frozen=True, slots=True)
class Earlier:
    """What an earlier run of the model on this hardware measured; ``where`` is its directory."""

    where: Path
    expressions_per_s: float
    memory_mb: float | None
    memory_of: str


def preview(
    suite: SuiteCard, split: str, card: ModelCard, request: Request, *, elsewhere: bool, to_make: bool
) -> Preview:
    """Plan a split, or find all that stands in the way: environment and model, weights, data, images, room.

    Args:
        suite: The suite's card.
        split: Name of a split on it.
        card: The model's card.
        request: What is asked for.
        elsewhere: The model would be loaded by workers, see ``make_model``.
        to_make: The split is not there and would be generated: then it is no obstacle, and there is no plan.
    """
    found: list[LensBenchError] = []
    plan: Plan | None = None
    made = _noting(found, lambda: make_model(card, request, elsewhere=elsewhere))
    if made is None:
        _check_data(found, suite, split, card, request, to_make)
        return Preview(None, tuple(found))
    options, segmenter = made
    with closing(segmenter):
        try:
            plan = make_plan(suite, split, card, options, segmenter, request)
        except LensBenchError as first:
            _noting(found, lambda: weights_of(segmenter, card))
            _check_data(found, suite, split, card, request, to_make)
            expected = to_make and isinstance(first, DataError)
            if not expected and first.message not in {error.message for error in found}:
                found.insert(0, first)
    if plan is not None:
        _noting(found, lambda: _check_room(plan))
    return Preview(plan if not found else None, tuple(found))


def forecast(plan: Plan) -> list[tuple[str, str]]:
    """What the rest of a run would take: time and memory by an earlier run or profile on this hardware, and disk."""
    remaining = len(plan.samples) - journalled(plan)
    needed, free = _disk(plan)
    disk = f"about {_size(needed)} under {plan.request.out}, {_size(free)} free"
    if not plan.card.timed:
        return [("time", "none to speak of: the answers are looked up"), ("disk", disk)]
    earlier = earlier_run(plan)
    if earlier is None:
        unknown = f"unknown: {plan.request.out} holds no run or profile of {plan.card.name} on this hardware"
        return [("time", unknown), ("memory", "unknown"), ("disk", disk)]
    rate = earlier.expressions_per_s
    time = f"about {_duration(remaining / rate)} for {remaining:,} expressions at {rate:.3g}/s, as in {earlier.where}"
    memory = f"{earlier.memory_mb:,.0f} MiB of the {earlier.memory_of}" if earlier.memory_mb else "unknown"
    return [("time", time), ("memory", memory), ("disk", disk)]


def earlier_run(plan: Plan) -> Earlier | None:
    """The earlier run or profile that is most like the planned one; None where there is none on this hardware."""
    wanted, name = plan.manifest, glob.escape(plan.card.name)
    best: tuple[tuple[bool, bool, bool, str], Earlier] | None = None
    for path in sorted(plan.request.out.glob(f"*/*/{name}-*/manifest.json")):
        try:
            manifest = read_manifest(RunFiles(path.parent))
            measured = _measured(RunFiles(path.parent), fingerprint(plan.options.device))
        except DataError:  # somebody else's concern: this is an estimate
            continue
        if measured is None or manifest.model != wanted.model or manifest.device != wanted.device:
            continue
        rank = (*_alike(manifest, wanted), manifest.created)
        if best is None or rank > best[0]:
            best = rank, measured
    return best[1] if best is not None else None


def _alike(manifest: Manifest, wanted: Manifest) -> tuple[bool, bool, bool]:
    return (
        manifest.settings == wanted.settings,
        manifest.weight_digest == wanted.weight_digest,
        (manifest.suite, manifest.split) == (wanted.suite, wanted.split),
    )


def _measured(files: RunFiles, hardware: str) -> Earlier | None:
    """The figures of a directory: its profile's throughput, else its run's."""
    path = files.root / PROFILE_NAME
    if path.is_file():
        profile = profile_from_json(read_json(path), path.name)
        best = profile.offline.best if profile.offline is not None else None
        rate = best.expressions_per_s.value if best is not None and best.expressions_per_s is not None else 0.0
        if profile.hardware == hardware and rate > 0 and not profile.work:
            memories = [c.memory for _, c in profile.circumstances()]
            device = max((m.peak_allocated_mb for m in memories if m.peak_allocated_mb is not None), default=None)
            process = max((m.peak_rss_mb for m in memories), default=None)
            return Earlier(files.root, rate, device or process, "device" if device else "process")
    perf = read_json(files.summary).get("perf") if files.summary.is_file() else None
    if not isinstance(perf, dict) or perf.get("hardware") != hardware:
        return None
    speed, device, process = (_number(perf.get(k)) for k in ("expressions_per_s", "peak_device_mb", "peak_rss_mb"))
    return Earlier(files.root, speed, device or process, "device" if device else "process") if speed else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


# ---------------------------------------------------------------------------------------------- obstacles


def _noting(found: list[LensBenchError], act: Callable[[], T]) -> T | None:
    with _collecting(found):
        return act()
    return None


@contextmanager
def _collecting(found: list[LensBenchError]) -> Iterator[None]:
    try:
        yield
    except LensBenchError as error:
        found.append(error)


def _check_data(
    found: list[LensBenchError], suite: SuiteCard, split: str, card: ModelCard, request: Request, to_make: bool
) -> None:
    for name in dict.fromkeys([request.protocol or suite.protocol, *request.also]):
        _noting(found, partial(get_protocol, name))
    if to_make:
        if request.data_root != known_root(None):  # the default one is made too
            _noting(found, lambda: require_root(request.data_root))
        return
    opened = _opened(found, suite, split, request)
    if opened is not None and card.reads_images:
        _noting(found, lambda: require_images(select_samples(opened.samples, request.limit, request.shard)))


def _opened(found: list[LensBenchError], suite: SuiteCard, split: str, request: Request) -> Split | None:
    """The split. One that is not whole is noted and opened all the same, since its images may be missing too."""
    before = len(found)
    opened = _noting(found, lambda: open_split(suite, split, request.data_root, allow_partial=request.allow_partial))
    if len(found) > before and not request.allow_partial:
        return _noting([], lambda: open_split(suite, split, request.data_root, allow_partial=True))
    return opened


def _check_room(plan: Plan) -> None:
    needed, free = _disk(plan)
    if needed > free:
        raise RunError(
            f"{plan.request.out} has room for {_size(free)}, the results take about {_size(needed)}",
            "make room there, or name another place with --out",
        )


def _disk(plan: Plan) -> tuple[int, int]:
    """Bytes that the rest of the run takes, and bytes that are free where it writes."""
    there = next(p for p in (plan.files.root.absolute(), *plan.files.root.absolute().parents) if p.exists())
    remaining = len(plan.samples) - journalled(plan)
    return remaining * _LINE_BYTES * 2 + _SPARE, shutil.disk_usage(there).free  # predictions, and about as much again


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{max(count / 2**20, 1):.0f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
