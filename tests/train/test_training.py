"""Whole trainings at tiny size: resumed equals uninterrupted, what trains and what does not, what a result can do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from lens_bench.errors import CheckpointError, OutOfMemoryError, RunError, UsageError
from lens_bench.lens.checkpoint import load
from lens_bench.lens.modeling import LensModel
from lens_bench.lock import FolderLock
from lens_bench.report.plots.training import read_log as drawable
from lens_bench.train import checkpoint as checkpoints
from lens_bench.train import curriculum, loop
from lens_bench.train.config import TrainRecipe
from lens_bench.train.log import read_log
from lens_bench.train.parameters import group_of
from lens_bench.train.rollout import Ask, HfSampler, Rollout

from .conftest import RATES, Run, tiny_recipe

STAGES = ("sam", "vision", "supervised", "grpo")
# Not functions of the training.
CLOCK = ("seconds", "samples_per_s")
# Bounds of ``sampler_difference``, the mean distance in nats between the sampler's and the trainer's log-probabilities.
# Both compute the same logits (of size 1, at most 6) in batches of different shapes. bfloat16: each of the two rounds
# logits and the states before them to eps / 2, so 4 eps leave a factor of 4. float32: sums of some 100 terms, each
# rounded, in any order. A difference in weights that matters is far larger: grpo.sampler_tolerance is 0.1.
NOISE = 100 * torch.finfo(torch.float32).eps
BF16_NOISE = 4 * torch.finfo(torch.bfloat16).eps


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in load(folder).model.named_parameters()}


def same(a: Path, b: Path) -> bool:
    one, other = weights(a), weights(b)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def numbers(lines: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]


def start_of(recipe: TrainRecipe) -> LensModel:
    return loop.open_start(recipe).lens


# ---------------------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("stage", STAGES)
def test_killed_and_resumed_is_uninterrupted(stage: str, run: Run) -> None:
    """Bitwise, over the end of an epoch (12 pictures or referents, 4 a step)."""
    over: dict[str, object] = {"optimiser": {"steps": 5, "warmup": 2}, "saving": {"every": 2}}
    if stage == "grpo":
        over["data"] = {"unit": "referent", "part": [0.0, 0.5]}  # 6 pictures, 12 referents
    recipe = tiny_recipe(stage, over)
    whole, seen = run(recipe, "whole")
    assert seen.steps[1]["epoch"] < 1 < seen.steps[-1]["epoch"]
    # Killed after step 3, of which nothing was saved.
    run(recipe, "parts", kill_at=3)
    assert [p.name for p in checkpoints.checkpoints(whole.parent.parent / "parts")] == ["checkpoint-00000002"]
    parts, rest = run(recipe, "parts")
    assert rest.begun == 2 and len(rest.steps) == 3
    assert same(whole, parts)
    logs = [numbers(read_log(folder.parent / "train_log.jsonl")) for folder in (whole, parts)]
    assert logs[0] == logs[1] and len(logs[0]) == 5


def test_a_kill_while_saving_leaves_the_last_checkpoint(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe("supervised", {"optimiser": {"steps": 5}, "saving": {"every": 2}})
    whole, _ = run(recipe, "whole")
    real, calls = torch.save, []

    def dying(state: object, stream: BinaryIO) -> None:
        calls.append(stream)
        if len(calls) == 2:
            stream.write(b"half of a fi")
            raise KeyboardInterrupt
        real(state, stream)

    monkeypatch.setattr(checkpoints.torch, "save", dying)
    folder, _ = run(recipe, "parts")
    monkeypatch.setattr(checkpoints.torch, "save", real)
    assert [p.name for p in checkpoints.checkpoints(folder)] == ["checkpoint-00000002"]
    assert load(folder / "checkpoint-00000002").model is not None
    parts, rest = run(recipe, "parts")
    assert rest.begun == 2 and same(whole, parts)


def test_checkpoints_are_rotated_and_a_finished_stage_is_left_alone(run: Run) -> None:
    recipe = tiny_recipe("supervised", {"optimiser": {"steps": 5}, "saving": {"every": 1, "keep": 2}})
    result, _ = run(recipe)
    names = [p.name for p in checkpoints.checkpoints(result.parent)]
    assert names == ["checkpoint-00000003", "checkpoint-00000004"]
    again, seen = run(recipe)
    assert again == result and not seen.steps and "finished" in seen.notes[0]
    with pytest.raises(UsageError, match=r"optimiser\.steps"):
        run(tiny_recipe("supervised", {"optimiser": {"steps": 6}}))


def test_another_recipe_in_the_same_place_is_refused(run: Run) -> None:
    run(tiny_recipe("supervised"), kill_at=1)
    with pytest.raises(UsageError, match=r"recipe\.seed") as caught:
        run(tiny_recipe("supervised", {"seed": 3}))
    assert "--fresh" in caught.value.hint
    # How often is saved and evaluated may change.
    run(tiny_recipe("supervised", {"saving": {"every": 1}}))


def test_two_trainings_in_one_folder_are_refused(run: Run, tmp_path: Path) -> None:
    with FolderLock(tmp_path / "out", tmp_path / "out" / ".lock"), pytest.raises(UsageError, match="in use by process"):
        run(tiny_recipe("supervised"))
    run(tiny_recipe("supervised"))


def test_a_key_that_came_later_has_its_default(run: Run) -> None:
    folder, _ = run(tiny_recipe("supervised"), kill_at=1)
    path = folder / "recipe.json"
    begun = json.loads(path.read_text())
    del begun["recipe"]["optimiser"]["floor"]
    path.write_text(json.dumps(begun))
    run(tiny_recipe("supervised"), kill_at=2)
    with pytest.raises(UsageError, match=r"optimiser\.floor"):
        run(tiny_recipe("supervised", {"optimiser": {"floor": 0.5}}))


def test_a_torn_checkpoint_is_named(run: Run) -> None:
    recipe = tiny_recipe("supervised", {"saving": {"every": 1}})
    folder, _ = run(recipe, kill_at=2)
    state = folder / "checkpoint-00000001" / "trainer_state.pt"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="checkpoint-00000001"):
        run(recipe)


# ---------------------------------------------------------------------------------------------- what trains


@pytest.mark.parametrize("stage", STAGES)
def test_exactly_the_declared_groups_change(stage: str, run: Run) -> None:
    recipe = tiny_recipe(stage, {"optimiser": {"steps": 2, "schedule": "constant"}})
    before = {name: p.detach().clone() for name, p in start_of(recipe).named_parameters()}
    result, _ = run(recipe)
    after = weights(result)
    for name, old in before.items():
        declared = group_of(name, recipe.stage) in RATES[stage]
        assert torch.equal(old, after[name]) != declared, f"{name} of {group_of(name, recipe.stage)}"


def test_stage_one_trains_the_head_alone(run: Run) -> None:
    over = {"text": {"weight": 0}, "optimiser": {"rates": {k: None for k in RATES["supervised"]} | {"head": 1e-3}}}
    recipe = tiny_recipe("supervised", over)
    before = dict(start_of(recipe).named_parameters())
    result, seen = run(recipe)
    changed = {name.split(".")[0] for name, p in weights(result).items() if not torch.equal(p, before[name].detach())}
    assert changed == {"head"} and "loss/text" not in seen.steps[0]


def test_a_group_that_gets_no_gradient_is_an_error(run: Run) -> None:
    with pytest.raises(RunError, match=r"head\..* get no gradient|get no gradient, e\.g\. lens\.head"):
        run(tiny_recipe("supervised", {"mask": {"weight": 0}}))


def test_grpo_that_asks_for_no_masks_decodes_none(run: Run) -> None:
    """And is otherwise the same: the queries change nothing in front of them."""
    texts = {k: None for k in RATES["grpo"]} | {"embeddings": 1e-3, "language": 1e-3}
    over = {"mask": {"weight": 0}, "optimiser": {"rates": texts, "steps": 2}}
    rewards = [{"name": "format"}, {"name": "box"}]
    _, without = run(tiny_recipe("grpo", {**over, "grpo": {"rewards": rewards}}), "without")
    rewards = [*rewards, {"name": "mask", "weight": 1e-12}]
    _, beside = run(tiny_recipe("grpo", {**over, "grpo": {"rewards": rewards}}), "beside")
    for one, other in zip(without.steps, beside.steps, strict=True):
        assert "train/mask_iou" not in one and "train/mask_iou" in other and "loss/dice" not in one
        assert one["length/read"] < other["length/read"]
        for name in ("reward/box", "entropy", "kl", "length/answer", "grad_norm"):
            assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-6), name


def test_modes_agree_between_training_and_evaluation(run: Run) -> None:
    """SAM 2 would choose among several masks in evaluation, of which one was trained."""
    result, _ = run(tiny_recipe("supervised"))
    model = load(result).model
    assert not model.sam.sam2.mask_decoder.dynamic_multimask_via_stability
    assert model.config.positions == "mrope"


def test_tuned_decoder_survives_the_next_stage(run: Run) -> None:
    first, _ = run(tiny_recipe("supervised"), "first")
    rates = {**{k: None for k in RATES["grpo"]}, "language": 1e-3}
    over = {"model": {"fresh": None, "checkpoint": str(first)}, "optimiser": {"rates": rates, "steps": 1}}
    second, _ = run(tiny_recipe("grpo", over), "second")
    one, two = weights(first), weights(second)
    decoder = [name for name in one if ".mask_decoder." in name]
    assert decoder and all(torch.equal(one[name], two[name]) for name in decoder)


# ---------------------------------------------------------------------------------------------- stage 2


def test_the_divergence_begins_at_exactly_zero(run: Run) -> None:
    _, seen = run(tiny_recipe("grpo"))
    assert seen.steps[0]["kl"] == 0.0 and seen.steps[-1]["kl"] > 0
    assert all(step["sampler_difference"] < NOISE for step in seen.steps)


def test_a_sampler_with_other_weights_stops_training(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = HfSampler.sample

    def stale(self: HfSampler, asks: Sequence[Ask], members: int, seed: int) -> list[list[Rollout]]:
        groups = real(self, asks, members, seed)
        return [[Rollout(r.ids, tuple(p - 0.2 for p in r.logps)) for r in group] for group in groups]

    monkeypatch.setattr(HfSampler, "sample", stale)
    with pytest.raises(RunError, match=r"0\.2 nats a token off"):
        run(tiny_recipe("grpo"))
    _, seen = run(tiny_recipe("grpo", {"grpo": {"sampler_tolerance": 0.3}}), "tolerant")
    assert seen.steps[0]["sampler_difference"] == pytest.approx(0.2, abs=1e-4)
    # As of importance_cap, 0 means: not at all.
    _, seen = run(tiny_recipe("grpo", {"grpo": {"sampler_tolerance": 0}, "optimiser": {"steps": 1}}), "off")
    assert seen.steps[0]["sampler_difference"] == pytest.approx(0.2, abs=1e-4)


def test_a_ratio_to_the_sampler_is_bounded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that the sampler said to be far less likely than they are: positive advantages are clipped away."""
    sample = HfSampler.sample

    def doubtful(self: HfSampler, asks: Sequence[Ask], members: int, seed: int) -> list[list[Rollout]]:
        found = sample(self, asks, members, seed)
        return [[Rollout(r.ids, tuple(p - 1.0 for p in r.logps)) for r in group] for group in found]

    monkeypatch.setattr(HfSampler, "sample", doubtful)
    losses = {}
    for name, more in {
        "policy": {},
        "token": {"ratio_to": "sampler"},
        "wide": {"ratio_to": "sampler", "epsilon_high": 9.0},
        "sequence": {"ratio_to": "sampler", "importance_sampling_level": "sequence", "epsilon_high": 9.0},
        "cispo": {"ratio_to": "sampler", "loss_type": "cispo", "epsilon_high": 0.5},
    }.items():
        over = {"grpo": {"sampler_tolerance": 0, **more}, "optimiser": {"steps": 1}}
        losses[name] = run(tiny_recipe("grpo", over), name)[1].steps[0]
    assert losses["token"]["loss"] > losses["policy"]["loss"] + 1e-3  # min(r A, 1.2 A): only losses grow by e
    assert losses["wide"]["loss"] == pytest.approx(losses["sequence"]["loss"], abs=1e-3)
    assert len({round(found["grad_norm"], 5) for found in losses.values()}) >= 4


