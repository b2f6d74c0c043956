from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lens_bench import masks
from lens_bench.errors import DataError, UsageError
from lens_bench.records import Prediction, Score
from lens_bench.report.plots import draw, draw_all, draw_training, pareto_front
from lens_bench.report.plots.accuracy import Point
from lens_bench.report.plots.dependence import binned, image_sizes, quantile_edges, relative_sizes
from lens_bench.report.plots.groups import groups_of
from lens_bench.report.plots.quality import precision_at
from lens_bench.report.plots.stages import OTHER, stage_times
from lens_bench.report.plots.style import PALETTE, ink_on, look, short, slug, spread
from lens_bench.report.plots.training import read_log, running_mean
from lens_bench.report.runset import load_run
from lens_bench.run.files import RunFiles
from lens_bench.run.manifest import Settings
from lens_bench.scoring.table import ScoreTable

from ..made_runs import perf, score, write_run

SIZE = (40, 60)
ORACLE = {"title": "Oracle", "sees_ground_truth": True}


def spread_scores(n: int = 60, top: float = 0.99) -> list[Score]:
    """Scores from 0 to ``top`` on objects from tiny to large, two expressions an image."""
    made = []
    for i in range(n):
        gt = 4 + 30 * i
        iou = round(top * i / max(n - 1, 1), 3)
        base = score(i, iou)
        made.append(replace(base, gt_area=gt, tags=()))
    return made


def answers(scores: Sequence[Score]) -> list[Prediction]:
    return [Prediction(s.sample_id, "ok", mask=masks.empty(SIZE)) for s in scores]


def run(folder: Path, scores: Sequence[Score], **changes: object) -> RunFiles:
    return write_run(folder, scores, predictions=answers(scores), **changes)  # type: ignore[arg-type]


def checked(paths: Sequence[Path]) -> set[str]:
    """Assert that every file is a real picture with ink on it; returns the names without suffix."""
    for path in paths:
        if path.suffix == ".svg":
            root = ElementTree.parse(path).getroot()
            assert root.tag.endswith("svg")
            assert b"<dc:date>" not in path.read_bytes()
        else:
            with Image.open(path) as picture:
                picture.load()
                width, height = picture.size
                assert abs(width - 660) <= 2, "column width at 200 dots per inch"
                assert height > 80
                grey = np.asarray(picture.convert("L"))
                assert (grey < 128).mean() > 0.002
                assert (grey > 250).mean() > 0.2
                edge = np.concatenate([grey[:, 0], grey[:, -1], grey[0], grey[-1]])
                assert (edge > 200).mean() > 0.97, f"{path.name}: something is cut off at the border"
    names = {p.stem for p in paths}
    assert {p.suffix for p in paths} <= {".svg", ".png"}
    assert len(paths) == 2 * len(names)
    return names


def name(path_or_file: str) -> str:
    return path_or_file.partition("-")[0]


# ---------------------------------------------------------------------------------------------- whole drawings


def test_several_models_and_splits_give_every_figure(tmp_path: Path) -> None:
    files = []
    for split in ("val", "testA"):
        for i, model in enumerate(("alpha", "beta", "gamma")):
            speed = perf(images_per_s=1.0 + 9 * i, stages_ms={"encode": 30.0, "text": 10.0 * (i + 1)})
            files.append(run(tmp_path, spread_scores(top=0.9 - 0.1 * i), model=model, split=split, speed=speed))
    files.append(run(tmp_path, spread_scores(top=1.0), model="oracle", speed=perf(), model_card=ORACLE))
    expressions = {s.sample_id: "word " * (1 + i % 7) for i, s in enumerate(spread_scores())}
    found = draw(files, tmp_path / "plots", expressions)
    assert found.left_out == ()
    names = checked(found.paths)
    kinds = {"pareto", "precision", "histogram", "size", "length"}
    assert names == {"ciou-strict", "stages"} | {f"{k}-toy-{s}" for k in kinds for s in ("val", "testa")}
    assert sorted((tmp_path / "plots").iterdir()) == sorted(found.paths)


def test_the_same_data_gives_the_same_bytes(tmp_path: Path) -> None:
    files = [run(tmp_path, spread_scores(), model=m, speed=perf()) for m in ("b", "a")]
    first = draw_all(files, tmp_path / "one")
    second = draw_all(files[::-1], tmp_path / "two")
    assert [p.name for p in first] == [p.name for p in second]
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name


