"""What `profile` does: measure, write, draw, show."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lens_bench import console
from lens_bench.commands.data import ensure_made, is_made
from lens_bench.console import note, out, print_json, prints_to_stderr
from lens_bench.data.split import split_card
from lens_bench.errors import UsageError
from lens_bench.lock import require_folder
from lens_bench.perf.ceilings import Ceilings
from lens_bench.perf.knobs import Knobs
from lens_bench.perf.profile_file import Profile, profile_to_json
from lens_bench.perf.quantiles import Estimate, requests_needed
from lens_bench.perf.roofline import Roof
from lens_bench.perf.server import LONGEST
from lens_bench.perf.stages import Stage
from lens_bench.progress import make_progress, waiting
from lens_bench.registry import find_model, find_suite
from lens_bench.run.plan import Request, make_model
from lens_bench.run.profile import Job, make_job, measured_before, run_profile

_NONE = "–"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command does beside measuring."""

    plots: bool = True
    dry_run: bool = False
    as_json: bool = False


def profile(suite_name: str, split: str | None, model: str, request: Request, knobs: Knobs, wishes: Wishes) -> None:
    """Measure one model on one split's pictures.

    Raises:
        UsageError: More than one split is the suite's default, and none was named.
    """
    require_folder(request.out)
    suite, card = find_suite(suite_name), find_model(model)
    if split is None and len(suite.default_splits) > 1:
        found = ", ".join(suite.default_splits)
        note(f"{suite.name} has the splits {found}: pictures are taken from {suite.default_splits[0]}")
    name = split or suite.default_splits[0]
    split_card(suite, name)
    if wishes.dry_run and suite.generated and not is_made(suite, name, request.data_root):
        raise UsageError(f"{suite.name} {name} is not made yet", f"`lens-bench data make {suite.name}` makes it")
    if not wishes.dry_run:
        ensure_made(suite, name, request.data_root)
    with prints_to_stderr():
        options, segmenter = make_model(card, request)
    with closing(segmenter):
        with prints_to_stderr():
            job = make_job(suite, name, card, options, segmenter, request, knobs)
        before = measured_before(job)
        if wishes.dry_run:
            out.print(console.facts(_plan_facts(job, before)))
        else:
            _measure(job, before, wishes)


def _measure(job: Job, before: Profile, wishes: Wishes) -> None:
    if not job.todo(before):
        note("everything was measured before; --fresh measures it again")
    measured: list[Profile] = []
    try:
        with prints_to_stderr():
            measured.append(run_profile(job, make_progress(), measured.append))
    finally:  # what was measured is shown, whatever became of the rest
        if measured:
            _show(job, measured[-1], wishes)


def _show(job: Job, found: Profile, wishes: Wishes) -> None:
    paths = [job.path]
    if wishes.plots:
        from lens_bench.report.plots.profile import draw_profile

        with waiting("drawing"):
            paths += draw_profile(found, job.files.root / "profile")
    if wishes.as_json:
        print_json({**profile_to_json(found), "path": str(job.path)})
        return
    for part in profile_tables(found):
        out.print(part)
    for path in paths:
        out.print(Text(str(path), style="dim"), soft_wrap=True)
    if found.sees_ground_truth:
        note(f"{found.model} sees the ground truth: its figures are bounds, not results")


# ---------------------------------------------------------------------------------------------- tables


def profile_tables(found: Profile) -> Iterator[RenderableType]:
    """What a terminal shows of a profile."""
    yield console.facts(_facts(found))
    yield Text()
    if found.single_stream is not None:
        yield _summary_table(found)
        if found.single_stream.stages:
            yield Text()
            yield _stage_table(found.single_stream.stages, "single-stream, ms a call")
    elif found.offline is not None or found.server is not None:
        yield _summary_table(found)
    best = found.offline.best if found.offline is not None else None
    if best is not None and best.stages:
        yield Text()
        yield _stage_table(best.stages, f"offline, {best.batch_images} a call, ms a call")
    if found.offline is not None and found.offline.points:
        yield Text()
        yield _sweep_table(found)
    if found.server is not None and found.server.trials:
        yield Text()
        yield _trial_table(found)
    if unknown := _unknown(found):
        yield Text(f"work not known: {', '.join(unknown)}; so whole calls have no MFU", style="dim")
    for reason in found.reasons:
        yield Text(f"not comparable: {reason}", style="yellow")


def _unknown(found: Profile) -> list[str]:
    """Stages whose work the model says it does not know."""
    parts = [found.single_stream, *(found.offline.points if found.offline is not None else ())]
    return list(dict.fromkeys(s.name for part in parts if part is not None for s in part.stages if not s.known))


def _facts(found: Profile) -> list[tuple[str, object]]:
    compiled = f", {found.compile_s:g} s compiling" if found.compile_s else ""
    single = found.single_stream
    first = f", first call {single.warmup.first_call_ms:,.4g} ms" if single is not None else ""
    return [
        ("model", found.model + ("".join(f", {k} {v}" for k, v in found.work.items()))),
        ("parameters", f"{found.parameters:,}" if found.parameters else ""),
        ("on", f"{found.device}, {found.dtype}; {found.hardware}"),
        ("pictures", f"{found.suite} {found.split}, {found.knobs.get('images')} at most"),
        ("loading", f"{found.load_s:g} s{compiled}{first}"),
        ("ceilings", _ceilings(found.ceilings)),
    ]


def _ceilings(found: Ceilings | None) -> str:
    if found is None:
        return "not measured: the model does not say what its work is"
    return f"{found.matmul_flops / 1e12:.3g} TFLOP/s ({found.dtype}), {found.copy_bytes / 1e9:.3g} GB/s copied"


