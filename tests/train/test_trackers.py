"""What trackers are told, by a module that writes down its calls; TensorBoard's own files are read back."""

from __future__ import annotations

import importlib.machinery
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lens_bench.errors import UsageError
from lens_bench.train.loop import Where, train
from lens_bench.train.trackers import require_trackers

from .conftest import Run, Watcher, tiny_recipe


def recorder(name: str, calls: list[tuple[str, dict[str, Any]]]) -> ModuleType:
    module: Any = ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    module.init = lambda **given: calls.append(("init", given))
    module.log = lambda values, step: calls.append(("log", {"values": values, "step": step}))
    module.finish = lambda: calls.append(("finish", {}))
    return module  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_runs_are_told_every_step(name: str, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setitem(sys.modules, name, recorder(name, calls))
    monkeypatch.setenv(f"{name.upper()}_PROJECT", "mine")
    over = {"runtime": {"report_to": [name]}, "saving": {"every": 1}}
    run(tiny_recipe("supervised", over), kill_at=2)
    begun, *steps, ended = calls
    assert begun[0] == "init" and begun[1]["project"] == "mine" and begun[1]["name"] == "tiny-supervised"
    assert begun[1]["config"]["batch"] == {"units": 4, "micro": 2}
    assert begun[1].get("dir") == (str(tmp_path / "out") if name == "wandb" else None)
    assert [call["step"] for _, call in steps] == [1, 2] and ended == ("finish", {})
    calls.clear()
    _, seen = run(tiny_recipe("supervised", over))
    told = [call for kind, call in calls if kind == "log"]
    assert [call["step"] for call in told] == [2, 3]
    assert [call["values"] for call in told] == seen.steps


def test_tensorboard_files_hold_the_numbers(run: Run) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    result, seen = run(tiny_recipe("supervised", {"runtime": {"report_to": ["tensorboard"]}}))
    events = accumulator.EventAccumulator(str(result.parent / "tensorboard"))
    events.Reload()
    found = {event.step: event.value for event in events.Scalars("loss")}
    assert found == pytest.approx({n: step["loss"] for n, step in enumerate(seen.steps, start=1)})


def test_what_is_not_installed_is_said_before_data_are_made(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    recipe = tiny_recipe("supervised", {"runtime": {"report_to": ["wandb"]}})

    def prepare() -> None:
        raise AssertionError("data were made")

    with pytest.raises(UsageError, match="wandb is not installed") as error:
        train(recipe, Where(tmp_path / "out", data_root), Watcher(), prepare)
    assert error.value.hint == "pip install wandb"
    require_trackers(())
