"""The loop: the result depends neither on batch size, nor on shards, nor on being killed and continued."""

from __future__ import annotations

import gc
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lens_bench.errors import DataError, RunError, UsageError
from lens_bench.picture import OpenModel
from lens_bench.records import ImageTask, LoadReport, Prediction
from lens_bench.run.evaluate import ErrorBudget, run_splits
from lens_bench.run.files import read_json
from lens_bench.run.manifest import Manifest, Settings, read_manifest
from lens_bench.run.plan import Plan, make_model


def finish(plan: Plan) -> dict[str, Any]:
    _, segmenter = make_model(plan.card, plan.request)
    (outcome,) = run_splits([plan], segmenter)
    return outcome.summary


def sorted_lines(path: Path) -> list[str]:
    return sorted(path.read_text().splitlines())


@pytest.fixture(scope="module")
def reference(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Scores of an uninterrupted run of a model with random, seeded answers."""
    plan = tiny.plan("noisy-oracle", tmp_path_factory.mktemp("reference"), args={"shift": "6", "drop": "0.2"})
    finish(plan)
    return sorted_lines(plan.files.scores)


def noisy(tiny: Any, out: Path, **wishes: object) -> Plan:
    plan: Plan = tiny.plan("noisy-oracle", out, args={"shift": "6", "drop": "0.2"}, **wishes)
    return plan


def test_oracle_is_perfect(tiny: Any, tmp_path: Path) -> None:
    plan = tiny.plan("oracle", tmp_path)
    summary = finish(plan)
    assert summary["metrics"]["ciou"] == summary["metrics"]["giou"] == 1.0
    assert summary["ci95"]["ciou"] == [1.0, 1.0]
    assert (summary["n_samples"], summary["n_images"], summary["complete"]) == (72, 12, True)
    assert read_json(plan.files.summary) == json.loads(json.dumps(summary))


@pytest.mark.parametrize("batch", [1, 5, 16])
def test_batch_size_changes_nothing(tiny: Any, tmp_path: Path, reference: list[str], batch: int) -> None:
    plan = noisy(tiny, tmp_path, batch_size=batch)
    finish(plan)
    assert sorted_lines(plan.files.scores) == reference


@pytest.mark.parametrize("kept", [0, 1, 17, 71, 72])
@pytest.mark.parametrize("torn", [b"", b'{"sample_id":"tiny/un'])
def test_interrupted_and_continued_is_the_same(
    tiny: Any, tmp_path: Path, reference: list[str], kept: int, torn: bytes
) -> None:
    plan = noisy(tiny, tmp_path)
    finish(plan)
    lines = plan.files.predictions.read_bytes().splitlines(keepends=True)
    plan.files.predictions.write_bytes(b"".join(lines[:kept]) + torn)
    plan.files.scores.unlink()
    summary = finish(noisy(tiny, tmp_path))
    assert sorted_lines(plan.files.scores) == reference
    assert len(plan.files.predictions.read_bytes().splitlines()) == 72
    if 0 < kept < 72:
        assert not summary["perf"]["comparable"]
        assert any("resumed" in reason for reason in summary["perf"]["reasons"])


def test_objects_are_kept_out_of_garbage_collections_no_longer_than_a_run(tiny: Any, tmp_path: Path) -> None:
    finish(tiny.plan("oracle", tmp_path / "a"))
    assert gc.get_freeze_count() == 0
    gc.freeze()  # what somebody else has frozen stays so
    try:
        finish(tiny.plan("oracle", tmp_path / "b"))
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


def test_a_line_twice_counts_once(tiny: Any, tmp_path: Path, reference: list[str]) -> None:
    plan = noisy(tiny, tmp_path)
    finish(plan)
    data = plan.files.predictions.read_bytes()
    plan.files.predictions.write_bytes(data + data.splitlines(keepends=True)[3])
    assert finish(noisy(tiny, tmp_path))["n_samples"] == 72
    assert sorted_lines(plan.files.scores) == reference


def test_a_finished_run_does_not_load_the_model(tiny: Any, tmp_path: Path) -> None:
    plan = noisy(tiny, tmp_path)
    first = finish(plan)

    class Unloadable:
        def load(self) -> LoadReport:
            raise AssertionError("loaded")

        def segment(self, tasks: Sequence[ImageTask]) -> list[Prediction]:
            raise AssertionError("asked")

        def close(self) -> None:
            pass

    (outcome,) = run_splits([noisy(tiny, tmp_path)], Unloadable())
    assert outcome.answered == 0
    assert outcome.summary == first


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("weight_digest", lambda m: m.update(weight_digest="0" * 64)),
        ("suite_hash", lambda m: m.update(suite_hash="0" * 64)),
        ("seed", lambda m: m.update(seed=5)),
        ("settings.args", lambda m: m["settings"]["args"].update(shift=7.0)),
        ("settings.dtype", lambda m: m["settings"].update(dtype="float16")),
        ("settings.limit", lambda m: m["settings"].update(limit=300)),
        ("environment.packages.torch", lambda m: m["environment"]["packages"].update(torch="1.0")),
    ],
)
def test_another_manifest_is_refused_by_field(
    tiny: Any, tmp_path: Path, field: str, change: Callable[[dict[str, Any]], None]
) -> None:
    plan = noisy(tiny, tmp_path)
    finish(plan)
    manifest = json.loads(plan.files.manifest.read_text())
    change(manifest)
    Manifest(
        **{k: v for k, v in manifest.items() if k not in ("digest", "settings")},
        settings=Settings(**manifest["settings"]),
    ).write(plan.files)
    before = plan.files.predictions.read_bytes()
    with pytest.raises(UsageError, match=field.replace(".", r"\.")):
        finish(noisy(tiny, tmp_path))
    assert plan.files.predictions.read_bytes() == before
    assert finish(noisy(tiny, tmp_path, fresh=True))["complete"]


def test_every_setting_has_its_own_directory(tiny: Any, tmp_path: Path) -> None:
    plans = [
        noisy(tiny, tmp_path),
        noisy(tiny, tmp_path, seed=1),
        noisy(tiny, tmp_path, limit=10),
        tiny.plan("noisy-oracle", tmp_path, args={"shift": "5", "drop": "0.2"}),
        tiny.plan("oracle", tmp_path),
    ]
    assert len({p.files.root for p in plans}) == len(plans)
    same = [noisy(tiny, tmp_path, batch_size=3), noisy(tiny, tmp_path, protocol="lisa"), noisy(tiny, tmp_path)]
    assert {p.files.root for p in same} == {plans[0].files.root}


def test_another_protocol_scores_the_same_predictions(tiny: Any, tmp_path: Path) -> None:
    strict = tiny.plan("oracle", tmp_path)
    assert finish(strict)["metrics"]["ciou"] == 1.0
    before = strict.files.predictions.read_bytes()
    assert finish(tiny.plan("oracle", tmp_path, protocol="lisa"))["protocol"] == "strict"  # the run's own stays
    assert read_json(strict.files.summary)["metrics"]["ciou"] == 1.0  # type: ignore[index]
    lisa = read_json(strict.files.other_summary("lisa"))
    assert lisa["protocol"] == "lisa"
    assert lisa["metrics"]["ciou"] < 1.0  # type: ignore[index]
    assert strict.files.predictions.read_bytes() == before


def test_errors_are_kept_and_the_run_goes_on(tiny: Any, tmp_path: Path) -> None:
    sample = tiny.plan("full", tmp_path).samples[10].id
    plan = tiny.plan("crashing", tmp_path, args={"sample_id": sample}, max_errors=1)
    summary = finish(plan)
    assert summary["complete"]
    assert summary["metrics"]["error_rate"] == pytest.approx(1 / 72)
    lines = [json.loads(line) for line in plan.files.predictions.read_text().splitlines()]
    (failed,) = [p for p in lines if p["status"] == "error"]
    assert failed["sample_id"] == sample
    assert failed["error"]


def test_too_many_errors_stop_the_run_and_keep_everything(tiny: Any, tmp_path: Path) -> None:
    plan = tiny.plan("crashing", tmp_path, args={"share": "0.5"}, batch_size=1)
    with pytest.raises(RunError, match="of 72 expressions failed"):
        finish(plan)
    summary = read_json(plan.files.summary)
    kept = len(plan.files.predictions.read_bytes().splitlines())
    assert 0 < kept < 72
    assert (summary["complete"], summary["n_answered"]) == (False, kept)
    assert finish(tiny.plan("crashing", tmp_path, args={"share": "0.5"}, max_errors=72))["complete"]


def test_failed_samples_can_be_asked_again(tiny: Any, tmp_path: Path) -> None:
    folder = tmp_path / "moody"
    folder.mkdir()
    (folder / "model.yaml").write_text(
        "name: moody\ntitle: Moody\nsummary: Fails while it may.\nadapter: adapter.py:Moody\ndevices: [cpu]\n"
        "reads_images: false\n"
    )
    (folder / "adapter.py").write_text(
        "from pathlib import Path\n"
        "from lens_bench.records import LoadReport, Prediction\n\n\n"
        "class Moody:\n"
        "    def __init__(self, options):\n        self.calm = Path(options.folder).parent / 'calm'\n\n"
        "    def load(self):\n        return LoadReport()\n\n"
        "    def close(self):\n        pass\n\n"
        "    def segment(self, tasks):\n"
        "        queries = [q for t in tasks for q in t.queries]\n"
        "        if not self.calm.exists() and any('ref100' in q.sample_id for q in queries):\n"
        "            raise ValueError('not now')\n"
        "        return [Prediction(q.sample_id, 'no_mask') for q in queries]\n"
    )
    wishes = {"max_errors": 1.0, "batch_size": 1}
    share = finish(tiny.plan(str(folder), tmp_path / "out", **wishes, retry_errors=True))["metrics"]["error_rate"]
    assert share > 0
    (tmp_path / "calm").touch()
    assert finish(tiny.plan(str(folder), tmp_path / "out", **wishes))["metrics"]["error_rate"] == share
    assert finish(tiny.plan(str(folder), tmp_path / "out", **wishes, retry_errors=True))["metrics"]["error_rate"] == 0


def test_out_of_memory_is_survived_and_recorded(tiny: Any, tmp_path: Path) -> None:
    summary = finish(tiny.plan("oom", tmp_path, batch_size=8))
    assert summary["metrics"]["error_rate"] == 0
    assert not summary["perf"]["comparable"]
    assert any("out of memory" in reason for reason in summary["perf"]["reasons"])
    assert summary["perf"]["halvings"] > 0


def test_batches_halved_inside_the_model_are_recorded(tiny: Any, tmp_path: Path) -> None:
    """Also in a later split: the model goes on with the smaller batches."""
    folder = tmp_path / "tight"
    folder.mkdir()
    (folder / "model.yaml").write_text(
        "name: tight\ntitle: Tight\nsummary: Little memory.\nadapter: adapter.py:Tight\ndevices: [cpu]\n"
    )
    (folder / "adapter.py").write_text(
        "from lens_bench.lens.batching import Budget\n"
        "from lens_bench.records import LoadReport, Prediction\n\n\n"
        "class Tight:\n"
        "    def __init__(self, options):\n        self.budget = Budget(4, 'masks')\n\n"
        "    def load(self):\n        return LoadReport()\n\n"
        "    def close(self):\n        pass\n\n"
        "    def segment(self, tasks):\n"
        "        return self.budget.run([q for t in tasks for q in t.queries], self.some)\n\n"
        "    def some(self, queries):\n"
        "        if len(queries) > 1:\n"
        '            raise RuntimeError("DefaultCPUAllocator: can\'t allocate memory: you tried to allocate 8 bytes")\n'
        "        return [Prediction(q.sample_id, 'no_mask') for q in queries]\n"
    )
    plans = [tiny.plan(str(folder), tmp_path / out) for out in ("one", "two")]
    perfs = [outcome.summary["perf"] for outcome in run_splits(plans, make_model(plans[0].card, plans[0].request)[1])]
    assert [p["halvings"] for p in perfs] == [2, 0]
    for perf in perfs:
        assert not perf["comparable"]
        assert "out of memory: fewer masks at once inside the model" in perf["reasons"]


@pytest.fixture
def reading_model(tmp_path: Path) -> Path:
    """A user's own model, which looks at pixels: marks what is brighter than a threshold."""
    folder = tmp_path / "bright"
    folder.mkdir()
    (folder / "model.yaml").write_text(
        "name: bright\ntitle: Bright\nsummary: Bright pixels.\nadapter: adapter.py:Bright\ndevices: [cpu]\n"
    )
    (folder / "adapter.py").write_text(
        "from lens_bench.masks import encode\n"
        "from lens_bench.records import LoadReport, Prediction\n\n\n"
        "class Bright:\n"
        "    def __init__(self, options):\n        pass\n\n"
        "    def load(self):\n        return LoadReport()\n\n"
        "    def close(self):\n        pass\n\n"
        "    def segment(self, tasks):\n"
        "        return [\n"
        "            Prediction(q.sample_id, 'ok', mask=encode(t.rgb[..., 0] > 128))\n"
        "            for t in tasks for q in t.queries\n"
        "        ]\n"
    )
    return folder


def test_missing_image_stops_before_the_model_is_loaded(own_tiny: Any, tmp_path: Path, reading_model: Path) -> None:
    (own_tiny.data_root / "tiny/images/000003.png").unlink()
    with pytest.raises(DataError, match=r"tiny/unc/val/ref300/sent3000.*000003\.png"):
        own_tiny.plan(str(reading_model), tmp_path / "out")


def test_broken_image_costs_its_samples(own_tiny: Any, tmp_path: Path, reading_model: Path) -> None:
    path = own_tiny.data_root / "tiny/images/000003.png"
    path.write_bytes(path.read_bytes()[:200])
    summary = finish(own_tiny.plan(str(reading_model), tmp_path / "out", max_errors=0.2))
    assert summary["complete"]
    assert summary["metrics"]["error_rate"] == pytest.approx(6 / 72)


def test_image_of_another_size_costs_its_samples(own_tiny: Any, tmp_path: Path, reading_model: Path) -> None:
    Image.new("RGB", (10, 10)).save(own_tiny.data_root / "tiny/images/000003.png")
    plan = own_tiny.plan(str(reading_model), tmp_path / "out", max_errors=0.2)
    assert finish(plan)["metrics"]["error_rate"] == pytest.approx(6 / 72)
    assert "is 10x10, its annotation 64x48" in plan.files.predictions.read_text()


def test_resuming_keeps_what_the_run_was_begun_under(tiny: Any, tmp_path: Path) -> None:
    plan = noisy(tiny, tmp_path)
    finish(plan)
    before = json.loads(plan.files.manifest.read_text())
    assert [s["done_before"] for s in before["sessions"]] == [0]
    lines = plan.files.predictions.read_bytes().splitlines(keepends=True)
    plan.files.predictions.write_bytes(b"".join(lines[:20]))
    before["created"] = "2020-01-01T00:00:00+00:00"
    plan.files.manifest.write_text(json.dumps(before))
    finish(noisy(tiny, tmp_path))
    after = json.loads(plan.files.manifest.read_text())
    assert after["created"] == before["created"]
    assert [s["done_before"] for s in after["sessions"]] == [0, 20]


def test_a_damaged_summary_is_written_anew(tiny: Any, tmp_path: Path) -> None:
    plan = noisy(tiny, tmp_path)
    finish(plan)
    plan.files.summary.write_text("{ half")
    assert finish(noisy(tiny, tmp_path))["complete"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(environment=[]), "environment"),
        (lambda m: m.update(shard=5), "shard"),
        (lambda m: m.pop("suite_hash"), "suite_hash"),
        (lambda m: m.update(schema_version=99), "schema version 99"),
    ],
)
def test_a_damaged_manifest_is_named(
    tiny: Any, tmp_path: Path, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    plan = noisy(tiny, tmp_path)
    finish(plan)
    manifest = json.loads(plan.files.manifest.read_text())
    change(manifest)
    plan.files.manifest.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=words):
        finish(noisy(tiny, tmp_path))


