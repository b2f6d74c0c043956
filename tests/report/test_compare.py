from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from lens_bench.errors import DataError, UsageError
from lens_bench.records import Score
from lens_bench.report.compare import compare, compare_paths
from lens_bench.report.compare_text import comparison_markdown, comparison_renderable
from lens_bench.run.files import RunFiles

from .made_runs import score, write_run

IOU_A = [0.1 + 0.02 * i for i in range(40)]


def pair(tmp_path: Path, *, gain: float = 0.05) -> tuple[RunFiles, RunFiles]:
    a = write_run(tmp_path / "a", [score(i, v) for i, v in enumerate(IOU_A)])
    b = write_run(tmp_path / "b", [score(i, v + gain) for i, v in enumerate(IOU_A)], model="model-b")
    return a, b


def test_the_delta_of_every_metric_is_second_minus_first(tmp_path: Path) -> None:
    found = compare(*pair(tmp_path))
    ciou = found.overall.change("ciou")
    assert ciou.a == pytest.approx(np.mean(IOU_A))
    assert ciou.delta == pytest.approx(0.05)
    assert ciou.paired is not None
    assert ciou.paired.ci95 == pytest.approx((0.05, 0.05))
    assert ciou.paired.p_value < 0.01
    precision = found.overall.change("precision_0.5")
    hits = [sum(v + d >= 0.5 - 1e-9 for v in IOU_A) / 40 for d in (0, 0.05)]
    assert (precision.a, precision.b) == pytest.approx(tuple(hits))
    assert found.overall.change("n_acc").delta is None
    assert found.samples.better == 40


def test_swapping_the_runs_changes_only_signs(tmp_path: Path) -> None:
    a, b = pair(tmp_path)
    one, two = compare(a, b), compare(b, a)
    for first, second in zip(one.overall.changes, two.overall.changes, strict=True):
        assert first.metric == second.metric
        assert (first.delta is None) == (second.delta is None)
        if first.delta is not None and first.paired is not None and second.paired is not None:
            assert first.delta == pytest.approx(-(second.delta or 0))
            assert first.paired.ci95 == pytest.approx((-second.paired.ci95[1], -second.paired.ci95[0]))
    assert [s.sample_id for s in one.samples.best] == [s.sample_id for s in two.samples.worst]


def test_a_run_against_itself_differs_in_nothing(tmp_path: Path) -> None:
    a, _ = pair(tmp_path)
    found = compare(a, a)
    assert all(not c.delta for c in found.overall.changes)
    assert (found.samples.better, found.samples.worse, found.samples.same) == (0, 0, 40)
    assert found.notes == ("both sides are the same run",)


def test_only_shared_expressions_count_and_the_rest_is_said(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [score(i, 0.5) for i in range(30)])
    b = write_run(tmp_path / "b", [score(i, 0.6 if i < 30 else 0.0) for i in range(10, 40)], model="b")
    found = compare(a, b)
    assert (found.n_shared, found.only_a, found.only_b) == (20, 10, 10)
    assert found.overall.change("giou").delta == pytest.approx(0.1)
    assert "10 only by A and 10 only by B are left out" in comparison_markdown(compare_paths(a.root, b.root))


def test_tags_are_compared_on_their_own_rows(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [score(i, 0.5) for i in range(40)])
    b = write_run(tmp_path / "b", [score(i, 0.5 if i % 2 else 0.4) for i in range(40)], model="b")
    groups = {g.name: g for g in compare(a, b).by_tag}
    assert groups["even"].change("ciou").delta == pytest.approx(-0.1)
    assert groups["odd"].change("ciou").delta == 0
    assert groups["even"].n_samples == 20


def test_changed_samples_are_ordered_by_how_much_they_changed(tmp_path: Path) -> None:
    changes = {3: -0.3, 8: -0.1, 11: 0.2, 12: 0.4}
    a = write_run(tmp_path / "a", [score(i, 0.5) for i in range(20)])
    b = write_run(tmp_path / "b", [score(i, 0.5 + changes.get(i, 0)) for i in range(20)], model="b")
    samples = compare(a, b, listed=3).samples
    assert [s.sample_id[-2:] for s in samples.worst] == ["03", "08"]
    assert [s.sample_id[-2:] for s in samples.best] == ["12", "11"]
    assert (samples.better, samples.worse, samples.same) == (2, 2, 16)


def test_runs_of_boxes_alone_are_compared_by_boxes(tmp_path: Path) -> None:
    def boxes(gain: float) -> list[Score]:
        return [score(i, 0.0, pred_area=0, has_mask=False, box_iou=v + gain) for i, v in enumerate(IOU_A)]

    found = compare(write_run(tmp_path / "a", boxes(0)), write_run(tmp_path / "b", boxes(0.1), model="b"))
    assert found.headline == "box_acc_0.5"
    assert found.overall.change("ciou").delta is None
    assert found.samples.measure == "box_iou"
    assert found.samples.better == 40


def test_other_suite_content_is_refused(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [score(i, 0.5) for i in range(4)])
    b = write_run(tmp_path / "b", [score(i, 0.5) for i in range(4)], suite_hash="b" * 64)
    with pytest.raises(DataError, match="different ground truth: toy val has content hash aaaaaaaaaaaa in one and bbb"):
        compare(a, b)


def test_another_annotated_area_is_refused_and_named(tmp_path: Path) -> None:
    scores = [score(i, 0.5) for i in range(4)]
    a = write_run(tmp_path / "a", scores)
    b = write_run(tmp_path / "b", [*scores[:3], replace(scores[3], gt_area=700)], model="b")
    with pytest.raises(DataError, match="toy/val/00003 has gt_area 1000 and 700"):
        compare(a, b)


