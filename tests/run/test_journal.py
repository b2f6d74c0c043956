"""The journal loses at most the line being written, and counts no sample twice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_bench.errors import DataError, UsageError
from lens_bench.masks import box_mask, encode, rle_to_json
from lens_bench.records import Prediction, Tokens
from lens_bench.run.files import RunFiles, prediction_to_line
from lens_bench.run.journal import Journal, Lock, read, repair

FULL = Prediction(
    "suite/a",
    "ok",
    mask=box_mask((1, 1, 5, 4), (8, 9)),
    box=(1.0, 1.0, 5.0, 4.0),
    score=0.5,
    text="the “thing”\nover there",
    tokens=Tokens(12, 3),
    stages_ms={"decode": 1.25},
)
PREDICTIONS = [FULL, Prediction("suite/b", "no_mask"), Prediction("suite/c", "error", error="ValueError: x")]


def write(path: Path, predictions: list[Prediction]) -> None:
    with Journal(path) as journal:
        journal.append(predictions)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(tmp_path / "p.jsonl", PREDICTIONS)
    assert list(read(tmp_path / "p.jsonl")) == PREDICTIONS


@pytest.mark.parametrize(
    "prediction",
    [
        *PREDICTIONS,
        Prediction('a"b\\c\u2028\x01é', "ok", mask=encode(np.random.default_rng(0).random((60, 80)) < 0.5)),
        Prediction("only a score", "ok", mask=FULL.mask, score=0.0),
        Prediction("a box", "ok", box=(0.1, 1e300, 3.0, -0.0)),
    ],
    ids=lambda p: p.status,
)
def test_a_line_is_what_json_writes(prediction: Prediction) -> None:
    mask, tokens = prediction.mask, prediction.tokens
    content = {
        "sample_id": prediction.sample_id,
        "status": prediction.status,
        "mask": rle_to_json(mask) if mask else None,
        "box": prediction.box,
        "score": prediction.score,
        "text": prediction.text,
        "tokens": {"prompt": tokens.prompt, "completion": tokens.completion} if tokens else None,
        "stages_ms": prediction.stages_ms,
        "error": prediction.error,
    }
    expected = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    assert prediction_to_line(prediction) == expected.encode() + b"\n"


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        prediction_to_line(Prediction("a", "ok", score=float("nan")))


def test_appending_continues(tmp_path: Path) -> None:
    write(tmp_path / "p.jsonl", PREDICTIONS[:1])
    write(tmp_path / "p.jsonl", PREDICTIONS[1:])
    assert list(read(tmp_path / "p.jsonl")) == PREDICTIONS


@given(cut=st.integers(min_value=0))
def test_cut_at_any_byte_costs_at_most_the_last_line(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "p.jsonl"
    data = b"".join(prediction_to_line(p) for p in PREDICTIONS)
    cut %= len(data) + 1
    path.write_bytes(data[:cut])
    complete = data[:cut].count(b"\n")
    assert repair(path) == cut - len(b"".join(prediction_to_line(p) for p in PREDICTIONS[:complete]))
    assert list(read(path)) == PREDICTIONS[:complete]
    write(path, PREDICTIONS[complete:])
    assert path.read_bytes() == data


def test_repair_of_a_long_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(prediction_to_line(PREDICTIONS[1]) + b"x" * 200_000)
    assert repair(path) == 200_000
    assert list(read(path)) == [PREDICTIONS[1]]


def test_missing_journal_is_empty(tmp_path: Path) -> None:
    assert repair(tmp_path / "none") == 0
    assert list(read(tmp_path / "none")) == []


def test_two_lines_for_one_sample_count_once_and_the_later_one_wins(tmp_path: Path) -> None:
    later = Prediction("suite/c", "no_mask")
    write(tmp_path / "p.jsonl", [*PREDICTIONS, later])
    assert list(read(tmp_path / "p.jsonl")) == [*PREDICTIONS[:2], later]


def test_errors_can_be_left_out(tmp_path: Path) -> None:
    write(tmp_path / "p.jsonl", PREDICTIONS)
    assert list(read(tmp_path / "p.jsonl", without_errors=True)) == PREDICTIONS[:2]


def test_damage_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'{"sample_id": "a", "sta\n' + prediction_to_line(FULL))
    with pytest.raises(DataError, match="line 1"):
        list(read(path))


@pytest.mark.parametrize(
    "line",
    [
        b'{"sample_id": "a", "status": "fine"}\n',
        b'{"status": "ok"}\n',
        b'{"sample_id": "a", "status": "ok", "mask": {"size": [2, 2], "counts": "zz"}}\n',
    ],
)
def test_a_line_that_is_not_a_prediction_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(line)
    with pytest.raises(DataError, match="line 1"):
        list(read(path))


def test_a_directory_is_held_by_one_process(tmp_path: Path) -> None:
    files = RunFiles(tmp_path / "run")
    with Lock(files), pytest.raises(UsageError, match="in use by process"):
        Lock(files)
    with Lock(files):
        pass
