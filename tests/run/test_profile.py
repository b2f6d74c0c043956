"""Profiling through the run's own plan: where it lies, what is refused, what is kept and continued."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from lens_bench.errors import DataError, OutOfMemoryError, RunError, UsageError
from lens_bench.masks import full
from lens_bench.perf.knobs import Knobs
from lens_bench.perf.profile_file import Profile
from lens_bench.records import Cost, ImageTask, LoadReport, Prediction, Tokens
from lens_bench.registry import find_model
from lens_bench.run.journal import Lock
from lens_bench.run.pictures import take_pictures
from lens_bench.run.plan import Request, make_model
from lens_bench.run.profile import Job, make_job, measured_before, run_profile
from lens_bench.run.timed import TimedModel, call, check_later


class Model:
    """Answers at once; counts what it is asked, and may be told to misbehave."""

    def __init__(self) -> None:
        self.calls = 0
        self.sizes: set[int] = set()
        self.shapes: set[tuple[int, ...]] = set()
        self.interrupt_at = -1
        self.most = 10**9
        self.error: str | None = None
        self.loaded = ""
        self.forced: int | None = None

    def load(self) -> LoadReport:
        self.loaded = "weights"
        return LoadReport(parameters=5)

    def load_random(self, seed: int) -> LoadReport:
        self.loaded = f"random {seed}"
        return LoadReport(parameters=6)

    def force_length(self, tokens: int) -> None:
        self.forced = tokens

    def costs(self, tasks: Sequence[ImageTask], predictions: Sequence[Prediction]) -> Mapping[str, Cost]:
        return {"all": Cost(1e6 * len(predictions), 1e3)}

    def segment(self, tasks: Sequence[ImageTask]) -> list[Prediction]:
        self.calls += 1
        self.sizes.add(len(tasks))
        self.shapes |= {t.rgb.shape for t in tasks}
        if self.calls == self.interrupt_at:
            raise KeyboardInterrupt
        if len(tasks) > self.most:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        if self.error is not None:
            return [Prediction(q.sample_id, "error", error=self.error) for t in tasks for q in t.queries]
        return [
            Prediction(q.sample_id, "ok", mask=full(t.size), tokens=Tokens(3, 2), stages_ms={"all": 0.001})
            for t in tasks
            for q in t.queries
        ]

    def close(self) -> None:
        """Nothing to free."""


class Quiet:
    def start(self, title: str, total: int, done: int) -> None: ...

    def advance(self, answered: int, errors: int) -> None: ...

    def stop(self) -> None: ...


FAST = Knobs(duration=0.02, images=4, scenarios=("single-stream", "offline"))


def job(tiny: object, out: Path, model: object, knobs: Knobs = FAST, name: str = "full", **wishes: object) -> Job:
    """A job on the tiny suite; ``full``'s card, which is made to read images, with another model behind it."""
    request = Request(data_root=tiny.data_root, out=out, **wishes)  # type: ignore[attr-defined, arg-type]
    card = find_model(name)
    options, segmenter = make_model(card, request)
    if model is not None:
        card = card.model_copy(update={"reads_images": True})
    return make_job(tiny.card, "val", card, options, model or segmenter, request, knobs)  # type: ignore[attr-defined, arg-type]


def profiled(made: Job) -> Profile:
    return run_profile(made, Quiet())


def test_a_run_s_work_lies_where_the_run_lies(tiny: object, tmp_path: Path) -> None:
    made = job(tiny, tmp_path, None)
    assert made.files.root == made.plan.files.root and made.profile.digest == made.plan.manifest.digest
    others = [
        job(tiny, tmp_path, Model(), knobs)
        for knobs in (Knobs(image_size=(32, 32)), Knobs(new_tokens=3), Knobs(random_weights=True))
    ]
    assert len({made.files.root, *(o.files.root for o in others)}) == 4
    assert job(tiny, tmp_path, None, Knobs(duration=3.0)).files.root == made.files.root


def test_everything_is_measured_once(tiny: object, tmp_path: Path) -> None:
    model = Model()
    made = job(tiny, tmp_path, model)
    found = profiled(made)
    assert found.single_stream is not None and found.offline is not None and found.server is None
    assert found.parameters == 5 and found.ceilings is not None and len(found.sessions) == 1
    assert [s.name for s in found.single_stream.stages][:1] == ["all"]
    assert found.single_stream.tokens == 2 and found.single_stream.roof is not None
    assert measured_before(made) == found and made.todo(found) == ()
    before = model.calls
    assert profiled(made) == found and model.calls == before
    assert json.loads(made.path.read_text())["schema_version"] == 2