def test_fresh_leaves_shards_alone(tiny: Any, tmp_path: Path) -> None:
    shard = noisy(tiny, tmp_path, shard=(1, 2))
    finish(shard)
    finish(noisy(tiny, tmp_path, fresh=True))
    assert shard.files.predictions.exists()
    assert finish(noisy(tiny, tmp_path, shard=(1, 2)))["complete"]


def misbehaving(folder: Path, body: str) -> str:
    """A model folder whose adapter has these extra lines in the class."""
    folder.mkdir()
    (folder / "model.yaml").write_text(
        "name: rogue\ntitle: Rogue\nsummary: Rogue.\nadapter: adapter.py:Rogue\ndevices: [cpu]\nreads_images: false\n"
    )
    (folder / "adapter.py").write_text(
        "import os, sys\n"
        "from lens_bench.masks import full\n"
        "from lens_bench.records import LoadReport, Prediction, Rle\n\n\n"
        "class Rogue:\n"
        "    def __init__(self, options):\n        pass\n\n"
        "    def load(self):\n        return LoadReport()\n\n"
        "    def close(self):\n        pass\n\n"
        "    def segment(self, tasks):\n"
        "        return [self.one(t, q) for t in tasks for q in t.queries]\n\n"
        "    def one(self, task, query):\n"
        "        return Prediction(query.sample_id, 'ok', mask=full(task.size))\n\n" + body
    )
    return str(folder)


