"""Whole files: replaced or left alone, with nothing left behind, and a full disk that names the file."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lens_bench.atomic import held, naming_full_disk, replacing, sweep, write_text
from lens_bench.errors import DataError, RunError
from lens_bench.lock import FolderLock
from lens_bench.records import Prediction
from lens_bench.run.journal import Journal, read


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True) as reader:
        write_text(pipe, "a line\n")
        assert reader.stdout is not None
        assert reader.stdout.read() == "a line\n"
    assert pipe.is_fifo()


def test_standard_output_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    code = "from pathlib import Path; from lens_bench.atomic import write_text; write_text(Path('/dev/stdout'), 'text')"
    before = os.lstat("/dev/stdout")
    with (tmp_path / "out").open("w") as stream:
        stream.write("before ")
        stream.flush()
        subprocess.run([sys.executable, "-c", code], stdout=stream, check=True)
    assert (tmp_path / "out").read_text() == "before text"
    assert os.path.samestat(before, os.lstat("/dev/stdout"))


WRITER = """
import sys
from pathlib import Path
from lens_bench.atomic import replacing

with replacing(Path(sys.argv[1])) as stream:
    stream.write(b"half")
    stream.flush()
    print("writing", flush=True)
    sys.stdin.read()
    stream.write(b" and whole")
"""


def writer(path: Path) -> subprocess.Popen[str]:
    """A process in the middle of writing a file; it finishes when its input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def temporaries(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.endswith(".tmp"))


def test_what_a_killed_writer_left_goes_with_the_next_lock_and_a_living_ones_stays(tmp_path: Path) -> None:
    dead, alive = writer(tmp_path / "summary.json"), writer(tmp_path / "scores.jsonl")
    dead.send_signal(signal.SIGKILL)
    dead.wait()
    assert len(temporaries(tmp_path)) == 2
    with FolderLock(tmp_path, tmp_path / ".lock"):
        assert temporaries(tmp_path) == [f".scores.jsonl.{alive.pid}.tmp"]
    alive.communicate()
    assert (alive.returncode, temporaries(tmp_path)) == (0, [])
    assert (tmp_path / "scores.jsonl").read_text() == "half and whole"
    assert not (tmp_path / "summary.json").exists()


def test_the_next_write_of_a_file_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    (tmp_path / ".board.csv.1.tmp").write_text("half")
    (tmp_path / ".other.csv.1.tmp").write_text("half")
    write_text(tmp_path / "board.csv", "whole\n")
    assert (tmp_path / "board.csv").read_bytes() == b"whole\n"
    assert temporaries(tmp_path) == [".other.csv.1.tmp"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(ValueError, match="no"), replacing(path) as stream:
        stream.write(b"new")
        raise ValueError("no")
    assert path.read_text() == "old"
    assert temporaries(tmp_path) == []


def test_folders_that_are_being_written_stay(tmp_path: Path) -> None:
    for name in (".val-dead", ".val-alive"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "image.png").write_bytes(b"x")
    with held(tmp_path / ".val-alive"):
        sweep(tmp_path, ".val-*")
        assert [p.name for p in tmp_path.iterdir()] == [".val-alive"]
    sweep(tmp_path, ".val-*")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "no space left"), (errno.EDQUOT, "the disk quota")])
def test_a_full_disk_names_the_file(code: int, words: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=rf"{words}.* to write .*summary\.json") as caught:
        with naming_full_disk(tmp_path / "summary.json"):
            raise OSError(code, os.strerror(code))
    assert caught.value.exit_code == 1
    assert "make room" in caught.value.hint
    with pytest.raises(PermissionError), naming_full_disk(tmp_path / "summary.json"):
        raise PermissionError(errno.EACCES, "no")


def test_journals_and_whole_files_name_themselves_on_a_full_disk(tmp_path: Path, monkeypatch: Any) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"no space left to write .*predictions\.jsonl"):
        with Journal(tmp_path / "predictions.jsonl") as journal:
            journal.append([Prediction("a", "no_mask")])
    with pytest.raises(RunError, match=r"no space left to write .*/a\.json"):
        write_text(tmp_path / "a.json", "{}")
    assert [p.name for p in tmp_path.iterdir()] == ["predictions.jsonl"]


@pytest.mark.parametrize("line", ["{", "[]", '{"sample_id": 5}'])
def test_a_damaged_line_of_a_journal_says_what_to_do(line: str, tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    with Journal(path) as journal:
        journal.append([Prediction("a", "no_mask")])
    path.write_text(line + "\n" + path.read_text())
    with pytest.raises(DataError, match=r"predictions\.jsonl, line 1") as caught:
        list(read(path))
    assert "delete the line" in caught.value.hint
    assert "--fresh" in caught.value.hint
