"""``run --every-checkpoint``: each model of a training in a run of its own, and the curve over its steps."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from lens_bench.cli.app import app
from lens_bench.commands.checkpoints import saved_models
from lens_bench.errors import UsageError
from lens_bench.report.plots.steps import StepScore, draw_steps, metrics_of
from lens_bench.run.files import find_runs, read_json
from lens_bench.run.manifest import read_manifest

from .conftest import RATES, Run, tiny_recipe
from .own_set import write_own_set


def ask(folder: Path, data_root: Path, out: Path, *more: str) -> int:
    """Run the command in this process; returns its exit code."""
    options = ["--suite", "coco-json", "--split", "val", "--data-root", str(data_root)]
    try:
        app(["run", "--model", str(folder), "--every-checkpoint", "--out", str(out), *options, *more])
    except SystemExit as stop:
        return int(stop.code or 0)
    raise AssertionError("the command did not end")


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """A data root with six pictures to ask about."""
    return write_own_set(tmp_path / "asked", "val", 6).parents[1]


@pytest.fixture
def trained(run: Run) -> Path:
    """Checkpoints of steps 1 and 2, and a result of step 3."""
    result, _ = run(tiny_recipe("supervised", {"saving": {"every": 1, "keep": 5}}))
    return result.parent


def test_each_model_has_a_run_and_a_point(
    trained: Path, asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = Path("=runs")  # which a spreadsheet must not run
    assert ask(trained, asked, out) == 0
    manifests = {read_manifest(files).model: files for files in find_runs(out)}
    assert sorted(manifests) == [f"tiny-supervised-step-0000000{step}" for step in (1, 2, 3)]
    rows = list(csv.DictReader((trained / "by-step-coco-json-val.csv").open(encoding="utf-8")))
    curve = {int(row["step"]): row for row in rows if row["metric"] == "giou"}
    assert {step: row["model"] for step, row in curve.items()} == {
        1: "checkpoint-00000001",
        2: "checkpoint-00000002",
        3: "final",
    }
    assert all(row["run"].startswith("'=runs") for row in rows)
    for step, row in curve.items():
        summary = read_json(manifests[f"tiny-supervised-step-0000000{step}"].summary)
        assert float(row["value"]) == summary["metrics"]["giou"]  # type: ignore[index]
        assert [float(row["low"]), float(row["high"])] == summary["ci95"]["giou"]  # type: ignore[index]
    assert (trained / "by-step-coco-json-val.svg").is_file() and (trained / "by-step-coco-json-val.png").is_file()
    shown = capsys.readouterr().out
    assert "step-00000003" in shown


def test_repeated_it_asks_only_what_is_missing(
    trained: Path, asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lens_bench.lens.segmenter import LensSegmenter

    loaded: list[str] = []
    real = LensSegmenter.load

    def counted(self: LensSegmenter) -> object:
        loaded.append(self.folder().name)
        return real(self)

    monkeypatch.setattr(LensSegmenter, "load", counted)
    last = trained / "final"
    shutil.move(last, tmp_path / "aside")
    assert ask(trained, asked, tmp_path / "runs") == 0 and len(loaded) == 2
    shutil.move(tmp_path / "aside", last)
    assert ask(trained, asked, tmp_path / "runs") == 0
    assert loaded == ["checkpoint-00000001", "checkpoint-00000002", "final"]


def test_adapters_are_part_of_their_checkpoints(run: Run, asked: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="adapters need peft")
    rates = {"rates": {**RATES["supervised"], "embeddings": None}}
    over = {"lora": {"rank": 4, "alpha": 8}, "optimiser": rates, "saving": {"every": 2}}
    result, _ = run(tiny_recipe("supervised", over))
    assert ask(result.parent, asked, tmp_path / "runs", "--limit", "4") == 0
    assert len(find_runs(tmp_path / "runs")) == 2


def test_the_plan_of_each_is_shown(
    trained: Path, asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(trained, asked, tmp_path / "runs", "--dry-run") == 0
    assert not (tmp_path / "runs").exists() or not find_runs(tmp_path / "runs")
    assert capsys.readouterr().out.count("step-0000000") >= 3


def test_what_cannot_be_drawn_is_refused(
    trained: Path, asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(trained, asked, tmp_path / "runs", "--shard", "1/2") == 2
    assert "not shards" in capsys.readouterr().err
    assert ask(tmp_path / "none", asked, tmp_path / "runs") == 2
    assert "holds no checkpoints of a training" in capsys.readouterr().err
    weights = trained / "checkpoint-00000002" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    assert ask(trained, asked, tmp_path / "runs") == 5
    assert "checkpoint-00000002 is damaged" in " ".join(capsys.readouterr().err.split())
    assert len(find_runs(tmp_path / "runs")) == 1, "what was answered before is kept"


def test_of_models_with_the_same_step_one_counts(run: Run) -> None:
    over = {"evaluation": {"split": "shapes/val", "every": 3, "samples": 2}}
    saving = {"saving": {"every": 1, "keep": 5, "best": {"metric": "giou"}}}
    result, _ = run(tiny_recipe("supervised", {**over, **saving, "optimiser": {"schedule": "constant"}}))
    root = result.parent
    assert {p.name for p in root.glob("*/model.yaml")} == {"model.yaml"} and len(list(root.glob("*/model.yaml"))) == 5
    assert [(s.folder.name, s.step) for s in saved_models(root)] == [
        ("checkpoint-00000001", 1),
        ("checkpoint-00000002", 2),
        ("final", 3),
    ]


def test_a_chain_names_its_stages(tmp_path: Path) -> None:
    (tmp_path / "1-sam").mkdir()
    (tmp_path / "1-sam" / "recipe.json").write_text("{}")
    with pytest.raises(UsageError, match="holds no checkpoints") as caught:
        saved_models(tmp_path)
    assert caught.value.hint == f"its stages: {tmp_path / '1-sam'}"


def score(step: int, interval: Sequence[float] | None = (0.4, 0.6), **metrics: float | None) -> StepScore:
    return StepScore(step, {"metrics": metrics, "ci95": {name: interval and list(interval) for name in metrics}})


def test_the_same_figures_from_the_same_scores(tmp_path: Path) -> None:
    scores = [score(10, ciou=0.5, giou=0.45), score(200, None, ciou=0.55, giou=0.5)]
    one, other = (draw_steps(scores, tmp_path / name, "curve", "shapes val") for name in "ab")
    assert [p.name for p in one] == ["curve.svg", "curve.png"]
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in other]


def test_models_of_boxes_alone_have_the_accuracy_of_boxes(tmp_path: Path) -> None:
    boxes = [score(10, **{"ciou": None, "box_acc_0.5": 0.5})]
    assert metrics_of(boxes) == ("box_acc_0.5",) and len(draw_steps(boxes, tmp_path, "curve", "x")) == 2
    assert metrics_of([score(1, ciou=None)]) == () and draw_steps([score(1, ciou=None)], tmp_path, "none", "x") == []