@pytest.mark.parametrize(
    "answer",
    [
        "Prediction(query.sample_id, 'ok', mask=Rle(task.size, b'zzzz'))",
        "Prediction(query.sample_id, 'OK', mask=full(task.size))",
        "Prediction(query.sample_id, 'ok', box=(1.0, 2.0, 3.0))",
        "Prediction(query.sample_id, 'ok', text=b'bytes')",
        "sys.exit(3)",
        "None",
    ],
)
def test_an_answer_that_breaks_the_contract_is_an_error_of_its_sample(tiny: Any, tmp_path: Path, answer: str) -> None:
    lines = f"        return {answer} if 'ref100' in query.sample_id else Prediction(query.sample_id, 'no_mask')\n"
    model = misbehaving(tmp_path / "rogue", "    def one(self, task, query):\n" + lines)
    summary = finish(tiny.plan(model, tmp_path / "out", max_errors=20))
    assert summary["complete"]
    rate = summary["metrics"]["error_rate"]
    assert rate > 0
    assert finish(tiny.plan(model, tmp_path / "out", max_errors=20))["metrics"]["error_rate"] == rate


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("    def __init__(self, options):\n        raise ValueError('no')\n", "constructing model rogue failed"),
        ("    def load(self):\n        raise ValueError('no')\n", "loading model rogue failed: ValueError: no"),
        ("    def load(self):\n        return 5\n", r"load\(\) of model rogue returned int, not a LoadReport"),
        ("    def expect(self, tasks):\n        sys.exit(3)\n", "preparing model rogue failed"),
    ],
)
def test_a_model_that_does_not_start_is_a_line(tiny: Any, tmp_path: Path, body: str, words: str) -> None:
    model = misbehaving(tmp_path / "rogue", body)
    with pytest.raises(RunError, match=words):
        finish(tiny.plan(model, tmp_path / "out"))


