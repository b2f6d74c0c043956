"""A crew on paper: what workers answer becomes predictions, once each, and figures of speed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lens_bench.perf.speed import Call, Speed
from lens_bench.records import Prediction
from lens_bench.run.watch import Quiet
from lens_bench.run.workers.crew import Crew
from lens_bench.run.workers.pool import Identity
from lens_bench.run.workers.worker import ImageAnswer, ImageParcel

from .paper_pool import PaperPool


def reply(worker: int, parcels: Sequence[ImageParcel]) -> ImageAnswer:
    """One call of a second for every image."""
    predictions = tuple(tuple(Prediction(q.sample_id, "no_mask") for q in p.task.queries) for p in parcels)
    calls = tuple(Call(1.0, 1, len(p.task.queries), worker) for p in parcels)
    return ImageAnswer(predictions, ("",) * len(predictions), {}, calls, (), 0, 1.0, None)


def test_a_call_that_was_repeated_meanwhile_counts_once(tiny: Any, tmp_path: Path) -> None:
    """The first worker is overdue and answers all the same, before the end; the third never answers."""
    plan = tiny.plan("oracle", tmp_path, batch_size=2)
    same = {"weight_digest": plan.manifest.weight_digest, "environment": dict(plan.manifest.environment)}
    pool: PaperPool[ImageParcel, ImageAnswer] = PaperPool(
        3,
        image_s=lambda worker: {1: 3.25, 2: 0.5, 3: 1000.0}[worker],
        reply=reply,
        identity=lambda worker: Identity("paper", worker, "paper", **same),
    )
    crew, speed, work = Crew(pool, [plan], 3), Speed("cpu"), plan.tasks(lambda _: True)
    crew.load(plan, len(work), Quiet())
    found = [p.sample_id for part in crew.answers(plan, work, speed, Quiet(), lambda *_: None) for p in part]
    assert sorted(found) == sorted(s.id for s in plan.samples)
    assert speed.reasons == ["calls repeated by another worker: 2"]
    assert sum(c.expressions for c in speed.calls) == 72 and sum(c.images for c in speed.calls) == 12
    perf: Any = speed.to_json()
    assert perf["expressions"] == 72 and perf["model_s"] == 14.0
    assert [(w["expressions"], w["model_s"]) for w in perf["workers"]] == [(0, 2.0), (72, 12.0)]
