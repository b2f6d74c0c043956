"""Shards put together are the run that one process would have made."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from lens_bench.errors import DataError, UsageError
from lens_bench.run.evaluate import run_splits
from lens_bench.run.journal import Lock
from lens_bench.run.merge import find_shards, merge
from lens_bench.run.plan import Plan, make_model
from lens_bench.run.rescore import rescore
from lens_bench.scoring.protocols import get_protocol

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
    files, summary = merge(shards)
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
    for index in (1, 2):
        finish(shard(tiny, tmp_path, index, 2))
    scores = shard(tiny, tmp_path, 2, 2).files.scores
    scores.write_text("".join(scores.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match=r"2of2 has 35 of 36"):
        merge(find_shards([tmp_path])[0])


def test_no_shards(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no shards"):
        find_shards([tmp_path])


def two_shards(tiny: Any, out: Path) -> list[Plan]:
    plans = [shard(tiny, out, index, 2) for index in (1, 2)]
    for plan in plans:
        finish(plan)
    return plans


def test_shards_scored_under_different_protocols_are_refused(tiny: Any, tmp_path: Path) -> None:
    plans = two_shards(tiny, tmp_path)
    lisa, strict = get_protocol("lisa"), get_protocol("strict")
    rescore(plans[0].files, lisa, tiny.data_root, suite=str(tiny.card_path))
    with pytest.raises(DataError, match="lisa and strict"):
        merge(find_shards([tmp_path])[0])
    rescore(plans[1].files, lisa, tiny.data_root, suite=str(tiny.card_path))
    assert merge(find_shards([tmp_path])[0])[1]["protocol"] == "lisa"
    for plan in plans:
        rescore(plan.files, strict, tiny.data_root, suite=str(tiny.card_path))
    assert merge(find_shards([tmp_path])[0])[1]["protocol"] == "strict"


def test_predictions_of_another_shard_are_refused(tiny: Any, tmp_path: Path) -> None:
    first, second = two_shards(tiny, tmp_path)
    shutil.copy(first.files.predictions, second.files.predictions)
    with pytest.raises(DataError, match="not of the same expressions"):
        merge(find_shards([tmp_path])[0])
    shutil.copy(first.files.scores, second.files.scores)
    with pytest.raises(DataError, match="is in two shards"):
        merge(find_shards([tmp_path])[0])


def test_a_shard_in_use_is_not_touched(tiny: Any, tmp_path: Path) -> None:
    plans = two_shards(tiny, tmp_path)
    with Lock(plans[1].files), pytest.raises(UsageError, match="in use"):
        merge(find_shards([tmp_path])[0])


def test_a_shard_is_scored_again_only_on_what_it_asked(tiny: Any, tmp_path: Path) -> None:
    first, second = two_shards(tiny, tmp_path)
    shutil.copy(first.files.predictions, second.files.predictions)
    with pytest.raises(DataError, match="which this run does not ask"):
        rescore(second.files, get_protocol("lisa"), tiny.data_root, suite=str(tiny.card_path))
