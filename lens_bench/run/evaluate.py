"""The loop: one model over one split, journalled, resumable, scored while it runs."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

from lens_bench.errors import DataError, RunError
from lens_bench.perf.speed import Speed
from lens_bench.records import LoadReport, Prediction
from lens_bench.run.files import JsonObject, RunFiles
from lens_bench.run.journal import Journal, Lock, read_asked, repair
from lens_bench.run.manifest import Manifest, check_same, read_manifest
from lens_bench.run.plan import Plan
from lens_bench.run.results import other_protocols, write_results
from lens_bench.run.scorer import BackgroundScorer
from lens_bench.run.seen_images import SeenImages
from lens_bench.run.session import InProcess, Session
from lens_bench.run.summary import earlier_speed
from lens_bench.run.watch import Progress, Quiet
from lens_bench.scoring.protocols import PROTOCOLS, get_protocol
from lens_bench.segmenter import Segmenter


@dataclass(frozen=True, slots=True)
class Outcome:
    """What running a split gave.

    Attributes:
        summary: ``summary.json``, of the run's own protocol; ``others`` are those of other protocols.
        answered: How many expressions were answered now.
    """

    files: RunFiles
    summary: JsonObject
    answered: int
    others: tuple[JsonObject, ...] = ()


def run_splits(
    plans: Sequence[Plan], segmenter: Segmenter, progress: Progress | None = None, session: Session | None = None
) -> Iterator[Outcome]:
    """Run several splits with one model; yields each outcome as it is there. See ``run_split``.

    Args:
        plans: One for each split.
        segmenter: Constructed, not loaded.
        progress: Who watches.
        session: Where the model answers; by default in this process.
    """
    chosen = session or InProcess(segmenter, plans)
    try:
        for plan in plans:
            yield run_split(plan, chosen, progress or Quiet())
    finally:
        chosen.close(progress or Quiet())


def run_split(plan: Plan, session: Session, progress: Progress) -> Outcome:
    """Answer what the journal lacks, score everything, write the files of the run.

    Ctrl-C (KeyboardInterrupt) writes scores and summary of what there is, marked as incomplete, and is raised again.

    Raises:
        UsageError: The directory is in use, or holds another run.
        DataError: The journal is damaged in the middle.
        RunError: More predictions failed than the request allows; everything is kept.
        CheckpointError: Raised by the model while loading.
    """
    with Lock(plan.files):
        done, scorer = _resume(plan, progress)
        speed = Speed(plan.options.device)
        speed.reasons += [f"resumed: {len(done)} expressions were answered in an earlier session"] if done else []
        speed.reasons += ["one shard of a run"] if plan.request.shard else []
        if left_out := plan.manifest.data.get("left_out"):
            progress.note(f"left out {left_out} expressions whose annotation covers no pixel of its image")
        progress.start(f"{plan.card.name} on {plan.manifest.suite} {plan.manifest.split}", len(plan.samples), len(done))
        try:
            _answer_rest(plan, session, done, scorer, speed, progress)
        finally:
            progress.stop()
            summary, *others = _finish(plan, scorer, speed)
    return Outcome(plan.files, summary, sum(c.expressions for c in speed.calls), tuple(others))


def journalled(plan: Plan) -> int:
    """How many expressions of the plan an earlier session answered; for ``--dry-run``, changes nothing."""
    if plan.request.fresh or not plan.files.predictions.exists():
        return 0
    with plan.files.predictions.open("rb") as stream:
        return len({line.partition(b",")[0] for line in stream if line.endswith(b"\n")})


def _resume(plan: Plan, progress: Progress) -> tuple[set[str], BackgroundScorer]:
    """Open or continue the directory: check the manifest, mend the journal, score what it holds."""
    files = plan.files
    if plan.request.fresh:
        _remove(files)
    manifest = plan.manifest
    if files.manifest.exists():
        stored = read_manifest(files)
        check_same(stored, plan.manifest, files)
        manifest = replace(manifest, protocol=stored.protocol)
        if stored.model_card != plan.manifest.model_card:  # what is said of a model may be corrected, e.g. its source
            replace(stored, model_card=plan.manifest.model_card).write(files)
    else:
        if files.predictions.exists():
            raise DataError(f"{files.root} has predictions but no manifest", "--fresh starts the run again")
        plan.manifest.write(files)
    if torn := repair(files.predictions):
        progress.note(f"cut a torn line of {torn} bytes off {files.predictions.name}")
    protocols = [get_protocol(name) for name in _protocols(plan, manifest)]
    scorer = BackgroundScorer(protocols, plan.samples, manifest.seed, manifest.suite_hash)
    done: set[str] = set()
    known = {s.id for s in plan.samples}
    for batch in read_asked(files.predictions, known, without_errors=plan.request.retry_errors):
        done.update(p.sample_id for p in batch)
        scorer.put(*batch)
    return done, scorer


def _protocols(plan: Plan, stored: Manifest) -> dict[str, None]:
    """Names of the protocols to score under: the run's own, those asked for now, those it was scored under before."""
    request = plan.request
    asked = [stored.protocol, *([request.protocol] if request.protocol else []), *request.also]
    return dict.fromkeys([*asked, *other_protocols(plan.files, stored)])


