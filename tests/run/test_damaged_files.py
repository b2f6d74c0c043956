"""Files that no run of ours wrote: every one ends in a ``DataError`` that names it, never in a traceback."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from lens_bench.errors import DataError, RunError
from lens_bench.records import ImageTask, Prediction, Query
from lens_bench.run.contract import checked
from lens_bench.run.files import find_runs, read_json, read_lines, read_scores
from lens_bench.run.journal import read
from lens_bench.run.predictions_file import read_predictions
from lens_bench.scoring.table import ScoreTable

from ..report.made_runs import score

DEEP = "[" * 100_000
HUGE = "9" * 400
LONG = "9" * 5000


@pytest.mark.parametrize(
    "text",
    [DEEP, '{"a":' * 100_000, f'{{"a": {LONG}}}', '{"a": NaN}', '{"a": -Infinity}', "[1]", "{", '{"a": "\udcff"}'],
    ids=["deep list", "deep object", "5000 digits", "NaN", "infinity", "list", "torn", "not UTF-8"],
)
def test_what_is_no_object_of_ours_is_a_data_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "some.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"some\.json"):
        read_json(path)
    with pytest.raises(DataError, match=r"some\.json, line 1"):
        list(read_lines(path))


def test_a_folder_in_place_of_a_file_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "summary.json").mkdir()
    with pytest.raises(DataError, match=r"summary\.json cannot be read"):
        read_json(tmp_path / "summary.json")
    with pytest.raises(DataError, match=r"summary\.json cannot be read"):
        list(read_lines(tmp_path / "summary.json"))


def test_a_manifest_that_cannot_be_parsed_is_still_found(tmp_path: Path) -> None:
    for name, text in (("deep", DEEP), ("torn", "{"), ("ours", '{"suite": "x"}'), ("foreign", "{}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(text)
    (tmp_path / "folder" / "manifest.json").mkdir(parents=True)
    assert [files.root.name for files in find_runs(tmp_path)] == ["deep", "ours", "torn"]


@pytest.mark.parametrize("field", ['"box":[1,2,3,%s]', '"score":%s', '"stages_ms":{"a":%s}'])
@pytest.mark.parametrize("number", [HUGE, "1e999", LONG])
def test_a_number_that_no_float_holds_in_a_journal_is_a_data_error(tmp_path: Path, field: str, number: str) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"sample_id":"a","status":"ok",' + field % number + "}\n")
    with pytest.raises(DataError, match=r"predictions\.jsonl, line 1") as caught:
        list(read(path))
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("answer", [{"box": (1, 2, 3, 10**400)}, {"score": 10**400}, {"stages_ms": {"a": 10**400}}])
def test_a_number_that_no_float_holds_from_a_model_is_a_run_error(answer: dict[str, object]) -> None:
    task = ImageTask("image", (4, 4), (Query("a", "text"),))
    with pytest.raises(RunError, match="not a finite number"):
        checked([task], [Prediction("a", "ok", **answer)])  # type: ignore[arg-type]
    fine = checked([task], [Prediction("a", "ok", box=tuple(np.arange(4)))])  # type: ignore[arg-type]
    assert fine[0].box == (0.0, 1.0, 2.0, 3.0)


@pytest.mark.parametrize("field", ['"box":[1,2,3,%s]', '"box":[0,0,1,1],"score":%s', '"idx":%s,"box":[0,0,1,1]'])
@pytest.mark.parametrize("number", [HUGE, LONG])
def test_a_number_that_no_float_holds_in_a_predictions_file(tmp_path: Path, field: str, number: str) -> None:
    path = tmp_path / "theirs.jsonl"
    name = "" if "idx" in field else '"sample_id":"a",'
    path.write_text("{" + name + field % number + "}\n")
    if "idx" in field and number == HUGE:
        assert read_predictions(path).rows[0].name == HUGE  # a name, however long
        return
    with pytest.raises(DataError, match=r"theirs\.jsonl:1") as caught:
        read_predictions(path)
    assert len(caught.value.message) < 300


def test_a_count_that_no_image_has_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="more pixels than any image"):
        ScoreTable.of([score(0, 0.5), score(1, 0.5, union=10**30)])
    path = tmp_path / "scores.jsonl"
    path.write_text('{"sample_id":"a","image_id":"b","status":"ok","tags":[],"intersection":' + "9" * 30 + "}\n")
    with pytest.raises(DataError, match=r"scores\.jsonl, line 1: .*intersection"):
        read_scores(path, hashlib.sha256(path.read_bytes()).hexdigest())