def rare(completion_ids: list[list[int]], sample_id: list[str], **_: object) -> list[float]:
    """Differs within a group for every other sample alone."""
    return [
        float(n % 2) if sum(map(ord, name)) % 2 else 1.0
        for n, (_ids, name) in enumerate(zip(completion_ids, sample_id, strict=True))
    ]


@pytest.mark.parametrize("masks", [True, False])
def test_groups_of_equal_rewards_are_replaced(masks: bool, run: Run) -> None:
    def recipe(redraws: int) -> TrainRecipe:
        over: dict[str, object] = {
            "grpo": {"rewards": [{"name": f"{__name__}.rare"}], "redraws": redraws},
            "optimiser": {"steps": 4},
            "saving": {"every": 2},
        }
        if not masks:
            idle = {group: None for group in RATES["grpo"] if group not in ("language", "embeddings", "vision")}
            over |= {"mask": {"weight": 0}, "optimiser": {"steps": 4, "rates": idle}}
        return tiny_recipe("grpo", over)

    rare.reads_masks = masks  # type: ignore[attr-defined]
    _, plain = run(recipe(0), "plain")
    result, seen = run(recipe(8), "redrawn")
    assert "rate/redrawn" not in plain.steps[0]
    assert max(step["rate/flat_groups"] for step in plain.steps) > 0
    assert all(step["rate/flat_groups"] <= 0.25 for step in seen.steps)
    assert sum(step["rate/flat_groups"] for step in seen.steps) < sum(s["rate/flat_groups"] for s in plain.steps)
    # Each flat group takes a redraw or more, none more than 8.
    assert 0 < max(step["rate/redrawn"] for step in seen.steps) <= 8
    run(recipe(8), "parts", kill_at=3)
    again, _ = run(recipe(8), "parts")
    assert same(result, again)
    assert numbers(read_log(result.parent / "train_log.jsonl")) == numbers(read_log(again.parent / "train_log.jsonl"))