@pytest.mark.parametrize(
    ("scores", "changes", "drawn"),
    [
        (spread_scores(), {"speed": perf()}, {"ciou", "pareto", "precision", "histogram", "size", "stages"}),
        (spread_scores(), {}, {"ciou", "precision", "histogram", "size"}),
        (spread_scores(top=0.0), {"speed": perf()}, {"ciou", "pareto", "precision", "histogram", "size", "stages"}),
        (spread_scores(1), {"speed": perf(images_per_s=None)}, {"ciou", "precision", "histogram", "stages"}),
        ([], {"n_samples": 5}, set()),
        (
            [replace(s, has_mask=False, intersection=0, iou=0.0, boundary_iou=None) for s in spread_scores()],
            {},
            {"box_acc_0.5"},
        ),
        (spread_scores(), {"n_samples": 100, "speed": perf(comparable=False, stages_ms={})}, None),
        ([replace(s, status="error") for s in spread_scores()], {"protocol": "visionreasoner"}, set()),
    ],
    ids=["one run", "no speed", "all zero", "one expression", "nothing", "boxes", "incomplete", "nothing counted"],
)
def test_degenerate_runs(
    tmp_path: Path, scores: list[Score], changes: dict[str, object], drawn: set[str] | None
) -> None:
    boxes = bool(scores) and not scores[0].has_mask
    predictions = [] if boxes else answers(scores)
    files = write_run(tmp_path, scores, predictions=predictions, **changes)  # type: ignore[arg-type]
    found = draw([files], tmp_path / "plots")
    names = {name(n) for n in checked(found.paths)}
    assert names == ({"ciou", "pareto", "precision", "histogram", "size"} if drawn is None else drawn)
    assert any("expression length" in reason and "not given" in reason for reason in found.left_out)


def test_no_runs_and_what_is_no_run(tmp_path: Path) -> None:
    assert draw_all([], tmp_path / "plots") == []
    with pytest.raises(UsageError, match="not a run directory"):
        draw_all([RunFiles(tmp_path)], tmp_path / "plots")


def test_many_runs_with_long_and_hostile_names(tmp_path: Path) -> None:
    files = [
        run(tmp_path / str(i), spread_scores(top=0.05 * i), model=f"$a-very_{{long$-$name^{i}-{'x' * 20}", speed=perf())
        for i in range(9)
    ]
    checked(draw_all(files, tmp_path / "plots"))


def test_other_protocols_and_contents_are_other_figures(tmp_path: Path) -> None:
    files = [
        run(tmp_path / "1", spread_scores(), model="a"),
        run(tmp_path / "2", spread_scores(), model="a", protocol="lens"),
        run(tmp_path / "3", spread_scores(), model="a", suite_hash="b" * 64),
    ]
    names = checked(draw_all(files, tmp_path / "plots"))
    assert {n for n in names if n.startswith("ciou")} == {"ciou-strict", "ciou-lens"}
    assert {n for n in names if n.startswith("histogram")} == {
        "histogram-toy-val-lens-aaaaaa",
        "histogram-toy-val-strict-aaaaaa",
        "histogram-toy-val-strict-bbbbbb",
    }


def test_every_protocol_that_a_run_is_scored_under_has_its_bars(tmp_path: Path) -> None:
    first = run(tmp_path, spread_scores(), model="a", also=["lisa", "gres"])
    second = run(tmp_path, spread_scores(top=0.5), model="b", also=["lisa"])
    found = draw([first, second], tmp_path / "plots")
    names = checked(found.paths)
    assert {n for n in names if n.startswith("ciou")} == {"ciou-strict", "ciou-lisa", "ciou-gres"}
    assert {n for n in names if n.startswith("histogram")} == {"histogram-toy-val"}
    bars = {p.stem: p.read_text() for p in found.paths if p.suffix == ".svg" and p.stem.startswith("ciou")}
    assert {name: text.count("<!-- b -->") for name, text in bars.items()} == {
        "ciou-strict": 1,
        "ciou-lisa": 1,
        "ciou-gres": 0,
    }
    alone = checked(draw([first, second], tmp_path / "lisa", protocol="lisa").paths)
    assert {n for n in alone if n.startswith("ciou")} == {"ciou-lisa"}
    second.other_scores("lisa").write_text("")
    found = draw([first, second], tmp_path / "damaged")
    assert {p.stem for p in found.paths if p.stem.startswith("ciou")} == set(bars)
    assert [str(second.other_scores("lisa")) in error.message for error in found.damaged] == [True]


