"""SIGTERM and SIGUSR1 end a training behind its step, with a checkpoint and a code that says: start me again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from lens_bench.errors import Preempted
from lens_bench.train import command as commanded
from lens_bench.train.log import read_log
from lens_bench.train.signals import Signals
from lens_bench.trained import checkpoints

from .commands import command, write_recipe
from .conftest import tiny_recipe
from .test_training import numbers, same

AGAIN = os.EX_TEMPFAIL
ASKING = [signal.SIGTERM, signal.SIGUSR1]
OVER: dict[str, object] = {"optimiser": {"steps": 5, "warmup": 2}}


class Sending(commanded.TrainProgress):
    """Sends a signal to this process in the middle of a step: once so many are done."""

    number, at = signal.SIGTERM, 2

    def step(self, values: Mapping[str, float]) -> None:
        super().step(values)
        if self._done == self.at:
            os.kill(os.getpid(), self.number)


def test_seventy_five_is_the_code() -> None:
    assert Preempted.exit_code == AGAIN == 75


@pytest.mark.parametrize(("stage", "number"), [("supervised", signal.SIGUSR1), ("grpo", signal.SIGTERM)])
def test_asked_to_stop_and_resumed_is_uninterrupted(
    stage: str,
    number: signal.Signals,
    data_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = write_recipe(tiny_recipe(stage, OVER), tmp_path / "recipe.yaml")
    assert command(recipe, tmp_path / "whole", data_root) == 0
    before = [signal.getsignal(one) for one in ASKING]
    monkeypatch.setattr(commanded, "TrainProgress", Sending)
    monkeypatch.setattr(Sending, "number", number)
    capsys.readouterr()
    assert command(recipe, tmp_path / "parts", data_root) == AGAIN
    said = " ".join(capsys.readouterr().err.split())
    assert "was stopped by a signal after step 2 of 5" in said
    assert "the same command continues from" in said and "checkpoint-00000002" in said
    assert [signal.getsignal(one) for one in ASKING] == before
    assert [path.name for path in checkpoints(tmp_path / "parts")] == ["checkpoint-00000002"]
    assert command(recipe, tmp_path / "parts", data_root) == 0
    assert same(tmp_path / "whole" / "final", tmp_path / "parts" / "final")
    logs = [numbers(read_log(tmp_path / name / "train_log.jsonl")) for name in ("whole", "parts")]
    assert logs[0] == logs[1] and len(logs[0]) == 5


def test_asked_in_the_last_step_it_finishes_and_the_next_stage_does_not_begin(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_recipe(tiny_recipe("sam", {"optimiser": {"steps": 2}}), tmp_path / "first.yaml")
    second = tiny_recipe("vision", {"optimiser": {"steps": 2}}).model_dump(mode="json", exclude_defaults=True)
    del second["model"]
    (tmp_path / "second.yaml").write_text(yaml.safe_dump(second), encoding="utf-8")
    chain = tmp_path / "both.yaml"
    links = [{"recipe": name} for name in ("first.yaml", "second.yaml")]
    chain.write_text(yaml.safe_dump({"name": "both", "chain": links}), encoding="utf-8")
    monkeypatch.setattr(commanded, "TrainProgress", Sending)
    assert command(first, tmp_path / "alone", data_root) == 0
    assert command(chain, tmp_path / "out", data_root) == AGAIN
    assert (tmp_path / "out" / "1-tiny-sam" / "final").is_dir()
    assert not read_log(tmp_path / "out" / "2-tiny-vision" / "train_log.jsonl")
    monkeypatch.setattr(Sending, "at", 99)
    assert command(chain, tmp_path / "out", data_root) == 0


def test_a_process_of_its_own_that_is_killed_with_term(data_root: Path, tmp_path: Path) -> None:
    """``kill -TERM`` from outside, whenever it comes; Ctrl-C is still 130."""
    recipe = write_recipe(tiny_recipe("supervised"), tmp_path / "recipe.yaml")
    for number, code in ((signal.SIGTERM, AGAIN), (signal.SIGINT, 130)):
        out = tmp_path / f"parts{number}"
        # Long enough that it cannot be over before the signal comes; ``test_preemption`` resumes.
        arguments = [str(recipe), str(out), str(data_root), "optimiser.schedule=constant", "optimiser.steps=100000"]
        script = "from tests.train.commands import main; main()"
        child = subprocess.Popen(
            [sys.executable, "-c", script, *arguments], stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
        assert child.stderr is not None
        log = out / "train_log.jsonl"
        while child.poll() is None and not (log.is_file() and len(read_log(log)) >= 2):
            pass
        child.send_signal(number)
        said = child.communicate()[1]
        assert child.returncode == code, said
        done = len(read_log(log))
        assert [path.name for path in checkpoints(out)] == ([f"checkpoint-{done:08d}"] if code == AGAIN else []), said


def test_handlers_are_left_alone_outside_the_main_thread() -> None:
    before, found = [signal.getsignal(one) for one in ASKING], []

    def enter() -> None:
        with Signals() as signals:
            found.append([signal.getsignal(one) for one in ASKING])
            assert not signals.asked()

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [before]