def test_another_scenario_continues_and_says_so(tiny: object, tmp_path: Path) -> None:
    first = profiled(job(tiny, tmp_path, Model(), Knobs(duration=0.02, images=4, scenarios=("single-stream",))))
    both = profiled(job(tiny, tmp_path, Model()))
    assert both.single_stream == first.single_stream and both.offline is not None
    assert len(both.sessions) == 2 and not both.comparable
    assert "resumed: parts were measured in 2 sessions" in both.reasons
    again = profiled(job(tiny, tmp_path, Model(), fresh=True))
    assert len(again.sessions) == 1 and not [r for r in again.reasons if r.startswith("resumed")]


def test_what_was_measured_before_does_not_pass_for_a_fresh_measurement(tiny: object, tmp_path: Path) -> None:
    made = job(tiny, tmp_path, Model())
    profiled(made)
    broken = Model()
    broken.error = "no idea"
    with pytest.raises(RunError, match="no idea"):
        profiled(job(tiny, tmp_path, broken, fresh=True))
    assert not made.path.exists()


def test_whoever_asks_is_given_what_this_session_measured_and_nothing_else(tiny: object, tmp_path: Path) -> None:
    given: list[Profile] = []
    first = job(tiny, tmp_path, Model(), Knobs(duration=0.02, images=4, scenarios=("single-stream",)))
    assert run_profile(first, Quiet(), given.append) == given[-1]
    given.clear()
    broken = Model()
    broken.error = "no idea"
    before = first.path.read_bytes()
    with pytest.raises(RunError, match="no idea"):
        run_profile(job(tiny, tmp_path, broken), Quiet(), given.append)
    with Lock(first.files), pytest.raises(UsageError, match="in use by process"):
        run_profile(job(tiny, tmp_path, Model()), Quiet(), given.append)
    assert given == [] and first.path.read_bytes() == before


def test_ctrl_c_keeps_what_was_measured(tiny: object, tmp_path: Path) -> None:
    knobs = Knobs(duration=0.02, images=4, batch_sizes=(1, 2, 4), scenarios=("offline",))
    model = Model()

    def stop(tasks: Sequence[ImageTask]) -> list[Prediction]:
        if len(tasks) == 4:
            raise KeyboardInterrupt
        return Model.segment(model, tasks)

    model.segment = stop  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        profiled(job(tiny, tmp_path, model, knobs))
    continued = job(tiny, tmp_path, Model(), knobs)
    kept = measured_before(continued)
    assert kept.offline is not None and [p.batch_images for p in kept.offline.points] == [1, 2]
    assert not kept.offline.complete and continued.todo(kept) == ("offline",)
    whole = profiled(continued)
    assert whole.offline is not None and whole.offline.complete and whole.offline.points[:2] == kept.offline.points
    assert isinstance(continued.segmenter, Model) and continued.segmenter.sizes == {4}


def test_another_measurement_is_refused_by_the_field_that_differs(tiny: object, tmp_path: Path) -> None:
    profiled(job(tiny, tmp_path, Model()))
    with pytest.raises(UsageError, match="knobs") as caught:
        profiled(job(tiny, tmp_path, Model(), Knobs(duration=0.03, images=4)))
    assert "--fresh" in caught.value.hint


def test_random_weights_and_forced_lengths_reach_the_model(tiny: object, tmp_path: Path) -> None:
    model = Model()
    made = job(tiny, tmp_path, model, Knobs(duration=0.02, images=2, random_weights=True, new_tokens=9), seed=3)
    found = profiled(made)
    assert model.loaded == "random 3" and model.forced == 9 and found.parameters == 6
    assert found.work == {"new_tokens": 9, "weights": "random"}


def test_what_a_model_cannot_do_is_said_before_it_is_loaded(tiny: object, tmp_path: Path) -> None:
    for knobs, word in ((Knobs(random_weights=True), "without its weights"), (Knobs(new_tokens=3), "given length")):
        with pytest.raises(UsageError, match=word):
            job(tiny, tmp_path, None, knobs)
    with pytest.raises(UsageError, match="sees the ground truth"):
        job(tiny, tmp_path, None, Knobs(image_size=(8, 8)), name="oracle")
    with pytest.raises(UsageError, match="--batch-sizes 64 needs as many pictures"):
        job(tiny, tmp_path, None, Knobs(batch_sizes=(1, 64), images=8))
    with pytest.raises(UsageError, match="--concurrency 5 needs"):
        job(tiny, tmp_path, Model(), Knobs(images=4, concurrency=5))
    for knobs, word in ((Knobs(batch_sizes=(13,)), "--batch-sizes 13"), (Knobs(concurrency=14), "--concurrency 14")):
        with pytest.raises(UsageError, match=f"{word} needs as many pictures, the split has 12"):
            job(tiny, tmp_path, Model(), knobs)


