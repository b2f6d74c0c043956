"""One worker, called as the driving process would, without Ray between them."""

from __future__ import annotations

import dataclasses
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from lens_bench.errors import CheckpointError, DataError, LensBenchError
from lens_bench.records import LoadReport, Prediction
from lens_bench.run.plan import Plan, make_model
from lens_bench.run.workers.crew import unfit
from lens_bench.run.workers.pool import Identity
from lens_bench.run.workers.worker import ImageParcel, Job, Worker

from .worker_models import BROKEN, LOOKING, model_of


def hire(plan: Plan, number: int = 1) -> Worker:
    return Worker(pickle.loads(pickle.dumps(Job(plan.card, plan.request, Path.cwd(), plan.files.log))), number)


def parcels(plan: Plan) -> list[ImageParcel]:
    """As they arrive: through pickle."""
    made = [ImageParcel(task, samples[0].image) for task, samples in plan.tasks(lambda _: True)]
    return pickle.loads(pickle.dumps(made))  # type: ignore[no-any-return]


def ready(plan: Plan) -> Worker:
    worker = hire(plan)
    identity = worker.introduce()
    assert isinstance(identity, Identity)
    assert unfit(identity, plan.manifest) is None
    loaded = worker.load(None)
    assert isinstance(loaded, tuple)
    assert isinstance(loaded[0], LoadReport)
    return worker


def test_a_worker_answers_as_the_model_itself(tiny: Any, tmp_path: Path) -> None:
    plan = tiny.plan("noisy-oracle", tmp_path, args={"shift": "6", "drop": "0.2"})
    _, model = make_model(plan.card, plan.request)
    model.load()
    sent = parcels(plan)
    answer = ready(plan).answer(sent, [])
    expected = model.segment([p.task for p in sent])
    assert [p for image in answer.predictions for p in image] == expected
    assert [len(image) for image in answer.predictions] == [len(p.task.queries) for p in sent]
    assert sum(c.expressions for c in answer.calls) == 72
    assert {c.worker for c in answer.calls} == {1}
    assert answer.peak_rss_mb > 1
    assert not answer.unread


def test_images_are_read_there_and_what_was_read_ahead_is_the_same(tiny: Any, tmp_path: Path) -> None:
    plan = tiny.plan(model_of(tmp_path / "looking", LOOKING, "Looking"), tmp_path)
    sent = parcels(plan)
    alone, ahead = ready(plan), ready(plan)
    for start in range(0, len(sent), 3):
        part = sent[start : start + 3]
        assert ahead.answer(part, sent[start + 3 : start + 6]).predictions == alone.answer(part, []).predictions
    sums = {p.text for part in (alone.answer(sent, []).predictions) for p in part}
    assert len(sums) == len(sent)
    alone.close()


def test_another_split_asks_other_things_about_an_image_that_was_read_ahead(tiny: Any, tmp_path: Path) -> None:
    plan = tiny.plan(model_of(tmp_path / "looking", LOOKING, "Looking"), tmp_path)
    first, second, *_ = parcels(plan)
    worker = ready(plan)
    worker.answer([first], [second])
    asked = dataclasses.replace(second.task, queries=second.task.queries[:1])
    ((prediction,),) = worker.answer([ImageParcel(asked, second.source)], []).predictions
    assert prediction.sample_id == second.task.queries[0].sample_id


def test_an_image_that_cannot_be_read_is_named_and_costs_only_itself(own_tiny: Any, tmp_path: Path) -> None:
    plan = own_tiny.plan(model_of(tmp_path / "looking", LOOKING, "Looking"), tmp_path)
    sent = parcels(plan)[:4]
    assert sent[2].source
    Path(sent[2].source.name).write_bytes(b"no image")
    answer = ready(plan).answer(sent, [])
    assert list(answer.unread) == [2]
    assert isinstance(answer.unread[2], DataError)
    assert [len(image) for image in answer.predictions] == [6, 6, 0, 6]


def test_memory_that_runs_out_makes_calls_smaller_from_then_on(tiny: Any, tmp_path: Path) -> None:
    plan = tiny.plan("oom", tmp_path, args={"limit": "12"}, batch_size=4)
    worker, sent = ready(plan), parcels(plan)
    first = worker.answer(sent[:4], [])
    assert all(p.status == "ok" for image in first.predictions for p in image)
    assert first.reasons == ("out of memory: at most 2 images per call from here on",)
    assert first.halvings == 1
    second = worker.answer(sent[4:8], [])
    assert [c.images for c in second.calls] == [2, 2] and second.halvings == 0


def test_an_error_of_loading_comes_back_whole(tiny: Any, tmp_path: Path) -> None:
    plan = tiny.plan(model_of(tmp_path / "broken", BROKEN, "Broken"), tmp_path)
    worker = hire(plan)
    assert isinstance(worker.introduce(), Identity)
    error = pickle.loads(pickle.dumps(worker.load(None)))
    assert isinstance(error, CheckpointError)
    assert (error.message, error.hint) == ("the decoder is missing", "download it")


def test_a_model_that_wants_to_know_is_told(tiny: Any, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    plan = tiny.plan("noisy-oracle", tmp_path)
    ids = [s.id for s in plan.samples]
    rows.write_text("".join(f'{{"sample_id": "{i}", "box": [1, 2, 9, 9]}}\n' for i in ids))
    plan = tiny.plan("replay", tmp_path, args={"predictions": str(rows)})
    worker = hire(plan)
    worker.introduce()
    assert not isinstance(worker.load(plan.whole_split()), LensBenchError)
    found: list[Prediction] = [p for image in worker.answer(parcels(plan), []).predictions for p in image]
    assert [p.sample_id for p in found] == ids
    assert all(p.box == (1, 2, 9, 9) for p in found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_digest": "f" * 64}, "another one on n: its digest is ffffffffffff"),
        ({"environment": {"packages": {"torch": "1.0"}}}, r"packages.torch is 1.0 on n, here it is \d"),
        ({"environment": {"model_packages": {"x": "2"}}}, "is .* on n, here it is"),
    ],
)
def test_a_worker_that_would_answer_otherwise_is_unfit(
    tiny: Any, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    plan = tiny.plan("oracle", tmp_path)
    same = {"weight_digest": plan.manifest.weight_digest, "environment": dict(plan.manifest.environment)}
    assert unfit(Identity("n", 1, "h", **same), plan.manifest) is None
    error = unfit(Identity("n", 1, "h", **{**same, **change}), plan.manifest)
    assert error is not None
    assert re.search(message, error.message)