def test_a_model_whose_load_returns_nothing_runs_and_predicts(tiny: Any, tmp_path: Path) -> None:
    model = misbehaving(tmp_path / "rogue", "    def load(self):\n        return None\n")
    plan = tiny.plan(model, tmp_path / "out")
    assert finish(plan)["complete"]
    assert read_manifest(plan.files).load_report is not None
    with OpenModel(str(model)) as opened:
        assert opened.report == LoadReport()


@pytest.mark.parametrize(
    ("limit", "failures", "aborts"),
    [(0, 1, True), (0.0, 1, True), (1, 1, False), (1, 2, True), (0.01, 1, True), (2 / 72, 2, False), (1.0, 72, False)],
)
def test_a_run_is_aborted_above_the_limit_of_failures(limit: float, failures: int, aborts: bool) -> None:
    budget = ErrorBudget(limit, expressions=72, spent=0)
    failed = [Prediction(f"s{n}", "error", error="no") for n in range(failures)]
    if aborts:
        with pytest.raises(RunError, match=f"stopped: {failures} of 72 expressions failed") as caught:
            budget.spend(failed)
        assert "100% never aborts" in caught.value.hint
    else:
        assert budget.spend(failed) == failures


def test_a_model_that_fails_to_close_changes_no_result(tiny: Any, tmp_path: Path) -> None:
    model = misbehaving(tmp_path / "rogue", "    def close(self):\n        raise ValueError('no')\n")
    assert finish(tiny.plan(model, tmp_path / "out"))["complete"]