def test_another_protocol_is_refused_with_a_hint(tmp_path: Path) -> None:
    scores = [score(i, 0.5) for i in range(4)]
    a, b = write_run(tmp_path / "a", scores), write_run(tmp_path / "b", scores, protocol="lisa", model="b")
    with pytest.raises(UsageError, match=r"scored under strict, b-\w+ under lisa") as caught:
        compare(a, b)
    assert "--protocol strict" in caught.value.hint
    with pytest.raises(DataError, match="is not scored under strict") as lacking:
        compare(a, b, protocol="strict")
    assert f"`lens-bench score {b.root} --protocol strict`" in lacking.value.hint


def test_runs_of_different_protocols_are_compared_under_one_that_both_have(tmp_path: Path) -> None:
    scores = [score(i, 0.5) for i in range(4)]
    a = write_run(tmp_path / "a", scores, also=["lisa"])
    b = write_run(tmp_path / "b", [score(i, 0.6) for i in range(4)], protocol="lisa", model="b")
    found = compare(a, b, protocol="lisa")
    assert found.protocol == "lisa"
    change = found.overall.change("giou")
    assert change.a == pytest.approx(500 / (1000 + 1e-5) * 4 / (4 + 1e-5), abs=1e-12)
    assert change.b == pytest.approx(600 / (1000 + 1e-5) * 4 / (4 + 1e-5), abs=1e-12)


def test_nothing_in_common_is_refused(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [score(i, 0.5) for i in range(4)])
    b = write_run(tmp_path / "b", [score(i, 0.5) for i in range(4, 8)], model="b")
    with pytest.raises(UsageError, match="no expression in common"):
        compare(a, b)


def test_a_damaged_run_among_several_is_left_out_and_named(tmp_path: Path) -> None:
    for model in ("a", "b"):
        for split in ("val", "testA", "testB"):
            write_run(tmp_path / model, [score(i, 0.5) for i in range(4)], model=model, split=split)
    next((tmp_path / "a" / "toy" / "val").rglob("summary.json")).write_text("[1]")
    next((tmp_path / "b" / "toy" / "testA").rglob("manifest.json")).write_text("{")
    found = compare_paths(tmp_path / "a", tmp_path / "b")
    assert [c.split for c in found.comparisons] == ["testB"]
    assert sorted(e.message.split("/")[-1].split(" ")[0] for e in found.left_out) == ["manifest.json", "summary.json"]
    assert len(found.to_json()["left_out"]) == 2  # type: ignore[arg-type]
    next((tmp_path / "a" / "toy" / "testB").rglob("scores.jsonl")).unlink()
    with pytest.raises(DataError, match=r"no scores\.jsonl"):
        compare_paths(tmp_path / "a", tmp_path / "b")


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    a, b = pair(tmp_path)
    a.scores.write_bytes(b"".join(a.scores.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match="is not the file that its summary was made of"):
        compare(a, b)


def test_one_image_gives_values_but_no_interval(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [score(i, 0.5, image=0) for i in range(4)])
    b = write_run(tmp_path / "b", [score(i, 0.6, image=0) for i in range(4)], model="b")
    found = compare(a, b)
    change = found.overall.change("ciou")
    assert change.delta == pytest.approx(0.1)
    assert change.paired is None
    assert change.to_json()["ci95"] is None


def test_folders_are_paired_by_split(tmp_path: Path) -> None:
    for model in ("a", "b"):
        for split in ("val", "testA") if model == "a" else ("val", "testB"):
            write_run(tmp_path / model, [score(i, 0.5) for i in range(4)], model=model, split=split)
    found = compare_paths(tmp_path / "a", tmp_path / "b")
    assert [c.split for c in found.comparisons] == ["val"]
    assert (found.only_a, found.only_b) == (("toy testA",), ("toy testB",))
    assert "Only A was run on toy testA" in comparison_markdown(found)


def test_a_folder_with_two_models_or_two_runs_of_a_split_is_refused(tmp_path: Path) -> None:
    a = write_run(tmp_path, [score(i, 0.5) for i in range(4)])
    write_run(tmp_path, [score(i, 0.5) for i in range(4)], seed=1)
    with pytest.raises(UsageError, match="holds two runs of model-a on toy val"):
        compare_paths(tmp_path, a.root)
    write_run(tmp_path, [score(i, 0.5) for i in range(4)], model="b")
    with pytest.raises(UsageError, match="holds runs of 2 models: b, model-a"):
        compare_paths(a.root, tmp_path)
    with pytest.raises(UsageError, match="is not a run directory and holds none"):
        compare_paths(a.root, tmp_path / "nowhere")


def test_texts_hold_the_numbers_and_nothing_acts_as_markup(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [score(i, 0.5, sample_id=f"[red]<b>|x|{i}") for i in range(8)])
    b = write_run(tmp_path / "b", [score(i, 0.4, sample_id=f"[red]<b>|x|{i}") for i in range(8)], model="b")
    found = compare_paths(a.root, b.root)
    stream = io.StringIO()
    Console(file=stream, width=200).print(comparison_renderable(found))
    assert "−10.00" in stream.getvalue()
    assert "[red]<b>|x|0" in stream.getvalue()
    markdown = comparison_markdown(found)
    assert "| cIoU | 50.00 | 40.00 | −10.00 | −10.00 to −10.00 |" in markdown
    assert "<b>" not in markdown
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["comparisons"][0]["n_shared"] == 8