def test_other_hardware_is_another_figure(tmp_path: Path) -> None:
    files = [
        run(tmp_path, spread_scores(), model="a", speed=perf(hardware="Processor A, 2 cores")),
        run(tmp_path, spread_scores(), model="b", speed=perf(hardware="Accelerator / B")),
    ]
    names = checked(draw_all(files, tmp_path / "plots"))
    assert {n for n in names if n.startswith("stages")} == {"stages-processor-a-2-cores", "stages-accelerator-b"}
    assert sum(n.startswith("pareto") for n in names) == 2


# ---------------------------------------------------------------------------------------------- names


def test_a_model_keeps_its_name_and_colour_and_namesakes_are_told_apart(tmp_path: Path) -> None:
    made = [
        run(tmp_path / "1", spread_scores(), model="lens", split="val", weight_digest="1" * 64),
        run(tmp_path / "2", spread_scores(), model="lens", split="test", weight_digest="1" * 64),
        run(tmp_path / "3", spread_scores(), model="lens", split="val", weight_digest="2" * 64),
        run(tmp_path / "4", spread_scores(), model="solo", split="val", n_samples=99),
        run(tmp_path / "5", spread_scores(), model="seer", split="val", model_card=ORACLE),
    ]
    groups = {g.split: {s.name: s.look for s in g.members} for g in groups_of([load_run(f) for f in made])}
    assert set(groups["val"]) == {"lens-111111", "lens-222222", "solo (incomplete)", "seer (oracle)"}
    assert groups["test"]["lens-111111"] == groups["val"]["lens-111111"]
    assert len({l.colour for l in groups["val"].values()}) == 4  # noqa: E741


def test_runs_of_one_checkpoint_under_other_settings_carry_the_run_digest(tmp_path: Path) -> None:
    other = Settings(args={"k": 1}, prompt={}, dtype="float32", engine=None, limit=None)
    made = [run(tmp_path, spread_scores()), run(tmp_path, spread_scores(), settings=other)]
    (group,) = groups_of([load_run(f) for f in made])
    assert [s.name for s in group.members] == sorted(f.root.name for f in made)


def test_looks_differ_for_many_runs() -> None:
    assert len({look(i) for i in range(28)}) == 28
    assert "#F0E442" not in PALETTE, "yellow is faint on white"


def test_ink_is_readable_on_its_colour() -> None:
    assert {c: ink_on(c) for c in ("#000000", "#0072B2", "#56B4E9", "#E69F00", "#ffffff")} == {
        "#000000": "white",
        "#0072B2": "white",
        "#56B4E9": "black",
        "#E69F00": "black",
        "#ffffff": "black",
    }


def test_short_names_and_slugs() -> None:
    assert short("lens-3b") == "lens-3b"
    assert short("a" * 30 + "tail") == "a" * 14 + "…" + "aaatail"
    assert len(short("x" * 99)) == 22
    assert slug("refcoco+ val/..") == "refcoco+-val"
    assert slug("///") == "unnamed"


@given(
    st.lists(st.floats(-50, 150), max_size=12),
    st.floats(0.1, 20),
)
def test_spread_keeps_order_gap_and_limits(positions: list[float], gap: float) -> None:
    placed = spread(positions, gap, 0.0, 100.0)
    gap = min(gap, 100 / (len(positions) - 1)) if len(positions) > 1 else gap
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    ordered = [placed[i] for i in order]
    assert all(b - a >= gap - 1e-6 for a, b in pairwise(ordered))
    assert all(-1e-6 <= p <= 100 + 1e-6 for p in placed)


def test_spread_moves_nothing_that_need_not_move() -> None:
    assert spread([50.0, 10.0, 90.0], 5, 0, 100) == [50.0, 10.0, 90.0]
    assert spread([50.0, 50.0], 10, 0, 100) == pytest.approx([45.0, 55.0])


# ---------------------------------------------------------------------------------------------- numbers