def _summary_table(found: Profile) -> Table:
    table = console.columns("scenario", "figure", "95 %", "MFU", "peak MiB", "J/expression")
    single, swept, served = found.single_stream, found.offline, found.server
    if single is not None:
        waits = single.latency_ms
        rows = [("p50", waits.p50), ("p90", waits.p90), ("p99", waits.p99)]
        for number, (name, value) in enumerate(rows):
            more = _use(single.roof, single.circumstances.memory.peak_allocated_mb, single.energy_per_expression_j)
            cells = more if not number else ("", "", "")
            table.add_row("single-stream" if not number else "", f"{name} {_ms(value)}", _interval(value), *cells)
    best = swept.best if swept is not None else None
    if best is not None and best.images_per_s is not None and best.expressions_per_s is not None:
        more = _use(best.roof, best.circumstances.memory.peak_allocated_mb, best.energy_per_expression_j)
        title = f"{best.images_per_s.value:.4g} images/s ({best.batch_images} a call)"
        table.add_row("offline", title, _interval(best.images_per_s), *more)
        table.add_row("", f"{best.expressions_per_s.value:.4g} expressions/s", _interval(best.expressions_per_s))
    if served is not None:
        bound = f"p{100 * served.percentile:g} within {served.bound_ms:g} ms"
        figure = f"{served.rate.value:.4g} requests/s" if served.rate is not None else "no rate holds"
        unfinished = "" if served.complete else " (search not finished)"
        interval = _interval(served.rate) if served.rate is not None else ""
        table.add_row("server", f"{figure}, {bound}{unfinished}", interval)
    return table


def _stage_table(stages: tuple[Stage, ...], title: str) -> Table:
    table = console.columns(title, "mean", "p50", "p90", "p99", "share", "GFLOP", "bound by", "of it", "MFU")
    for column in table.columns[1:]:
        column.justify = "right"
    for stage in stages:
        over, bound = stage.roof, list[str]() if stage.known else ["not known"]
        if over is not None:
            bound = [f"{over.flops / 1e9:.3g}", over.bound, _percent(over.attained), _percent(over.mfu)]
        values = (f"{stage.mean_ms:.3g}", *(f"{e.value:.3g}" for e in (stage.p50, stage.p90, stage.p99)))
        table.add_row(stage.name, *values, _percent(stage.share), *bound)
    return table


def _sweep_table(found: Profile) -> Table:
    table = console.columns("offline: images a call", "images/s", "95 %", "expressions/s", "calls", "peak MiB", "MFU")
    for point in found.offline.points if found.offline is not None else ():
        if point.images_per_s is None or point.expressions_per_s is None:
            table.add_row(str(point.batch_images), "does not fit into memory")
            continue
        mfu, memory, _ = _use(point.roof, point.circumstances.memory.peak_allocated_mb, None)
        rates = f"{point.images_per_s.value:.4g}", _interval(point.images_per_s), f"{point.expressions_per_s.value:.4g}"
        table.add_row(str(point.batch_images), *rates, str(point.calls), memory, mfu)
    if found.offline is not None and found.offline.ended:
        table.caption = found.offline.ended
        table.caption_justify = "left"
    return table


def _trial_table(found: Profile) -> Table:
    served = found.server
    table = console.columns(
        "server: requests/s", "requests", "late", "latency ms", "p50 ms", "busy", "sustained", "holds"
    )
    for trial in sorted(served.trials if served is not None else (), key=lambda t: t.rate):
        behind = "" if trial.kept_up else ", does not keep up"
        verdict = "yes" if trial.holds else "no, cut short" if trial.cut else f"no{behind}"
        values = f"{trial.latency_ms.value:.4g}", f"{trial.p50_ms.value:.4g}"
        sustained = f"{trial.sustained.value:.4g}" if trial.sustained is not None else _NONE
        counts = str(trial.requests), str(trial.late)
        table.add_row(f"{trial.rate:.4g}", *counts, *values, _percent(trial.busy), sustained, verdict)
    return table


def _use(over: Roof | None, memory: float | None, energy: float | None) -> tuple[str, str, str]:
    return (
        _percent(over.mfu) if over is not None else _NONE,
        f"{memory:,.0f}" if memory is not None else _NONE,
        f"{energy:.3g}" if energy is not None else _NONE,
    )


def _interval(value: Estimate) -> str:
    low, high = (_NONE if end is None else f"{end:.4g}" for end in (value.low, value.high))
    return f"[{low}, {high}]"


def _ms(value: Estimate) -> str:
    return f"{value.value:.4g} ms"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _plan_facts(job: Job, before: Profile) -> list[tuple[str, object]]:
    left = job.todo(before)
    return [
        ("suite", f"{job.profile.suite} {job.profile.split}"),
        ("model", job.profile.model + ("".join(f", {k} {v}" for k, v in job.profile.work.items()))),
        ("device", f"{job.profile.device}, {job.profile.dtype}; {job.profile.hardware}"),
        ("to measure", ", ".join(left) or "nothing: everything was measured before"),
        ("how", ", ".join(f"{k} {v}" for k, v in job.profile.knobs.items())),
        ("server", _server_plan(job) if "server" in left else ""),
        ("results", job.path),
    ]


def _server_plan(job: Job) -> str:
    needed = requests_needed(job.knobs.bound.percentile)
    return f"{needed:,} requests a trial, or as many as come in {LONGEST * job.knobs.duration:g} s"