def _answer_rest(
    plan: Plan, session: Session, done: set[str], scorer: BackgroundScorer, speed: Speed, progress: Progress
) -> None:
    work = plan.tasks(lambda sample: sample.id not in done)
    if not work:
        return
    answered = {s.image_id: s.image for s in plan.samples if s.id in done} if plan.card.reads_images else {}
    images = SeenImages(plan.files.images, answered)
    images.check()
    report = session.load(plan, len(work), progress)
    _record_session(plan, report, len(done))
    for text in report.warnings:
        progress.note(text)
    speed.load_s = session.load_s
    with Journal(plan.files.predictions) as journal, images, speed.loop(), _settled():
        budget = ErrorBudget(plan.request.max_errors, len(plan.samples), scorer.errors)
        for predictions in session.answers(plan, work, speed, progress, images.see):
            journal.append(predictions)
            scorer.put(*predictions)
            speed.answers(predictions)
            progress.advance(len(predictions), budget.spend(predictions))


@contextmanager
def _settled() -> Iterator[None]:
    """Leave what is there already, samples and model, out of garbage collections: it all outlives the loop."""
    if gc.get_freeze_count():  # somebody else's, who will thaw it
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _record_session(plan: Plan, report: LoadReport, done: int) -> None:
    """Note in the manifest what the model is loaded under this time; what the run was begun under stays."""
    stored = read_manifest(plan.files)
    session = {"started": plan.manifest.created, "done_before": done, "environment": dict(plan.manifest.environment)}
    sessions = (*stored.sessions, session) if done else (session,)
    replace(stored, load_report=asdict(report), sessions=sessions).write(plan.files)


class ErrorBudget:
    """Counts failed predictions, those of earlier sessions included, and aborts the run above ``--max-errors``.

    Args:
        limit: A count (int), or a share of the expressions (float): 0 aborts on the first failure, 1.0 never.
        expressions: Of the run.
        spent: Failures of earlier sessions.
    """

    def __init__(self, limit: int | float, expressions: int, spent: int) -> None:
        self._allowed = limit if isinstance(limit, int) else limit * expressions
        self._total = expressions
        self._spent = spent

    def spend(self, predictions: Sequence[Prediction]) -> int:
        """Number of errors among the predictions. Raises ``RunError`` when the budget is overdrawn."""
        errors = [p for p in predictions if p.status == "error"]
        self._spent += len(errors)
        if errors and self._spent > self._allowed:
            raise RunError(
                f"stopped: {self._spent} of {self._total} expressions failed; the last: {errors[-1].error}",
                "what was answered is kept; --max-errors allows more (100% never aborts), --retry-errors asks the "
                "failed ones again",
            )
        return len(errors)


def _finish(plan: Plan, scorer: BackgroundScorer, speed: Speed) -> list[JsonObject]:
    """Write scores and summaries; the summaries, that of the run's own protocol first."""
    if scorer.handed < len(plan.samples):  # an interruption may have come between the journal and the scorer
        repair(plan.files.predictions)
        for batch in read_asked(plan.files.predictions, {s.id for s in plan.samples}):
            scorer.put(*batch)
    scores = scorer.finish()
    perf = speed.to_json() if speed.calls else earlier_speed(plan.files)
    return list(write_results(plan.files, read_manifest(plan.files), scores, perf).values())


def _remove(files: RunFiles) -> None:
    """Forget a run. Shards below it are runs of their own, which others may be working on."""
    others = [path for name in PROTOCOLS for path in (files.other_scores(name), files.other_summary(name))]
    own = [files.predictions, files.images, files.scores, files.summary, files.report, files.log, files.manifest]
    for path in (*others, *own):
        path.unlink(missing_ok=True)