def test_weights_beside_the_adapter_are_part_of_the_identity(tiny: Any, tmp_path: Path) -> None:
    model = misbehaving(tmp_path / "rogue", "")
    (tmp_path / "rogue/weights.npy").write_bytes(b"1")
    first = tiny.plan(model, tmp_path / "out").files.root
    (tmp_path / "rogue/weights.npy").write_bytes(b"2")
    assert tiny.plan(model, tmp_path / "out").files.root != first


def test_what_a_model_prints_does_not_reach_standard_output(tiny: Any, tmp_path: Path, cli: Any) -> None:
    body = "    def load(self):\n        print('hello')\n        os.write(1, b'raw')\n        return LoadReport()\n"
    model = misbehaving(tmp_path / "rogue", body)
    result = cli(*tiny.run(model, tmp_path / "out", "--json"))
    assert json.loads(result.stdout)["complete"]
    assert "hello" in result.stderr
    assert "raw" in result.stderr


def test_tags_and_titles_are_text_and_no_markup(own_tiny: Any, tmp_path: Path, cli: Any) -> None:
    card = own_tiny.card_path
    card.write_text(card.read_text().replace("split_by: unc", "split_by: unc, tag_field: kind"))
    path = own_tiny.data_root / "tiny/refs(unc).p"
    refs = pickle.loads(path.read_bytes())
    for ref in refs:
        for sentence in ref["sentences"]:
            sentence["kind"] = "[/x] [red]t[/red]"
    path.write_bytes(pickle.dumps(refs, protocol=2))
    result = cli(*own_tiny.run("full", tmp_path))
    assert result.returncode == 0, result.stderr
    assert "[/x] [red]t[/red]" in result.stdout


