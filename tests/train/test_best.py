"""``saving.best``: the weights of the best evaluation, also across kills, and what may be asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from lens_bench.errors import UsageError
from lens_bench.registry import find_model
from lens_bench.train import stages
from lens_bench.train.config import TrainRecipe
from lens_bench.train.durable import damage
from lens_bench.train.log import read_log
from lens_bench.trained import checkpoints

from .conftest import RATES, Run, tiny_recipe
from .launching import FSDP, PLAIN, launch
from .test_training import numbers, same

LOOK = {"split": "shapes/val", "every": 1, "samples": 2}


def best(over: Mapping[str, object], steps: int, stage: str = "supervised", **saving: object) -> TrainRecipe:
    return tiny_recipe(
        stage,
        {
            "evaluation": LOOK,
            "saving": {"every": 2, "keep": 9, "best": {"metric": "giou"}, **saving},
            "optimiser": {"steps": steps},
            **over,
        },
    )


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Evaluations have these values, by step."""
    values: dict[int, float] = {}
    monkeypatch.setattr(stages, "evaluate", lambda *given: {"eval/giou": values[given[3]], "eval/ciou": 0.25})
    return values


def told(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    return found


def test_the_best_evaluation_is_kept_and_of_equal_ones_the_first(run: Run, scripted: dict[int, float]) -> None:
    scripted |= {1: 0.2, 2: 0.5, 3: 0.5, 4: 0.4}
    result, seen = run(best({}, 4), "out")
    kept, root = result.parent / "best", result.parent
    assert told(kept) == {"step": 2, "split": "shapes/val", "count": 2, "values": {"giou": 0.5, "ciou": 0.25}}
    assert not damage(kept) and find_model(str(kept)).name == "tiny-supervised"
    assert same(kept, root / "checkpoint-00000002") and not same(kept, result)
    assert seen.notes[-1] == f"best giou on shapes/val: 0.5000 at step 2, {kept}"


def test_killed_and_resumed_keeps_what_uninterrupted_keeps(run: Run, scripted: dict[int, float]) -> None:
    """``best/`` is of step 3, the checkpoint of step 2; and step 5 only equals it."""
    scripted |= {1: 0.2, 2: 0.3, 3: 0.6, 4: 0.1, 5: 0.6}
    whole, _ = run(best({}, 5), "whole")
    root, _ = run(best({}, 5), "parts", kill_at=3)
    assert told(root / "best")["step"] == 3 and [p.name for p in checkpoints(root)] == ["checkpoint-00000002"]
    parts, rest = run(best({}, 5), "parts")
    assert rest.begun == 2 and not any("next evaluation" in note for note in rest.notes)
    kept = [folder.parent / "best" for folder in (whole, parts)]
    assert told(kept[0]) == told(kept[1]) and same(*kept)
    logs = [numbers(read_log(folder.parent / "train_log.jsonl")) for folder in (whole, parts)]
    assert logs[0] == logs[1]


def test_a_kill_between_two_names_loses_no_best(run: Run, scripted: dict[int, float]) -> None:
    scripted |= {1: 0.6, 2: 0.3, 3: 0.2}
    root, _ = run(best({}, 3), kill_at=2)
    (root / "best").rename(root / ".best.old")
    run(best({}, 3))
    assert told(root / "best")["step"] == 1


def test_a_best_that_does_not_compare_is_named_and_replaced(run: Run, scripted: dict[int, float]) -> None:
    scripted |= {1: 0.9, 2: 0.3, 3: 0.2, 4: 0.1}
    root, _ = run(best({}, 4), kill_at=3)
    weights = root / "best" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    _, seen = run(best({}, 4), kill_at=3)
    expected = f"{root / 'best'} is damaged (model.safetensors is not what was written)"
    assert f"{expected}; the next evaluation is the best so far" in seen.notes
    assert told(root / "best")["step"] == 3
    _, seen = run(best({}, 4, best={"metric": "ciou"}))  # which that evaluation had too
    assert told(root / "best")["step"] == 3 and not any("next evaluation" in note for note in seen.notes)


def test_another_number_of_expressions_does_not_compare(run: Run, scripted: dict[int, float]) -> None:
    scripted |= {1: 0.9, 2: 0.3, 3: 0.2}
    root, _ = run(best({}, 3), kill_at=3)
    _, seen = run(best({"evaluation": {**LOOK, "samples": 3}}, 3))
    assert f"{root / 'best'} is the best by another evaluation; the next evaluation is the best so far" in seen.notes
    assert told(root / "best")["step"] == 3


def test_it_is_written_as_the_result_is(run: Run, scripted: dict[int, float]) -> None:
    """Adapters merged, weights in ``saving.dtype``, and what adapters moved is in them."""
    pytest.importorskip("peft", reason="adapters need peft")
    scripted |= {2: 0.5}
    rates = {"optimiser": {"steps": 2, "rates": {**RATES["supervised"], "embeddings": None}}}
    over = {**rates, "lora": {"rank": 4, "alpha": 8}, "evaluation": {**LOOK, "every": 2}}
    result, _ = run(best(over, 2, dtype="float16"))
    one, other = (load_file(folder / "model.safetensors") for folder in (result, result.parent / "best"))
    assert one.keys() == other.keys() and not any("lora" in name for name in one)
    assert all(torch.equal(one[n], other[n]) and other[n].dtype == torch.float16 for n in one)


def test_fresh_removes_it(run: Run, scripted: dict[int, float], data_root: Path) -> None:
    from lens_bench.train.begun import clear

    scripted |= dict.fromkeys(range(1, 3), 0.5)
    result, _ = run(best({}, 2))
    clear(result.parent)
    assert not (result.parent / "best").exists()


@pytest.mark.parametrize(
    ("stage", "over", "message"),
    [
        ("supervised", {"evaluation": None}, "saving.best needs evaluations: add the section evaluation"),
        ("grpo", {"saving": {"best": {"metric": "giou", "split": "shapes/test"}}}, "shapes/test is not evaluated on"),
        ("supervised", {"saving": {"best": {"metric": "gIoU"}}}, "no metric 'gIoU'; did you mean giou"),
        ("supervised", {"saving": {"best": {"metric": "failed"}}}, "stage supervised measures ciou, giou"),
        ("sam", {"saving": {"best": {"metric": "giou"}}}, "stage sam measures mask_iou"),
        ("supervised", {"evaluation": {**LOOK, "every": 4}}, "no evaluation within 3 steps"),
    ],
)
def test_what_is_not_measured_is_refused(stage: str, over: Mapping[str, object], message: str) -> None:
    asked: dict[str, object] = {"evaluation": LOOK, "saving": {"best": {"metric": "giou"}}}
    with pytest.raises(UsageError, match=message):
        tiny_recipe(stage, {**asked, **over})


@pytest.mark.parametrize(("stage", "metric"), [("sam", "mask_iou"), ("vision", "shape_right")])
def test_stages_before_the_language_model_have_a_best_too(stage: str, metric: str, run: Run) -> None:
    result, _ = run(best({}, 2, stage, best={"metric": metric}))
    lines = read_log(result.parent / "train_log.jsonl")
    values = [line[f"eval/{metric}"] for line in lines]
    assert told(result.parent / "best")["step"] == 1 + values.index(max(values))


@pytest.mark.slow
@pytest.mark.parametrize("environment", [PLAIN, FSDP], ids=["plain", "fsdp"])
def test_ranks_keep_one_best_together(environment: Mapping[str, str], data_root: Path, tmp_path: Path) -> None:
    recipe = best({"evaluation": {**LOOK, "samples": 5}}, 2)
    launch({"two": recipe}, tmp_path / "out", data_root, environment)
    root = tmp_path / "out" / "two"
    values = [float(str(line["eval/giou"])) for line in read_log(root / "train_log.jsonl")]
    found = told(root / "best")
    assert found["step"] == 1 + values.index(max(values))
    assert found["values"]["giou"] == pytest.approx(max(values), abs=1e-7)
    assert same(root / "best", root / "final") is (found["step"] == 2)


# ---------------------------------------------------------------------------------------------- model cards


def test_cards_hold_what_was_measured_with_their_weights(run: Run, scripted: dict[int, float]) -> None:
    """The last step is not evaluated: then the result has no figures, and the best its own."""
    scripted |= {2: 0.5}
    over = {"evaluation": {**LOOK, "every": 2}, "licence": "Apache-2.0"}
    result, _ = run(best(over, 3, dtype="float16"))
    kept, last = (ModelCard.load(folder / "README.md") for folder in (result.parent / "best", result))
    assert [(r.metric_type, r.metric_value) for r in kept.data.eval_results] == [("ciou", 25.0), ("giou", 50.0)]
    assert {r.dataset_name for r in kept.data.eval_results} == {"shapes val, 2 expressions"}
    assert "evaluation after step 2 and before the weights were rounded to float16" in kept.text
    assert last.data.eval_results is None and last.data.license == "apache-2.0"
    assert not (result / "evaluation.json").exists()


def test_a_result_that_is_written_after_a_resume_has_its_evaluation(run: Run, scripted: dict[int, float]) -> None:
    """A kill between the checkpoint of the last step and the result: nothing is trained or evaluated again."""
    scripted |= {1: 0.2, 2: 0.5}
    recipe = best({}, 2)
    over = {"optimiser": recipe.optimiser.model_copy(update={"schedule": "constant"})}
    result, _ = run(recipe.model_copy(update=over))
    shutil.rmtree(result)
    again, seen = run(recipe.model_copy(update=over))
    assert again == result and not seen.steps and told(result)["step"] == 2
    assert [r.metric_value for r in ModelCard.load(result / "README.md").data.eval_results] == [25.0, 50.0]


def test_the_base_of_a_start_is_that_of_what_goes_on_from_it(run: Run, scripted: dict[int, float]) -> None:
    scripted |= dict.fromkeys(range(1, 4), 0.5)
    start, _ = run(best({}, 1), "start")
    text = (start / "README.md").read_text(encoding="utf-8")
    named = text.replace("pipeline_tag:", "base_model: Qwen/Qwen2.5-VL-3B-Instruct\npipeline_tag:", 1)
    (start / "README.md").write_text(named, encoding="utf-8")
    (start / "digests.json").unlink()
    result, _ = run(best({"model": {"fresh": None, "checkpoint": str(start)}}, 1), "next")
    assert ModelCard.load(result / "README.md").data.base_model == "Qwen/Qwen2.5-VL-3B-Instruct"


def test_a_card_does_not_say_where_rewards_lie(run: Run, scripted: dict[int, float], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def brief(completion_ids, **_):\n    return [1.0 for _ in completion_ids]\n")
    scripted |= {1: 0.5}
    rewards = [{"name": "box"}, {"name": f"{tmp_path / 'mine.py'}:brief"}]
    result, _ = run(best({"grpo": {"num_generations": 2, "rewards": rewards}}, 1, "grpo"))
    text = (result / "README.md").read_text(encoding="utf-8")
    assert "mine.py:brief" in text and str(tmp_path) not in text