def test_redraws_are_bounded(run: Run) -> None:
    over = {"grpo": {"rewards": [{"name": f"{__name__}.constant"}], "redraws": 3}, "optimiser": {"steps": 1}}
    _, seen = run(tiny_recipe("grpo", over))
    assert seen.steps[0]["rate/redrawn"] == 3 and seen.steps[0]["rate/flat_groups"] == 1


def constant(completion_ids: list[list[int]], **_: object) -> list[float]:
    return [1.0 for _ in completion_ids]


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo"])
def test_micro_batches_add_up(loss_type: str, run: Run) -> None:
    results = []
    for micro in (1, 4):
        over = {"batch": {"micro": micro}, "grpo": {"loss_type": loss_type}, "optimiser": {"steps": 2}}
        _, seen = run(tiny_recipe("grpo", over), f"micro{micro}")
        results.append(seen.steps)
    for one, other in zip(*results, strict=True):
        close(one, other)


def close(one: Mapping[str, float], other: Mapping[str, float], rel: float = 2e-3) -> None:
    """Results agree with each other; rounding noise stays below its bound, but is of any size below it."""
    assert one.keys() == other.keys()
    for name in sorted(one.keys() - set(CLOCK)):
        if name == "sampler_difference":
            assert max(one[name], other[name]) < NOISE
        else:
            assert one[name] == pytest.approx(other[name], abs=2e-4, rel=rel), name