# ---------------------------------------------------------------------------------------------- real processes


def start(arguments: Sequence[object]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lens_bench.cli", *(str(a) for a in arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_lines(path: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"{path} did not get {count} lines: {process.communicate()}")


def test_killed_process_loses_nothing_that_was_written(tiny: Any, tmp_path: Path) -> None:
    slow = tiny.run("slow", tmp_path, "--model-arg", "ms=60", "--batch-size", "1")
    plan = tiny.plan("slow", tmp_path, args={"ms": "60"})
    process = start(slow)
    wait_for_lines(plan.files.predictions, 12, process)
    process.kill()
    process.wait()
    kept = plan.files.predictions.read_bytes()
    kept = kept[: kept.rindex(b"\n") + 1]
    assert 12 <= kept.count(b"\n") < 72
    done = start(slow)
    _, errors = done.communicate(timeout=300)
    assert done.returncode == 0, errors
    assert plan.files.predictions.read_bytes().startswith(kept)
    other = tiny.plan("slow", tmp_path / "other", args={"ms": "0"})
    finish(other)
    assert sorted_lines(plan.files.scores) == sorted_lines(other.files.scores)


def test_ctrl_c_exits_130_and_writes_what_there_is(tiny: Any, tmp_path: Path) -> None:
    plan = tiny.plan("slow", tmp_path, args={"ms": "200"})
    process = start(tiny.run("slow", tmp_path, "--model-arg", "ms=200", "--batch-size", "1"))
    wait_for_lines(plan.files.predictions, 6, process)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 130, errors
    assert "the same command continues" in errors
    assert "Traceback" not in errors
    summary = read_json(plan.files.summary)
    assert (summary["complete"], summary["n_expected"]) == (False, 72)
    assert summary["n_answered"] == len(plan.files.predictions.read_bytes().splitlines())


def test_a_second_process_is_refused(tiny: Any, tmp_path: Path, cli: Any) -> None:
    endless = {"ms": "100000000"}  # a day and more for one answer: the folder is held until the process is killed
    slow = tiny.run("slow", tmp_path, *(f"--model-arg={name}={value}" for name, value in endless.items()))
    plan = tiny.plan("slow", tmp_path, args=endless)
    first = start(slow)
    try:
        wait_for_lines(plan.files.lock, 1, first)
        second = cli(*slow)
        assert second.returncode == 2
        assert f"in use by process {first.pid}" in second.stderr
    finally:
        first.kill()
        first.communicate()
