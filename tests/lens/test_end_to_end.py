"""A randomly initialised checkpoint through the command line: killed and continued, it gives what a whole run gives.

With ``--engine vllm`` the same is run where vLLM is installed (``tox -e vllm``).
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lens_bench.lens.save import Story, save
from lens_bench.lens.tiny import byte_tokenizer, tiny_config, tiny_model

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed here; run tox -e vllm"
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save(tiny_model(tiny_config("lens-1d", ends=tuple(range(40, 60)))), folder, byte_tokenizer(), Story("lens-tiny"))
    return folder


def start(arguments: list[object]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "lens_bench.cli", *map(str, arguments)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors.decode()[-2000:]


def answers(out: Path) -> dict[str, tuple[object, ...]]:
    """Everything of each prediction but its times."""
    (journal,) = out.rglob("predictions.jsonl")
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    assert len({row["sample_id"] for row in rows}) == len(rows)
    return {r["sample_id"]: (r["status"], json.dumps(r["mask"]), r["text"], json.dumps(r["tokens"])) for r in rows}


def written(out: Path) -> int:
    """Lines of the only run's journal; 0 where there is none yet."""
    return sum(journal.read_bytes().count(b"\n") for journal in out.rglob("predictions.jsonl"))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["hf", pytest.param("vllm", marks=[pytest.mark.vllm, needs_vllm])])
def test_killed_and_continued(tiny: Any, checkpoint: Path, tmp_path: Path, engine: str) -> None:
    def run(out: Path) -> list[object]:
        model: list[object] = ["--model", checkpoint, "--engine", engine, "--batch-size", 2]
        return [*tiny.run(str(checkpoint), out)[:-2], *model]

    finish(start(run(tmp_path / "whole")))
    whole = answers(tmp_path / "whole")
    assert len(whole) == 72 and all(status == "ok" for status, *_ in whole.values())

    process = start(run(tmp_path / "cut"))
    deadline = time.monotonic() + 600
    while (lines := written(tmp_path / "cut")) < 12 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    _, errors = process.communicate()
    assert lines >= 12, f"only {lines} answers before the run ended or ten minutes were over: {errors.decode()[-2000:]}"
    finish(start(run(tmp_path / "cut")))
    assert answers(tmp_path / "cut") == whole
    (summary,) = (tmp_path / "cut").rglob("summary.json")
    assert json.loads(summary.read_text())["complete"] is True