def test_a_shared_prefix_changes_nothing_but_the_work(run: Run) -> None:
    seen = [run(tiny_recipe("grpo", {"grpo": {"share_prefix": s}}), f"s{s}")[1].steps[0] for s in (True, False)]
    assert seen[0].pop("length/read") < seen[1].pop("length/read")
    close(*seen)


def test_rewards_rise_on_a_few_fixed_prompts(run: Run) -> None:
    """Starts from answers that are mostly not of the wanted form; the reward is that form."""
    over = {
        "data": {"part": [0.0, 0.2]},
        "batch": {"units": 4, "micro": 4},
        "optimiser": {"steps": 60, "schedule": "constant", "rates": {"embeddings": 3e-3, "language": 3e-3}},
        "mask": {"weight": 0.1},
        "grpo": {
            "num_generations": 8,
            "max_completion_length": 6,
            "beta": 0.0,
            "rewards": [{"name": "tests_train_rewards.short"}],
        },
    }
    import sys
    from types import ModuleType

    module = ModuleType("tests_train_rewards")

    def short(prompts: list[str], completions: list[str], completion_ids: list[list[int]], **_: object) -> list[float]:
        return [1 - len(ids) / 6 for ids in completion_ids]

    module.short = short  # type: ignore[attr-defined]
    sys.modules["tests_train_rewards"] = module
    _, seen = run(tiny_recipe("grpo", over))
    rewards = [step["reward/total"] for step in seen.steps]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.3


def test_mask_loss_falls_on_a_few_pictures(run: Run) -> None:
    over = {"data": {"part": [0.0, 0.34]}, "optimiser": {"steps": 30, "schedule": "constant"}, "text": {"weight": 0}}
    rates = {"optimiser": {"rates": {"embeddings": None, "language": None, "head": 3e-3, "sam_decoder": 3e-3}}}
    _, seen = run(tiny_recipe("supervised", {**over, "optimiser": {**over["optimiser"], **rates["optimiser"]}}))  # type: ignore[dict-item]
    losses = [step["loss"] for step in seen.steps]
    assert sum(losses[-3:]) / 3 < sum(losses[:3]) / 3 - 0.1