def points(tmp_path: Path, *values: tuple[float, float, bool, bool]) -> list[Point]:
    files = [run(tmp_path, spread_scores(4), model=f"m{i}") for i in range(len(values))]
    (group,) = groups_of([load_run(f) for f in files])
    shown = sorted(group.members, key=lambda s: s.name)
    return [
        Point(replace(s, ranked=ranked), x, y, None, comparable)
        for s, (x, y, ranked, comparable) in zip(shown, values, strict=True)
    ]


def test_the_front_holds_what_nothing_beats(tmp_path: Path) -> None:
    made = points(
        tmp_path,
        (1.0, 80.0, True, True),
        (2.0, 70.0, True, True),
        (1.5, 60.0, True, True),  # slower and worse than the second
        (2.0, 65.0, True, True),  # as fast as the second and worse
        (9.0, 99.0, False, True),  # an oracle
        (8.0, 98.0, True, False),  # a speed that compares with nothing
    )
    assert [(p.x, p.y) for p in pareto_front(made)] == [(1.0, 80.0), (2.0, 70.0)]
    assert pareto_front([]) == []


def test_the_precision_curve_meets_the_reported_precisions(tmp_path: Path) -> None:
    scores = [score(i, v) for i, v in enumerate((0.5, 0.6, 0.6, 0.7, 0.95, 0.1, 0.9, 0.4999))]
    loaded = load_run(run(tmp_path, scores))
    thresholds = np.array([0.5, 0.6, 0.7, 0.8, 0.9])
    reported = loaded.summary["metrics"]["precision"]  # type: ignore[index,call-overload]
    assert precision_at(loaded.table.iou, thresholds).tolist() == pytest.approx(list(reported.values()))


def test_bins_hold_the_means_of_their_expressions() -> None:
    table = ScoreTable.of([score(i, 0.2 if i < 20 else 0.8) for i in range(40)])
    values = np.array([1.0] * 20 + [5.0] * 20)
    low, high = binned(values, table, np.array([1.0, 3.0, 5.0]))
    assert (low.x, low.mean, low.n) == (1.0, pytest.approx(0.2), 20)
    assert (high.x, high.mean, high.n) == (5.0, pytest.approx(0.8), 20)
    assert low.interval == pytest.approx((0.2, 0.2))
    values[:15] = np.nan
    assert [b.n for b in binned(values, table, np.array([1.0, 3.0, 5.0]))] == [20], "five are too few"


def test_edges_hold_as_many_each_and_repeated_values_once() -> None:
    assert quantile_edges(np.arange(61.0), 6) == pytest.approx([0, 10, 20, 30, 40, 50, 60])
    assert quantile_edges(np.array([np.nan, np.nan])).tolist() == []
    edges = quantile_edges(np.full(30, 2.0))
    assert len(edges) == 2
    assert edges[0] == 2.0 < edges[1]


def test_sizes_are_read_off_the_masks_and_unknown_ones_are_said(tmp_path: Path) -> None:
    scores = spread_scores(40)
    predictions = [p for i, p in enumerate(answers(scores)) if i >= 8 and i % 2 == 0]  # of every other image's pair
    files = write_run(tmp_path, scores, predictions=predictions)
    loaded = load_run(files)
    sizes = image_sizes(loaded)
    assert len(sizes) == 16
    assert set(sizes.values()) == {SIZE}
    shares = relative_sizes(loaded, sizes)
    assert np.isnan(shares[:8]).all()
    assert shares[8:] == pytest.approx([s.gt_area / 2400 for s in scores[8:]])
    assert any("4 images of unknown size" in reason for reason in draw([files], tmp_path / "plots").left_out)


def test_under_a_protocol_that_resizes_the_scored_size_counts(tmp_path: Path) -> None:
    scores = [replace(score(i, 0.5), gt_area=2304) for i in range(20)]
    loaded = load_run(run(tmp_path, scores, protocol="lavt"))
    assert relative_sizes(loaded, {}) == pytest.approx([2304 / 480**2] * 20)


