"""What may change when a training continues, through the command line, and what is written down of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lens_bench.errors import OutOfMemoryError
from lens_bench.train.begun import FREE
from lens_bench.train.config import Optimiser
from lens_bench.train.log import read_log
from lens_bench.train.rollout import HfSampler
from lens_bench.train.schedule import rate_share

from .commands import command, write_recipe
from .conftest import RATES, Run, tiny_recipe
from .test_training import close, numbers, same

CONSTANT = {"schedule": "constant", "steps": 4}


@pytest.fixture
def killed(run: Run, tmp_path: Path) -> Path:
    """A recipe whose training was killed behind a checkpoint of two steps, in ``out``."""
    recipe = tiny_recipe("grpo", {"optimiser": {"steps": 3}, "saving": {"every": 1}})
    run(recipe, "out", kill_at=3)
    return write_recipe(recipe, tmp_path / "recipe.yaml")


def test_what_does_not_define_the_result_may_change_and_is_noted(
    killed: Path, run: Run, data_root: Path, tmp_path: Path
) -> None:
    whole, _ = run(tiny_recipe("grpo", {"optimiser": {"steps": 3}}), "whole")
    changes = {
        "batch.micro": 1,
        "runtime.logits_chunk": 7,
        "runtime.cache_gb": 1,
        "runtime.gradient_checkpointing": True,
        "grpo.share_prefix": False,
        "grpo.vllm_share": 0.2,
        "grpo.sampler_tolerance": 0.5,
        "saving.keep": 1,
        "evaluation": {"split": "shapes/val", "every": 3, "samples": 2},
    }
    settings = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    assert command(killed, tmp_path / "out", data_root, *settings) == 0
    begun = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert begun["recipe"]["batch"]["micro"] == 1 and begun["recipe"]["grpo"]["share_prefix"] is False
    (change,) = begun["changes"]
    assert change["step"] == 2
    assert change["settings"]["batch.micro"] == {"from": 2, "to": 1}
    assert change["settings"].keys() >= changes.keys() - {"evaluation"}
    one, other = (numbers(read_log(folder / "train_log.jsonl")) for folder in (whole.parent, tmp_path / "out"))
    for mine, theirs in zip(one, other, strict=True):
        # Without a shared prefix more tokens are read; the evaluation is new.
        kept = {k: v for k, v in theirs.items() if not k.startswith("eval/") and k != "length/read"}
        mine.pop("length/read")
        close(mine, kept)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "setting", ["batch.units=2", "seed=1", "grpo.beta=0.1", "optimiser.max_norm=2", "grpo.temperature=0.5"]
)
def test_what_defines_the_result_may_not(
    setting: str, killed: Path, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(killed, tmp_path / "out", data_root, setting) == 2
    assert f"another recipe.{setting.partition('=')[0]}" in " ".join(capsys.readouterr().err.split())


def test_after_memory_ran_out_what_the_error_advises_may_be_set(
    run: Run, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tiny_recipe("grpo", {"saving": {"every": 1}}), tmp_path / "recipe.yaml")
    real, calls = HfSampler.sample, []

    def full(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise OutOfMemoryError("rollouts: one item does not fit into memory", "lower the image size or dtype")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(HfSampler, "sample", full)
    assert command(recipe, tmp_path / "out", data_root) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "step 2 ran out of memory: rollouts" in said and "image size" not in said
    advised = ["batch.micro=1", "runtime.gradient_checkpointing=true", "runtime.precision=bf16"]
    assert all(setting.partition("=")[0] in said for setting in advised)
    assert command(recipe, tmp_path / "out", data_root, *advised) == 0
    assert {setting.partition("=")[0].partition(".")[0] for setting in advised} <= {"batch", *FREE}


def test_before_the_first_step_nothing_is_settled(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error of the first step advises to set what defines the result."""
    recipe = write_recipe(tiny_recipe("supervised", {"mask": {"weight": 0}}), tmp_path / "recipe.yaml")
    assert command(recipe, tmp_path / "out", data_root) == 1
    assert "optimiser.rates" in " ".join(capsys.readouterr().err.split())
    idle = ("head", "sam_prompt", "sam_decoder")
    assert command(recipe, tmp_path / "out", data_root, *(f"optimiser.rates.{name}=null" for name in idle)) == 0
    begun = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert begun["recipe"]["optimiser"]["rates"].keys() == RATES["supervised"].keys() - set(idle)
    assert "changes" not in begun


# ---------------------------------------------------------------------------------------------- more steps