def test_pictures_are_stretched_where_asked(tiny: object, tmp_path: Path) -> None:
    model = Model()
    profiled(job(tiny, tmp_path, model, Knobs(duration=0.02, images=2, image_size=(20, 30), scenarios=("offline",))))
    assert model.shapes == {(20, 30, 3)}


def test_memory_that_runs_out_ends_the_sweep(tiny: object, tmp_path: Path) -> None:
    model = Model()
    model.most = 2
    found = profiled(job(tiny, tmp_path, model))
    assert found.offline is not None and [p.fits for p in found.offline.points] == [True, True, False]
    with pytest.raises(OutOfMemoryError, match="ran out of memory"):
        TimedModel(model, "m", "cpu").ask([ImageTask("i", (1, 1), (), np.zeros((1, 1, 3), np.uint8))] * 3)


def test_a_model_that_fails_ends_the_profile(tiny: object, tmp_path: Path) -> None:
    model = Model()
    model.error = "no idea"
    with pytest.raises(RunError, match="no idea"):
        profiled(job(tiny, tmp_path, model))


def test_a_model_that_fails_only_after_warming_up_has_no_request_rate(tiny: object, tmp_path: Path) -> None:
    """Failing is quick: failed answers that counted would be a rate that nobody reaches."""
    model = Model()

    class Begun(Quiet):
        def start(self, title: str, total: int, done: int) -> None:
            model.error = None if "warm-up" in title else "HTTP 429"

    made = job(tiny, tmp_path, model, Knobs(duration=0.02, images=4, concurrency=2, scenarios=("server",)))
    with pytest.raises(RunError, match="HTTP 429"):
        run_profile(made, Begun())
    assert model.error and measured_before(made).server is None


def test_an_answer_that_is_checked_later_is_checked_alike() -> None:
    class Silent(Model):
        def segment(self, tasks: Sequence[ImageTask]) -> list[Prediction]:
            return []

    assert check_later(TimedModel(Model(), "m", "cpu"), [take_one()])()
    later = check_later(TimedModel(Silent(), "m", "cpu"), [take_one()])
    with pytest.raises(RunError, match="0 predictions for 1"):
        later()


def test_answers_are_held_to_their_contract() -> None:
    class Silent(Model):
        def segment(self, tasks: Sequence[ImageTask]) -> list[Prediction]:
            return []

    task = take_one()
    with pytest.raises(RunError, match="0 predictions for 1"):
        call(TimedModel(Silent(), "m", "cpu"), [task])
    found = call(TimedModel(Model(), "m", "cpu"), [task])
    assert (found.images, found.expressions, found.tokens) == (1, 1, 2)
    assert found.stages == {"all": pytest.approx(1e-6)} and found.costs["all"].flops == 1e6


def take_one() -> ImageTask:
    from lens_bench.records import Query

    return ImageTask("i", (4, 4), (Query("i/0", "x"),), np.zeros((4, 4, 3), np.uint8))


def test_pictures_are_drawn_by_the_seed_with_one_expression_each(tiny: object, tmp_path: Path) -> None:
    def drawn(seed: int, count: int = 5) -> list[str]:
        found = take_pictures(job(tiny, tmp_path, Model(), seed=seed).plan, count)
        assert [t.image_id for t in found.whole] == [t.image_id for t in found.single]
        assert all(len(t.queries) == 6 for t in found.whole) and all(len(t.queries) == 1 for t in found.single)
        assert all(t.pixels is not None for t in found.whole)
        return [t.image_id for t in found.whole]

    assert drawn(0) == drawn(0) and drawn(0) != drawn(1)
    assert drawn(0, 3) == drawn(0)[:3] and len(drawn(0, 1000)) == 12


def test_a_damaged_file_is_named(tiny: object, tmp_path: Path) -> None:
    made = job(tiny, tmp_path, Model())
    made.files.root.mkdir(parents=True)
    made.path.write_text("{}")
    with pytest.raises(DataError, match=r"profile.json has schema version None"):
        profiled(made)