def test_curriculum_is_measured_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = curriculum._measure, []

    def counted(*arguments: Any) -> None:
        calls.append(arguments)
        real(*arguments)

    monkeypatch.setattr(curriculum, "_measure", counted)
    over = {"data": {"curriculum": {"measure": 8}}, "saving": {"every": 1}}
    recipe = tiny_recipe("grpo", over)
    whole, _ = run(recipe, "whole")
    measured = json.loads((whole.parent / "measured.json").read_text())
    assert len(measured) == 8 and all(0 <= value <= 1 for value in measured.values())
    assert len(calls) == 1
    run(recipe, "parts", kill_at=10)  # measuring eight units comes first, then two steps
    parts, rest = run(recipe, "parts")
    # A second measuring of the same start would give the same weights.
    assert len(calls) == 2 and rest.begun == 1
    assert same(whole, parts)


def test_adapters(run: Run) -> None:
    pytest.importorskip("peft", reason="adapters need peft")
    over = {
        "lora": {"rank": 4, "alpha": 8},
        "optimiser": {"steps": 4, "rates": {"embeddings": None}},
        "saving": {"every": 2},
    }
    recipe = tiny_recipe("grpo", over)
    before = dict(start_of(recipe).named_parameters())
    whole, seen = run(recipe, "whole")
    assert seen.steps[0]["kl"] == 0.0 and seen.steps[-1]["kl"] > 0
    after = weights(whole)
    # The result is a plain model: merged, under its own names.
    assert after.keys() == before.keys()
    changed = {name for name in after if not torch.equal(after[name], before[name].detach())}
    assert any("language_model" in name and name.endswith("q_proj.weight") for name in changed)
    assert not any("embed_tokens" in name or "norm" in name for name in changed if name.startswith("qwen"))
    run(recipe, "parts", kill_at=3)
    parts, rest = run(recipe, "parts")
    assert rest.begun == 2 and same(whole, parts)


# ---------------------------------------------------------------------------------------------- around it


def test_evaluation_overlays_and_a_drawable_log(run: Run) -> None:
    over = {"evaluation": {"split": "shapes/val", "every": 2, "samples": 5, "overlays": 2}}
    result, seen = run(tiny_recipe("supervised", over))
    # Without a right mask there is no share of right masks that are named.
    assert {k for k in seen.steps[1] if k.startswith("eval/")} - {"eval/named"} == {
        f"eval/{n}" for n in ("ciou", "giou", "box_right", "box_iou", "answered", "failed")
    }
    assert not any(k.startswith("eval/") for k in seen.steps[0])
    assert len(list((result.parent / "samples").glob("*.png"))) == 2
    assert "loss/dice" in drawable(result.parent / "train_log.jsonl")


def test_cached_features_change_nothing(run: Run) -> None:
    recipe = tiny_recipe("grpo", {"runtime": {"cache_gb": 1}})
    whole, _ = run(recipe, "whole")
    # A cache that has room for a part of them only.
    small = tiny_recipe("grpo", {"runtime": {"cache_gb": 1e-4}})
    assert same(whole, run(small, "small")[0])


def test_a_broken_gradient_stops_before_the_update(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe("supervised", {"saving": {"every": 1}})
    real = loop.Training._clip
    calls = []

    def poisoned(self: loop.Training) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            next(p for p in self.shop.trainee.parameters() if p.grad is not None).grad.fill_(float("nan"))  # type: ignore[union-attr]
        return real(self)

    monkeypatch.setattr(loop.Training, "_clip", poisoned)
    with pytest.raises(RunError, match="norm is nan") as caught:
        run(recipe)
    assert "checkpoint-00000001" in caught.value.hint


def test_a_step_that_runs_out_of_memory_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: loop.Training) -> torch.Tensor:
        return torch.empty(1 << 50)

    monkeypatch.setattr(loop.Training, "_clip", full)
    with pytest.raises(OutOfMemoryError, match=r"step 1 ran out of memory: .*DefaultCPUAllocator") as caught:
        run(tiny_recipe("supervised"))
    assert "batch.micro" in caught.value.hint


