"""SIGTERM and SIGUSR1 end a training after its step, with a checkpoint and a code that says: start me again."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import yaml

from lens_bench.errors import Preempted
from lens_bench.train import checkpoint, evaluate, rollout
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


# ---------------------------------------------------------------------------------------------- at any moment


class Twice:
    """Sends SIGTERM twice in the middle of a call."""

    def __init__(self, real: Callable[..., object], at: int) -> None:
        self.real, self.at, self.calls = real, at, 0

    def __call__(self, *arguments: object, **named: object) -> object:
        self.calls += 1
        if self.calls == self.at:
            os.kill(os.getpid(), signal.SIGTERM)
        out = self.real(*arguments, **named)
        if self.calls == self.at:
            os.kill(os.getpid(), signal.SIGTERM)
        return out


EVALUATED = {**OVER, "evaluation": {"split": "shapes/val", "every": 2, "samples": 4}, "saving": {"every": 3}}


@pytest.fixture(scope="module")
def evaluated(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recipe that looks at a split now and then, and its uninterrupted training."""
    folder = tmp_path_factory.mktemp("evaluated")
    recipe = write_recipe(tiny_recipe("grpo", EVALUATED), folder / "recipe.yaml")
    assert command(recipe, folder / "whole", data_root) == 0
    return recipe, folder / "whole"


@pytest.mark.parametrize(
    ("owner", "name", "call", "step"),
    [
        (evaluate.Engine, "answer", 1, 2),
        (rollout.HfSampler, "_row", 20, 2),  # 16 answers a step: between reading prompts and decoding
        (rollout._Inverse, "__call__", 2, 1),
        (checkpoint, "seal", 1, 3),
        (checkpoint, "put_in_place", 1, 3),
        (checkpoint.Keeper, "_rotate", 1, 3),
    ],
)
def test_two_signals_at_any_moment_lose_nothing(
    owner: object,
    name: str,
    call: int,
    step: int,
    evaluated: tuple[Path, Path],
    data_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe, whole = evaluated
    with monkeypatch.context() as patch:
        twice = Twice(getattr(owner, name), call)
        patch.setattr(owner, name, lambda *arguments, **named: twice(*arguments, **named))
        assert command(recipe, tmp_path / "parts", data_root) == AGAIN
    assert twice.calls >= call
    assert [path.name for path in checkpoints(tmp_path / "parts")] == [f"checkpoint-{step:08d}"]
    assert len(read_log(tmp_path / "parts" / "train_log.jsonl")) == step
    assert command(recipe, tmp_path / "parts", data_root) == 0
    assert same(whole / "final", tmp_path / "parts" / "final")
    logs = [numbers(read_log(folder / "train_log.jsonl")) for folder in (whole, tmp_path / "parts")]
    assert logs[0] == logs[1] and "eval/giou" in logs[0][1]


def test_a_signal_while_the_checkpoint_of_another_is_written(
    evaluated: tuple[Path, Path], data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, whole = evaluated
    with monkeypatch.context() as patch:
        twice = Twice(checkpoint.put_in_place, 1)
        patch.setattr(commanded, "TrainProgress", Sending)
        patch.setattr(checkpoint, "put_in_place", twice)
        assert command(recipe, tmp_path / "parts", data_root) == AGAIN
    assert twice.calls == 1
    assert [path.name for path in checkpoints(tmp_path / "parts")] == ["checkpoint-00000002"]
    assert command(recipe, tmp_path / "parts", data_root) == 0
    assert same(whole / "final", tmp_path / "parts" / "final")


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