def test_stage_times_hold_the_rest_of_the_model() -> None:
    block = perf(stages_ms={"encode": 30.0, "idle": 0.0}, model_s=4.0, expressions=100)
    assert stage_times(block) == {"encode": 30.0, OTHER: pytest.approx(10.0)}
    assert stage_times(perf(stages_ms={"encode": 40.0}, model_s=4.0, expressions=100)) == {"encode": 40.0}
    assert stage_times(perf(stages_ms={"encode": 90.0}, model_s=4.0, expressions=100)) == {"encode": 90.0}
    assert stage_times(perf(stages_ms={})) == {}


# ---------------------------------------------------------------------------------------------- training


def write_log(path: Path, steps: int = 200) -> Path:
    rng = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as stream:
        for step in range(steps):
            line: dict[str, object] = {
                "step": step,
                "loss": 2.0 * 0.99**step,
                "reward": {"format": 0.5 + step / 500, "mask_iou": 0.3 + 0.01 * rng.normal()},
                "kl": 0.001 * step,
                "entropy": 1.0,
                "completion_length": 50.0,
                "lr": 1e-6,
                "stage": "grpo",
                "resumed": False,
            }
            if step % 50 == 0:
                line["eval/ciou"] = 0.6
            stream.write(json.dumps(line) + "\n")
    return path


def test_training_curves(tmp_path: Path) -> None:
    log = write_log(tmp_path / "train_log.jsonl")
    series = read_log(log)
    assert set(series) == {
        "loss",
        "reward/format",
        "reward/mask_iou",
        "kl",
        "entropy",
        "completion_length",
        "lr",
        "eval/ciou",
    }
    assert series["eval/ciou"][0].tolist() == [0, 50, 100, 150]
    paths = draw_training(log, tmp_path / "plots")
    assert checked(paths) == {"training"}
    again = draw_training(log, tmp_path / "again")
    assert [a.read_bytes() for a in again] == [p.read_bytes() for p in paths]


def test_a_log_that_is_being_written_or_was_resumed(tmp_path: Path) -> None:
    log = tmp_path / "train_log.jsonl"
    log.write_text(
        '{"step": 1, "loss": 9}\n{"step": 2, "loss": NaN, "kl": NaN}\n{"step": 1, "loss": 5}\n{"step": 3, "lo'
    )
    series = read_log(log)
    assert set(series) == {"loss"}
    steps, values = series["loss"]
    assert steps.tolist() == [1, 2]
    assert values[0] == 5
    assert np.isnan(values[1])
    checked(draw_training(log, tmp_path / "plots"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"step": 1, "loss": 1}\nnonsense\n{"step": 2}\n', "line 2"),
        ('{"loss": 1}\n', "line 1 is not an object with a step"),
        ("[]\n", "line 1 is not an object with a step"),
        ('{"step": 1, "loss": NaN}\n', "no numbers"),
        ("", "no numbers"),
    ],
)
def test_logs_that_cannot_be_drawn(tmp_path: Path, text: str, words: str) -> None:
    log = tmp_path / "train_log.jsonl"
    log.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=words):
        draw_training(log, tmp_path / "plots")


def test_a_log_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training log"):
        read_log(tmp_path / "absent.jsonl")


def test_the_running_mean_is_a_mean() -> None:
    values = np.array([1.0, 2.0, np.nan, 4.0, 5.0])
    assert running_mean(values, 1)[[0, 1, 3, 4]].tolist() == [1, 2, 4, 5]
    smooth = running_mean(values, 3)
    assert smooth[[0, 1, 3, 4]].tolist() == [1.5, 1.5, 4.5, 4.5]
    assert np.isnan(smooth[2])
    assert running_mean(np.full(50, 0.3), 7) == pytest.approx(np.full(50, 0.3))


def test_matplotlib_settings_outside_are_left_alone_and_torch_is_not_imported(tmp_path: Path) -> None:
    code = """
import sys, json
import matplotlib
before = dict(matplotlib.rcParams)
from pathlib import Path
from lens_bench.report.plots import draw_training
draw_training(Path(sys.argv[1]), Path(sys.argv[2]))
assert dict(matplotlib.rcParams) == before
import matplotlib.pyplot
assert matplotlib.pyplot.get_fignums() == []
print(json.dumps([m for m in ("torch", "transformers", "pandas") if m in sys.modules]))
"""
    log = write_log(tmp_path / "log.jsonl", 10)
    command = [sys.executable, "-c", code, str(log), str(tmp_path / "plots")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