def test_a_log_ends_with_the_last_step(run: Run) -> None:
    """Also where that step ended the training."""
    recipe = tiny_recipe("supervised")
    result, _ = run(recipe)
    assert [line["step"] for line in read_log(result.parent / "train_log.jsonl")] == [1, 2, 3]
    flat = tiny_recipe("grpo", {"stop": {"flat": 1}, "grpo": {"rewards": [{"name": "box", "threshold": 1.0}]}})
    with pytest.raises(RunError, match="nothing to learn from"):
        run(flat, "flat")
    assert [line["step"] for line in read_log(result.parent.parent / "flat" / "train_log.jsonl")] == [1]


def test_gradient_checkpointing_and_half_precision_run(run: Run) -> None:
    over = {"runtime": {"gradient_checkpointing": True}}
    plain, _ = run(tiny_recipe("supervised"), "plain")
    recomputed, _ = run(tiny_recipe("supervised", over), "recomputed")
    one, other = weights(plain), weights(recomputed)
    assert all(torch.allclose(one[n], other[n], atol=1e-5) for n in one)
    _, seen = run(tiny_recipe("grpo", {"runtime": {"precision": "bf16"}}), "half")
    assert seen.steps[0]["kl"] == 0.0 and all(step["loss"] == step["loss"] for step in seen.steps)


def test_saved_in_half_precision(run: Run) -> None:
    result, _ = run(tiny_recipe("supervised", {"saving": {"dtype": "float16"}}))
    size = sum(p.numel() for p in load(result).model.parameters())
    assert (result / "model.safetensors").stat().st_size < 2.1 * size + 200_000
    assert (result / "model.yaml").is_file() and "shapes/train" in (result / "README.md").read_text()


def test_a_result_is_a_model_for_the_command_line(run: Run) -> None:
    import numpy as np

    from lens_bench.picture import OpenModel

    result, _ = run(tiny_recipe("grpo"))
    with OpenModel(str(result)) as model:
        (found,) = model.ask(np.zeros((64, 80, 3), np.uint8), ["the red circle"])
    assert found.status == "ok" and found.mask is not None and found.mask.size == (64, 80)


def test_a_result_is_named_and_tells_no_path(run: Run, tmp_path: Path) -> None:
    start, _ = run(tiny_recipe("supervised"), "start")
    over = {"model_name": "my-model", "model_title": "Mine", "licence": "CC0-1.0", "optimiser": {"steps": 1}}
    folder, _ = run(tiny_recipe("supervised", {**over, "model": {"fresh": None, "checkpoint": str(start)}}))
    card = json.loads((folder / "model.yaml").read_text(encoding="utf-8"))
    assert (card["name"], card["title"], card["licence"]) == ("my-model", "Mine", "CC0-1.0")
    story = (folder / "README.md").read_text(encoding="utf-8")
    assert "start/final" in story
    assert str(tmp_path) not in story


def test_fresh_begins_anew(run: Run, tmp_path: Path, data_root: Path) -> None:
    from .conftest import Watcher

    run(tiny_recipe("supervised"))
    watcher = Watcher()
    loop.train(tiny_recipe("supervised", {"seed": 1}), loop.Where(tmp_path / "out", data_root, fresh=True), watcher)
    assert watcher.begun == 0 and len(watcher.steps) == 3
    shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl"])
def test_a_checkpoint_of_the_full_models_kind(family: str, run: Run, tmp_path: Path) -> None:
    """Merged patches, images of several sizes, JSON answers, untied ends: what lens-3b recipes start from, but tiny."""
    from lens_bench.lens.save import Story, save
    from lens_bench.lens.tiny import byte_tokenizer, tiny_config, tiny_model

    save(tiny_model(tiny_config("lens-1d", family)), tmp_path / "start", byte_tokenizer(), Story("start"))
    start = {"fresh": None, "checkpoint": str(tmp_path / "start"), "prompt": {"max_new_tokens": 8}}
    answer = {"text": "{box}", "box": '[{{"bbox_2d": [{x1}, {y1}, {x2}, {y2}]}}]', "step": 1}
    rates = {**RATES["grpo"], "vision": 1e-3}
    over = {"model": start, "answer": answer, "optimiser": {"rates": rates, "steps": 2}, "mask": {"size": "original"}}
    _, seen = run(tiny_recipe("supervised", over), "sft")
    assert "positions" in " ".join(seen.notes)
    result, seen = run(tiny_recipe("grpo", {**over, "grpo": {"max_completion_length": 8}}), "grpo")
    assert seen.steps[0]["kl"] == 0.0 and seen.steps[0]["sampler_difference"] < 1e-4
    assert load(result).model.config.family == family
