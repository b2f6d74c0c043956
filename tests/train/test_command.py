"""The command: a chain goes through, is resumed, starts each stage from the last, and says what it would take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from lens_bench.cli.app import app
from lens_bench.errors import UsageError
from lens_bench.lens.checkpoint import load
from lens_bench.registry import find_model
from lens_bench.train.command import data_place, make_missing, plan_jobs, train_command

from .commands import command
from .conftest import tiny_recipe

STAGES = ("sam", "vision", "supervised", "grpo")


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """Four recipes of two steps, and a chain of them."""
    links = []
    for stage in STAGES:
        over: dict[str, object] = {"optimiser": {"steps": 2}, "data": {"held_out": ["shapes/val"]}}
        fields = tiny_recipe(stage, over).model_dump(mode="json", exclude_defaults=True)
        if stage != "sam":
            del fields["model"]
        path = tmp_path / f"{stage}.yaml"
        path.write_text(yaml.safe_dump(fields), encoding="utf-8")
        links.append({"recipe": str(path), "set": {"saving.every": 1}})
    path = tmp_path / "all.yaml"
    path.write_text(yaml.safe_dump({"name": "all", "chain": links}), encoding="utf-8")
    return path


def test_a_chain_is_trained_and_left_alone_when_finished(
    chain: Path, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train_command(str(chain), folder=tmp_path / "out", data_root=data_root)
    assert result == tmp_path / "out" / "4-tiny-grpo" / "final"
    assert load(result).report.parameters > 0
    starts = [
        json.loads((p / "recipe.json").read_text())["recipe"]["model"] for p in sorted((tmp_path / "out").glob("*-*"))
    ]
    assert starts[0]["fresh"] and [s["checkpoint"] for s in starts[1:]] == [
        str(tmp_path / "out" / f"{n}-tiny-{stage}" / "final") for n, stage in enumerate(STAGES[:-1], start=1)
    ]
    assert json.loads((tmp_path / "out" / "chain.json").read_text()) == {
        "stages": [f"{n}-tiny-{stage}" for n, stage in enumerate(STAGES, start=1)]
    }
    assert find_model(str(tmp_path / "out")).folder == result
    before = (result / "model.safetensors").stat().st_mtime_ns
    train_command(str(chain), folder=tmp_path / "out", data_root=data_root)
    assert (result / "model.safetensors").stat().st_mtime_ns == before
    assert capsys.readouterr().err.count("is finished") == 4


def test_a_stage_of_a_chain_starts_from_what_is_named_for_it(chain: Path, data_root: Path, tmp_path: Path) -> None:
    other = train_command(str(chain.parent / "sam.yaml"), ["seed=7"], folder=tmp_path / "other", data_root=data_root)
    stage = chain.parent / "supervised.yaml"
    train_command(str(chain), [f"{stage}:model.checkpoint={other}"], folder=tmp_path / "out", data_root=data_root)
    starts = {
        p.name: json.loads((p / "recipe.json").read_text())["recipe"]["model"]["checkpoint"]
        for p in (tmp_path / "out").glob("*-*")
    }
    assert starts["3-tiny-supervised"] == str(other)
    assert starts["4-tiny-grpo"] == str(tmp_path / "out" / "3-tiny-supervised" / "final")
    with pytest.raises(UsageError, match=r"every stage of .* would start from it") as caught:
        train_command(str(chain), [f"model.checkpoint={other}"], folder=tmp_path / "out", data_root=data_root)
    assert f"{chain.parent / 'sam.yaml'}:model.checkpoint=" in caught.value.hint


def test_a_result_has_the_name_that_is_asked_for(
    chain: Path, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["train", str(chain), "--data-root", str(data_root), "--set", "model_title=Another"]
    app([*arguments, "--name", "try-1", "--set", "optimiser.steps=1"], standalone_mode=False)
    place = Path("results/train/try-1")
    cards = [find_model(f"./{place}/{number}-tiny-{stage}") for number, stage in enumerate(STAGES, start=1)]
    assert [card.name for card in cards] == ["try-1-tiny-sam", "try-1-tiny-vision", "try-1-tiny-supervised", "try-1"]
    assert all(card.suites == ("shapes",) for card in cards)
    assert "lens-bench run --suite shapes --model ./" in (cards[-1].folder / "README.md").read_text(encoding="utf-8")
    app(["show", f"./{place}"], standalone_mode=False)
    assert f"lens-bench run --suite shapes --model ./{place}" in capsys.readouterr().out
    assert cards[-1].title == "try-1" and find_model(f"./{place}").name == "try-1"
    # The folder alone is another choice, and a single stage is called as it is asked for.
    arguments[1] = str(chain.parent / "sam.yaml")
    app([*arguments, "--name", "try-2", "--out", "there", "--set", "optimiser.steps=1"], standalone_mode=False)
    assert find_model("./there").name == "try-2" and not Path("results/train/try-2").exists()
    capsys.readouterr()
    for name in ("Try", "a/b", "..", " "):
        with pytest.raises(SystemExit) as stop:
            app([*arguments, "--name", name], prog_name="lens-bench")
        assert stop.value.code == 2
        assert f"--name {name!r} is not a name" in " ".join(capsys.readouterr().err.split())


def test_smoke_is_not_called_as_the_model_that_ships() -> None:
    names = [job.recipe.model_name or job.recipe.name for job in plan_jobs("nano-smoke", [], None)]
    assert names[-1] == "nano-smoke" and not {"lens-nano", "sft-nano", "stage1-nano"} & set(names)
    assert plan_jobs("nano", [], None)[-1].recipe.model_name == "lens-nano"


def test_dry_run_trains_nothing(
    chain: Path, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_command(str(chain), folder=tmp_path / "out", data_root=data_root, dry_run=True) is None
    assert not (tmp_path / "out").exists()
    text = capsys.readouterr().out
    assert text.count("trainable") == 4 and "sam_image" in text and "epochs" in text


def failing(capsys: pytest.CaptureFixture[str], data_root: Path, recipe: object, out: Path, *settings: str) -> str:
    """What the command says of a training that is refused for its checkpoint."""
    assert command(Path(str(recipe)), out, data_root, *settings) == 5
    return " ".join(capsys.readouterr().err.split())


def test_a_stage_without_a_start_says_so(
    chain: Path, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="starts from a checkpoint") as caught:
        train_command(str(chain.parent / "vision.yaml"), folder=tmp_path / "out", data_root=data_root)
    assert "model.checkpoint" in caught.value.hint and "hf download OuyBin/LENS --local-dir" in caught.value.hint
    begun = tmp_path / "begun"
    (begun / "checkpoint-00000002").mkdir(parents=True)
    start = f"model.checkpoint={begun}"
    said = failing(capsys, data_root, chain.parent / "vision.yaml", tmp_path / "out", start)
    assert "has no final yet; checkpoints: checkpoint-00000002" in said
    (begun / "final").mkdir()
    said = failing(capsys, data_root, chain.parent / "vision.yaml", tmp_path / "out", start)
    assert f"hint: --set {start}/final" in said


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ([], "hf download Qwen/Qwen2.5-VL-3B-Instruct --local-dir pretrained/Qwen2.5-VL-3B-Instruct; or name"),
        (
            ["model.qwen={}"],
            "hf download facebook/sam2-hiera-large sam2_hiera_large.pt --local-dir pretrained; or name",
        ),
        (
            ["model.qwen={}", "model.sam=x/sam2.1_hiera_base_plus.pt"],
            "hf download facebook/sam2.1-hiera-base-plus sam2.1_hiera_base_plus.pt --local-dir x; or",
        ),
        (
            ["model.qwen={}", "model.sam=sam2-hiera-tiny"],
            "hf download facebook/sam2-hiera-tiny --local-dir sam2-hiera-t",
        ),
        (["model.qwen=mine"], "there is no checkpoint folder mine hint: name another place with --set model.qwen=..."),
        (["model={{checkpoint: w/LENS}}"], "hf download OuyBin/LENS --local-dir w/LENS; or"),
    ],
)
def test_a_missing_base_says_how_to_fetch_it(
    settings: list[str],
    line: str,
    data_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    settings = [setting.format(tmp_path / "here") for setting in settings]
    assert line in failing(capsys, data_root, "lens-3b-stage1", tmp_path / "out", *settings)


def test_generated_splits_are_made_where_they_are_missing(tmp_path: Path) -> None:
    recipe = tiny_recipe("supervised", {"data": {"images": 2}})
    make_missing(recipe, tmp_path)
    assert {p.name for p in (tmp_path / "shapes").iterdir() if p.is_dir()} == {"train", "val"}
    stamp = (tmp_path / "shapes" / "val" / "instances.json").stat().st_mtime_ns
    make_missing(recipe, tmp_path)
    assert (tmp_path / "shapes" / "val" / "instances.json").stat().st_mtime_ns == stamp


def test_splits_of_another_size_are_other_data(chain: Path, data_root: Path, tmp_path: Path) -> None:
    def pictures(images: int, fresh: bool) -> int:
        settings = [f"data.images={images}", "optimiser.steps=1", "batch.units=2"]
        train_command(
            str(chain.parent / "sam.yaml"), settings, folder=tmp_path / "out", data_root=data_root, fresh=fresh
        )
        splits = [p for p in tmp_path.rglob("instances.json") if p.parts[-3:-1] == ("shapes", "train")]
        return max(len(json.loads(path.read_text())["images"]) for path in splits)

    assert pictures(2, fresh=False) == 2
    assert pictures(5, fresh=True) == 5
    begun = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert begun["recipe"]["data"]["images"] == 5


def test_dry_run_counts_the_data_that_training_would_see(
    chain: Path, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown(*settings: str) -> str:
        stage = str(chain.parent / "supervised.yaml")
        train_command(stage, ["model.like={}", *settings], folder=tmp_path / "out", data_root=data_root, dry_run=True)
        return capsys.readouterr().out

    assert "12 units" in shown()
    before = shown("data.images=3")
    assert "made when it runs" in before and "of 3 images" in before.replace("\n", " ")
    assert "units\n" not in before and "epochs" not in before
    job = plan_jobs(str(chain.parent / "supervised.yaml"), ["data.images=3"], tmp_path / "out")[0]
    make_missing(job.recipe, data_place(job, data_root))
    after = shown("data.images=3")
    assert "3 units" in after and "epochs" in after and "made when" not in after


def test_the_estimate_of_another_base_by_the_command_line(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is of that base and of so many GPUs, or refused."""
    monkeypatch.chdir(tmp_path)
    stage, dry = Path("lens-3b-stage1"), ["--dry-run", "--gpus", "8"]
    assert command(stage, tmp_path / "out", data_root, "model.qwen=Qwen/Qwen2.5-VL-7B-Instruct", options=dry) == 0
    said = " ".join(capsys.readouterr().out.split())
    for words in ("memory, plain", "memory, FSDP", "on each of 8 GPUs", "24, 48, 80, 141 GB", "on 8 H100"):
        assert words in said
    assert command(stage, tmp_path / "out", data_root, "model.qwen=somebody/else", options=dry) == 2
    assert "somebody/else is not at hand, and its sizes are not known" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_smoke_recipe(tmp_path: Path) -> None:
    """Every stage of nano at its own size; each learns something, and the end answers in the wanted form."""
    result = train_command("nano-smoke", ["runtime.threads=1"], folder=tmp_path / "out", data_root=tmp_path)
    assert result is not None and (result / "model.safetensors").stat().st_size < 10_000_000
    logs = {
        p.name: [json.loads(line) for line in (p / "train_log.jsonl").read_text().splitlines()]
        for p in (tmp_path / "out").glob("[0-9]-*")
    }
    for name, lines in logs.items():
        # The last two go on from what others learned: twenty steps of them show nothing.
        if "stage2" not in name and "joint" not in name:
            assert sum(x["loss"] for x in lines[-5:]) < sum(x["loss"] for x in lines[:5]), name
    assert logs["3-nano-sft"][-1]["eval/answered"] > 0.2
    assert logs["6-nano-stage2"][0]["kl"] == 0.0