@pytest.mark.parametrize(
    ("optimiser", "more"),
    [
        ({"schedule": "constant"}, {}),
        ({"schedule": "cosine", "decay": 3, "floor": 0.1, "warmup": 1}, {}),
        # It ended where the decay is said to end now.
        ({"schedule": "linear", "floor": 0.1}, {"decay": 4}),
    ],
)
def test_a_training_becomes_longer_where_the_schedule_allows_it(
    optimiser: dict[str, object], more: dict[str, object], run: Run, data_root: Path, tmp_path: Path
) -> None:
    def recipe(steps: int, **further: object) -> Path:
        over = {"optimiser": {**optimiser, **further, "steps": steps}, "saving": {"every": 2}}
        return write_recipe(tiny_recipe("supervised", over), tmp_path / f"{steps}.yaml")

    assert command(recipe(4), tmp_path / "parts", data_root) == 0
    first = (tmp_path / "parts" / "final" / "model.safetensors").read_bytes()
    assert command(recipe(4), tmp_path / "parts", data_root) == 0
    assert (tmp_path / "parts" / "final" / "model.safetensors").read_bytes() == first
    assert command(recipe(6, **more), tmp_path / "parts", data_root) == 0
    assert command(recipe(6, **more), tmp_path / "whole", data_root) == 0
    assert same(tmp_path / "parts" / "final", tmp_path / "whole" / "final")
    logs = [numbers(read_log(tmp_path / name / "train_log.jsonl")) for name in ("parts", "whole")]
    assert logs[0] == logs[1] and len(logs[0]) == 6
    begun = json.loads((tmp_path / "parts" / "recipe.json").read_text())
    assert begun["changes"][0]["settings"]["optimiser.steps"] == {"from": 4, "to": 6}


def test_a_longer_training_that_is_killed_is_not_taken_for_finished(run: Run, tmp_path: Path) -> None:
    """Its folder has the result of the shorter one meanwhile."""

    def train(steps: int, kill_at: int | None = None) -> tuple[Path, int]:
        over = {"optimiser": {"schedule": "constant", "steps": steps}, "saving": {"every": 1}}
        folder, seen = run(tiny_recipe("supervised", over), "parts", kill_at)
        return folder, seen.begun

    train(2)
    train(5, kill_at=4)
    assert (tmp_path / "parts" / "final").is_dir()
    result, begun = train(5)
    assert begun == 3
    over = {"optimiser": {"schedule": "constant", "steps": 5}}
    assert same(result, run(tiny_recipe("supervised", over), "whole")[0])


@pytest.mark.parametrize(
    ("schedule", "hint"), [({"floor": 0.0}, "model.checkpoint="), ({"floor": 0.1}, "optimiser.decay=3")]
)
def test_a_schedule_that_ends_with_the_training_allows_no_more_steps(
    schedule: dict[str, float], hint: str, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tiny_recipe("supervised", {"optimiser": schedule}), tmp_path / "recipe.yaml")
    assert command(recipe, tmp_path / "out", data_root) == 0
    capsys.readouterr()
    assert command(recipe, tmp_path / "out", data_root, "optimiser.steps=5") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "with 5 the schedule linear has another learning rate at step 2, which is done" in said and hint in said


def test_fewer_steps_are_another_training(data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tiny_recipe("supervised", {"optimiser": CONSTANT}), tmp_path / "recipe.yaml")
    assert command(recipe, tmp_path / "out", data_root) == 0
    assert command(recipe, tmp_path / "out", data_root, "optimiser.steps=3") == 2
    assert "another recipe.optimiser.steps" in " ".join(capsys.readouterr().err.split())


def test_a_stated_decay_is_the_schedule_of_a_shorter_training() -> None:
    for kind in ("linear", "cosine"):
        shared = {"rates": {"head": 1.0}, "schedule": kind, "floor": 0.2, "warmup": 2}
        short = Optimiser.model_validate({**shared, "steps": 10})
        long = Optimiser.model_validate({**shared, "steps": 15, "decay": 10})
        assert [rate_share(long, n) for n in range(10)] == [rate_share(short, n) for n in range(10)]
        assert [rate_share(long, n) for n in range(10, 15)] == pytest.approx([0.2] * 5)
    with pytest.raises(ValueError, match=r"after step 10 \(decay\) the learning rate is 0"):
        Optimiser.model_validate({**shared, "floor": 0, "steps": 15, "decay": 10})
    assert not short.open_ended and long.open_ended
