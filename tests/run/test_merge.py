"""Shards put together are the run that one process would have made."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lens_bench.errors import DataError, UsageError
from lens_bench.records import Prediction
from lens_bench.report.runset import load_run
from lens_bench.run.evaluate import run_splits
from lens_bench.run.files import read_json, write_json
from lens_bench.run.journal import Journal, Lock, read
from lens_bench.run.merge import find_shards, merge
from lens_bench.run.plan import Plan, make_model
from lens_bench.run.rescore import rescore

ARGS = {"shift": "6", "drop": "0.2"}


def finish(plan: Plan) -> dict[str, Any]:
    _, segmenter = make_model(plan.card, plan.request)
    (outcome,) = run_splits([plan], segmenter)
    return outcome.summary


def shard(tiny: Any, out: Path, index: int, total: int = 3) -> Plan:
    plan: Plan = tiny.plan("noisy-oracle", out, args=ARGS, shard=(index, total))
    return plan


def test_three_shards_equal_one_process(tiny: Any, tmp_path: Path) -> None:
    whole = tiny.plan("noisy-oracle", tmp_path / "one", args=ARGS)
    expected = finish(whole)
    plans = [shard(tiny, tmp_path / "three", i) for i in (1, 2, 3)]
    for plan in plans:
        finish(plan)
    images = [{s.image_id for s in p.samples} for p in plans]
    assert sum(len(i) for i in images) == len(set.union(*images)) == 12
    (shards,) = find_shards([tmp_path / "three"])
    files, (summary,) = merge(shards)
    assert files.root.name == whole.files.root.name
    assert sorted(files.scores.read_text().splitlines()) == sorted(whole.files.scores.read_text().splitlines())
    assert summary["metrics"] == expected["metrics"]
    assert summary["ci95"] == expected["ci95"]
    assert summary["complete"]
    assert finish(tiny.plan("noisy-oracle", tmp_path / "three", args=ARGS))["metrics"] == expected["metrics"]


def test_a_missing_shard_is_named(tiny: Any, tmp_path: Path) -> None:
    for index in (1, 3):
        finish(shard(tiny, tmp_path, index))
    with pytest.raises(UsageError, match="lacks the shards 2/3"):
        find_shards([tmp_path])


def test_an_unfinished_shard_is_named(tiny: Any, tmp_path: Path) -> None:
    _, second = two_shards(tiny, tmp_path)
    predictions = second.files.predictions
    predictions.write_text("".join(predictions.read_text().splitlines(keepends=True)[:-1]))
    rescore(second.files, ["strict"], tiny.data_root, suite=str(tiny.card_path))
    with pytest.raises(DataError, match=r"2of2 has 35 of 36"):
        merge(find_shards([tmp_path])[0])


def test_altered_scores_of_a_shard_are_refused(tiny: Any, tmp_path: Path) -> None:
    _, second = two_shards(tiny, tmp_path)
    scores = second.files.scores
    scores.write_text("".join(scores.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match="is not the file that its summary was made of"):
        merge(find_shards([tmp_path])[0])


def test_no_shards(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no shards"):
        find_shards([tmp_path])


def two_shards(tiny: Any, out: Path) -> list[Plan]:
    plans = [shard(tiny, out, index, 2) for index in (1, 2)]
    for plan in plans:
        finish(plan)
    return plans


def test_every_protocol_that_all_shards_have_is_merged(tiny: Any, tmp_path: Path) -> None:
    whole = tiny.plan("noisy-oracle", tmp_path / "one", args=ARGS, also=("lisa",))
    finish(whole)
    plans = two_shards(tiny, tmp_path / "two")
    card = str(tiny.card_path)
    rescore(plans[0].files, ["lisa", "gres"], tiny.data_root, suite=card)
    files, summaries = merge(find_shards([tmp_path / "two"])[0])
    assert [s["protocol"] for s in summaries] == ["strict"]
    rescore(plans[1].files, ["lisa"], tiny.data_root, suite=card)
    files, summaries = merge(find_shards([tmp_path / "two"])[0])
    assert [s["protocol"] for s in summaries] == ["strict", "lisa"]
    for name in ("strict", "lisa"):
        merged, single = (load_run(f, name) for f in (files, whole.files))
        assert sorted(s.sample_id for s in merged.scores) == sorted(s.sample_id for s in single.scores)
        assert merged.summary["metrics"] == single.summary["metrics"]
    for path in (plans[1].files.other_summary("lisa"), plans[1].files.other_scores("lisa")):
        path.unlink()
    files, summaries = merge(find_shards([tmp_path / "two"])[0])
    assert [s["protocol"] for s in summaries] == ["strict"]
    assert not files.other_summary("lisa").exists(), "scores of a merge before this one are not left behind"


def test_shards_begun_under_different_protocols_need_scores_under_the_first(tiny: Any, tmp_path: Path) -> None:
    first = shard(tiny, tmp_path, 1, 2)
    second = tiny.plan("noisy-oracle", tmp_path, args=ARGS, shard=(2, 2), protocol="lisa")
    finish(first)
    finish(second)
    with pytest.raises(DataError, match="2of2 is not scored under strict") as caught:
        merge(find_shards([tmp_path])[0])
    assert "--protocol strict" in caught.value.hint
    rescore(second.files, ["strict"], tiny.data_root, suite=str(tiny.card_path))
    assert merge(find_shards([tmp_path])[0])[1][0]["protocol"] == "strict"


def test_predictions_of_another_shard_are_refused(tiny: Any, tmp_path: Path) -> None:
    first, second = two_shards(tiny, tmp_path)
    shutil.copy(first.files.predictions, second.files.predictions)
    with pytest.raises(DataError, match="is not what was scored"):
        merge(find_shards([tmp_path])[0])
    for name in ("scores", "summary"):
        shutil.copy(getattr(first.files, name), getattr(second.files, name))
    with pytest.raises(DataError, match="is in two shards"):
        merge(find_shards([tmp_path])[0])


def test_scores_of_answers_before_the_last_are_refused(tiny: Any, tmp_path: Path) -> None:
    """As a shard leaves them that is killed while it asks failed expressions again."""
    plan = shard(tiny, tmp_path, 1, 1)
    finish(plan)
    answer = next(iter(read(plan.files.predictions)))
    with Journal(plan.files.predictions) as journal:
        journal.append([Prediction(answer.sample_id, "error", error="failed")])
    rescore(plan.files, [], tiny.data_root, suite=str(tiny.card_path))
    with Journal(plan.files.predictions) as journal:
        journal.append([answer])
    with pytest.raises(DataError, match="not of the same expressions and answers"):
        merge(find_shards([tmp_path])[0])
    rescore(plan.files, [], tiny.data_root, suite=str(tiny.card_path))
    merge(find_shards([tmp_path])[0])


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock"}


@pytest.mark.parametrize("where", [".", "two/levels", "run/shards", "run/shards/1of2", "run/shards/1of1/deep"])
def test_a_shard_that_lies_elsewhere_makes_nothing_be_written(tiny: Any, tmp_path: Path, where: str) -> None:
    plan = tiny.plan("noisy-oracle", tmp_path / "made", args=ARGS, shard=(1, 1))
    finish(plan)
    given = tmp_path / "above" / "given"
    shutil.copytree(plan.files.root, given / where)
    before = everything(tmp_path)
    with pytest.raises(DataError, match="does not lie in shards/1of1"):
        find_shards([given])
    assert everything(tmp_path) == before


def test_a_link_in_place_of_a_journal_leads_to_nothing_being_written(tiny: Any, tmp_path: Path) -> None:
    plans = two_shards(tiny, tmp_path / "runs")
    theirs = tmp_path / "notes.txt"
    theirs.write_text("a line\nand one without an end")
    files = plans[1].files
    files.predictions.unlink()
    files.predictions.symlink_to(theirs)
    actions: list[Callable[[], object]] = [
        lambda: finish(plans[1]),
        lambda: rescore(files, [], tiny.data_root, suite=str(tiny.card_path)),
        lambda: merge(find_shards([tmp_path / "runs"])[0]),
    ]
    for act in actions:
        with pytest.raises(DataError, match=r"is a link|is not what was scored"):
            act()
    assert theirs.read_text() == "a line\nand one without an end"


def test_nothing_is_written_above_the_folder_that_was_named(tiny: Any, tmp_path: Path) -> None:
    plans = two_shards(tiny, tmp_path)
    run = plans[0].files.root.parents[1]
    before = everything(tmp_path)
    for inside in (run / "shards", plans[0].files.root):
        with pytest.raises(UsageError, match="outside") as caught:
            find_shards([inside])
        assert f"lens-bench merge {run}" in caught.value.hint
    assert everything(tmp_path) == before
    assert merge(find_shards([run])[0])[0].root == run


@pytest.mark.parametrize("shard_of", [[0, 1], [3, 2], [1, 0], [-1, -1], [1], [1, 2, 3], [1.0, 2.0], ["1", "2"], True])
def test_a_shard_that_cannot_be_is_a_data_error(tiny: Any, tmp_path: Path, shard_of: object) -> None:
    plans = two_shards(tiny, tmp_path)
    write_json(plans[0].files.manifest, read_json(plans[0].files.manifest) | {"shard": shard_of})
    with pytest.raises(DataError, match=r"manifest\.json: .*shard"):
        find_shards([tmp_path])


def test_a_shard_of_very_many_is_missed_by_a_few_names(tiny: Any, tmp_path: Path) -> None:
    plan = shard(tiny, tmp_path, 1, 10**12)
    finish(plan)
    with pytest.raises(UsageError, match=r"lacks the shards 2/1000000000000, .* and 999999999995 more"):
        find_shards([tmp_path])


def test_a_shard_in_use_is_not_touched(tiny: Any, tmp_path: Path) -> None:
    plans = two_shards(tiny, tmp_path)
    with Lock(plans[1].files), pytest.raises(UsageError, match="in use"):
        merge(find_shards([tmp_path])[0])


def test_a_shard_is_scored_again_only_on_what_it_asked(tiny: Any, tmp_path: Path) -> None:
    first, second = two_shards(tiny, tmp_path)
    shutil.copy(first.files.predictions, second.files.predictions)
    with pytest.raises(DataError, match="which this run does not ask"):
        rescore(second.files, ["lisa"], tiny.data_root, suite=str(tiny.card_path))
