from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from lens_bench.errors import DataError, GateError, UsageError
from lens_bench.records import Score
from lens_bench.report.changes import Change
from lens_bench.report.gate import Verdict, _decide, gate, update
from lens_bench.report.gate_reference import Columns, read_reference
from lens_bench.report.gate_text import headline, verdict_junit, verdict_markdown, verdict_renderable
from lens_bench.run.files import RunFiles, read_json
from lens_bench.scoring.stats import PairedDelta

from .made_runs import perf, score, write_run

N = 200


def scores(loss: float = 0.0, noise: float = 0.0) -> list[Score]:
    """IoU spread over 0.3-0.7; `noise` moves whole images up and down in turn."""
    return [score(i, 0.3 + 0.4 * i / N - loss + noise * (-1) ** (i // 2), union=10_000) for i in range(N)]


def reference(tmp_path: Path, **options: object) -> Path:
    path = tmp_path / "gates" / "toy.json"
    update(write_run(tmp_path / "ref", scores(), speed=perf()), path, **options)  # type: ignore[arg-type]
    return path


def judged(tmp_path: Path, path: Path, made: list[Score], **changes: object) -> Verdict:
    return gate(write_run(tmp_path / "new", made, model="model-b", **changes), path)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- the three answers


def test_a_clear_loss_is_a_regression(tmp_path: Path) -> None:
    verdict = judged(tmp_path, reference(tmp_path), scores(loss=0.02, noise=0.01))
    assert verdict.answer == "regression"
    assert verdict.failed()
    with pytest.raises(GateError, match=r"cIoU changed by −2.00 points") as caught:
        verdict.enforce()
    assert caught.value.exit_code == 3


def test_a_real_loss_inside_the_margin_passes(tmp_path: Path) -> None:
    verdict = judged(tmp_path, reference(tmp_path), scores(loss=0.002, noise=0.005))
    paired = verdict.quality.change.paired
    assert paired is not None
    assert paired.ci95[1] < 0, "the loss is no chance"
    assert verdict.answer == "pass"
    assert not verdict.failed(strict=True)


def test_what_cannot_be_told_is_inconclusive_and_fails_only_when_strict(tmp_path: Path) -> None:
    verdict = judged(tmp_path, reference(tmp_path), scores(loss=0.006, noise=0.15))
    assert verdict.answer == "inconclusive"
    assert not verdict.failed()
    verdict.enforce()
    with pytest.raises(GateError, match="--strict: could not be judged: ciou"):
        verdict.enforce(strict=True)
    assert verdict.quality.weak
    assert "This gate is weak" in verdict_markdown(verdict)


def test_a_gain_passes(tmp_path: Path) -> None:
    assert judged(tmp_path, reference(tmp_path), scores(loss=-0.02)).answer == "pass"


@pytest.mark.parametrize("margin", [0.0, 0.005])
def test_the_same_predictions_pass_under_any_margin(tmp_path: Path, margin: float) -> None:
    verdict = judged(tmp_path, reference(tmp_path, margin=margin), scores())
    assert verdict.answer == "pass"
    assert verdict.quality.change.delta == 0
    assert verdict.quality.mde is None, "identical answers say nothing about their spread"
    assert "cannot be estimated" in verdict_markdown(verdict)


def test_with_margin_zero_any_sure_loss_is_a_regression(tmp_path: Path) -> None:
    assert judged(tmp_path, reference(tmp_path, margin=0.0), scores(loss=0.001)).answer == "regression"


def test_one_image_decides_nothing(tmp_path: Path) -> None:
    path = tmp_path / "gate.json"
    update(write_run(tmp_path / "a", [score(i, 0.9, image=0) for i in range(9)]), path)
    verdict = gate(write_run(tmp_path / "b", [score(i, 0.1, image=0) for i in range(9)], model="b"), path)
    assert verdict.answer == "inconclusive"
    assert "fewer than two images" in verdict.quality.reason
    assert verdict.quality.weak
    assert verdict.failed(strict=True)


FRACTION = st.floats(-0.1, 0.1)


@given(delta=FRACTION, low=FRACTION, high=FRACTION, margin=st.floats(0, 0.05))
def test_the_answers_are_the_definitions(delta: float, low: float, high: float, margin: float) -> None:
    low, delta, high = sorted((low, delta, high))
    paired = PairedDelta("ciou", delta, (low, high), 0.5, 0.01, 0.03, 10, 10)
    answer, _ = _decide(Change("ciou", 0.5, 0.5 + delta, paired), margin)
    assert (answer == "regression") == (delta < -margin and high < 0)
    if answer == "pass":
        assert low >= -margin
    if answer == "inconclusive":
        assert low < -margin
        assert not (delta < -margin and high < 0)


# ---------------------------------------------------------------------------------------------- what is refused


def test_an_incomplete_run_is_refused(tmp_path: Path) -> None:
    path = reference(tmp_path)
    with pytest.raises(DataError, match="is not complete: 190 of 200 expressions") as caught:
        judged(tmp_path, path, scores()[:190], n_samples=N)
    assert "lens-bench run" in caught.value.hint


def test_an_incomplete_run_is_no_reference(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not complete"):
        update(write_run(tmp_path, scores()[:190], n_samples=N), tmp_path / "gate.json")
    assert not (tmp_path / "gate.json").exists()


def test_missing_and_surplus_samples_are_refused(tmp_path: Path) -> None:
    path = reference(tmp_path)
    with pytest.raises(DataError, match=r"lacks 10 expressions: toy/val/00190, .* and 6 more"):
        judged(tmp_path, path, scores()[:190])
    more = [*scores(), score(N, 0.5)]
    with pytest.raises(DataError, match="the reference lacks, 1 expressions: toy/val/00200") as caught:
        gate(write_run(tmp_path / "more", more), path)
    assert "no --limit" in caught.value.hint


def test_other_data_protocol_and_split_are_refused(tmp_path: Path) -> None:
    path = reference(tmp_path)
    with pytest.raises(DataError, match="different ground truth"):
        gate(write_run(tmp_path / "1", scores(), suite_hash="c" * 64), path)
    with pytest.raises(DataError, match="gt_area"):
        gate(write_run(tmp_path / "2", [replace(scores()[0], gt_area=1), *scores()[1:]]), path)
    with pytest.raises(UsageError, match="is scored under lisa"):
        gate(write_run(tmp_path / "3", scores(), protocol="lisa"), path)
    with pytest.raises(UsageError, match="is on toy testA"):
        gate(write_run(tmp_path / "4", scores(), split="testA"), path)


def test_a_missing_or_edited_reference_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", scores())
    with pytest.raises(DataError, match="there is no gate reference") as caught:
        gate(run, tmp_path / "none.json")
    assert "--update" in caught.value.hint
    path = reference(tmp_path)
    content = read_json(path)
    content["metrics"]["ciou"] = 0.1  # type: ignore[index]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="its metrics are not those of its samples"):
        gate(run, path)
    path.write_text(json.dumps(content | {"protocol": "old"}))
    with pytest.raises(DataError, match="no protocol 'old'"):
        gate(run, path)
    forged = json.loads(json.dumps(content))
    for forgery, problem in ((10**9, "toy/val/00003 is not one of strict: intersection"), (10**30, "less than or")):
        forged["samples"]["intersection"][3] = forgery
        path.write_text(json.dumps(forged))
        with pytest.raises(DataError, match=problem):
            gate(run, path)
    path.write_text(json.dumps(content | {"margin": -1}))
    with pytest.raises(DataError, match="margin"):
        gate(run, path)
    del content["samples"]["union"][0]  # type: ignore[index]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="column union has 199 entries"):
        gate(run, path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": 1.5}, "a margin of 1.5"),
        ({"margin": float("nan")}, "a margin of nan"),
        ({"metric": "n_acc"}, "n_acc does not apply"),
        ({"metric": "nonsense"}, "nonsense does not apply"),
        ({"tolerances": {"latency_p50_ms": 0.9}}, "must be at least 1"),
        ({"tolerances": {"expressions_per_s": 1.1}}, "at most 1"),
        ({"tolerances": {"latency": 1.1}}, "no speed figure is called 'latency'"),
        ({"tolerances": {"peak_device_mb": 1.1}}, "did not measure peak_device_mb"),
    ],
)
def test_options_that_make_no_gate_are_refused(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        reference(tmp_path, **options)


# ---------------------------------------------------------------------------------------------- the reference file


def test_update_keeps_margin_and_tolerances_unless_given(tmp_path: Path) -> None:
    path = reference(tmp_path, margin=0.01, tolerances={"latency_p50_ms": 1.2}, metric="giou")
    run = write_run(tmp_path / "b", scores(loss=0.1), speed=perf(), model="b")
    kept = update(run, path)
    assert (kept.margin, kept.tolerances, kept.metric, kept.model) == (0.01, {"latency_p50_ms": 1.2}, "giou", "b")
    assert update(run, path, margin=0.02, tolerances={}).tolerances == {}
    assert read_reference(path).margin == 0.02
    assert gate(run, path).answer == "pass"


def test_update_does_not_replace_the_reference_of_another_split(tmp_path: Path) -> None:
    path = reference(tmp_path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="is a reference of toy val"):
        update(write_run(tmp_path / "b", scores(), split="testA"), path)
    assert path.read_bytes() == before


SCORES = st.builds(
    Score,
    sample_id=st.text(),
    image_id=st.text(max_size=2),
    status=st.sampled_from(("ok", "no_mask", "error")),
    intersection=st.integers(0, 2**40),
    union=st.integers(0, 2**40),
    pred_area=st.integers(0, 2**40),
    gt_area=st.integers(0, 2**40),
    iou=st.none() | st.floats(0, 1),
    box_iou=st.none() | st.floats(0, 1),
    boundary_iou=st.none() | st.floats(0, 1),
    no_target=st.booleans(),
    has_mask=st.booleans(),
    predicted_empty=st.booleans(),
    counted=st.booleans(),
    tags=st.lists(st.text(max_size=3), max_size=2).map(tuple),
)


@given(st.lists(SCORES, max_size=6, unique_by=lambda s: s.sample_id))
def test_columns_give_back_every_score_exactly(made: list[Score]) -> None:
    text = Columns.of(made).model_dump_json()
    assert Columns.model_validate_json(text).scores() == sorted(made, key=lambda s: s.sample_id)


def test_one_line_a_column(tmp_path: Path) -> None:
    lines = reference(tmp_path).read_text().splitlines()
    assert sum('"intersection":' in line for line in lines) == 1
    assert len(lines) < 50


# ---------------------------------------------------------------------------------------------- speed


def check(tmp_path: Path, **changes: object) -> Verdict:
    path = reference(tmp_path, tolerances={"latency_p99_ms": 1.1, "expressions_per_s": 0.9})
    return gate(write_run(tmp_path / "new", scores(), speed=perf(**changes)), path)


def test_speed_within_its_tolerances_passes(tmp_path: Path) -> None:
    verdict = check(tmp_path, latency_ms={"p50": 900.0, "p90": 1.0, "p99": 220.0}, expressions_per_s=9.0)
    assert [c.answer for c in verdict.speed] == ["pass", "pass"]
    assert verdict.answer == "pass"


def test_speed_beyond_its_tolerance_is_a_regression(tmp_path: Path) -> None:
    verdict = check(tmp_path, latency_ms={"p50": 1.0, "p90": 1.0, "p99": 220.1}, expressions_per_s=8.9)
    assert [c.answer for c in verdict.speed] == ["regression", "regression"]
    assert verdict.answer == "regression"
    with pytest.raises(GateError, match=r"latency p99 ms: 220.1 against 200, 1.101 times; at most 1.1 allowed"):
        verdict.enforce()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hardware": "faster processor, 9 cores"}, "other hardware: faster processor"),
        ({"comparable": False, "reasons": ["resumed: 5 expressions"]}, "marked not comparable: resumed"),
        ({"batch_images": 1}, "other images per call: 1 here, 8 in the reference"),
        ({"latency_ms": None, "expressions_per_s": None}, "the run did not measure it"),
    ],
)
def test_speed_that_cannot_be_compared_is_said_and_never_passed(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    verdict = check(tmp_path, **changes)
    assert {c.answer for c in verdict.speed} == {"not comparable"}
    assert verdict.answer == "pass"
    assert headline(verdict) == "pass (not judged: latency_p99_ms, expressions_per_s)"
    assert reason in verdict_markdown(verdict)
    assert not verdict.failed()
    assert verdict.failed(strict=True)


def test_a_run_without_speed_is_not_comparable(tmp_path: Path) -> None:
    path = reference(tmp_path, tolerances={"peak_rss_mb": 1.1})
    verdict = gate(write_run(tmp_path / "new", scores()), path)
    assert verdict.speed[0].reason == "the run has no speed figures"


# ---------------------------------------------------------------------------------------------- outputs


def test_junit_counts_failures_and_what_was_not_judged(tmp_path: Path) -> None:
    path = reference(tmp_path, tolerances={"latency_p50_ms": 1.1, "peak_rss_mb": 1.1})
    slow = perf(latency_ms={"p50": 500.0, "p90": 1.0, "p99": 1.0}, peak_rss_mb=None)
    verdict = gate(write_run(tmp_path / "new", scores(), speed=slow), path)
    suite = ET.fromstring(verdict_junit(verdict)).find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "1")
    assert [c.get("name") for c in suite] == ["ciou", "latency_p50_ms", "peak_rss_mb"]
    assert [c[0].tag for c in suite] == ["system-out", "failure", "skipped"]
    strict = ET.fromstring(verdict_junit(verdict, strict=True)).find("testsuite")
    assert strict is not None
    assert strict.get("failures") == "2"


def test_outputs_name_answer_margin_and_detectable_effect(tmp_path: Path) -> None:
    verdict = judged(tmp_path, reference(tmp_path), scores(loss=0.02, noise=0.01))
    stream = io.StringIO()
    Console(file=stream, width=200).print(verdict_renderable(verdict))
    for text in (stream.getvalue(), verdict_markdown(verdict)):
        assert "regression" in text
        assert "margin 0.50 points" in text
        assert "Minimum detectable effect" in text
    assert json.loads(json.dumps(verdict.to_json(), allow_nan=False))["quality"]["margin"] == 0.005


def test_names_with_control_characters_make_valid_xml(tmp_path: Path) -> None:
    path = reference(tmp_path, tolerances={"peak_rss_mb": 1.1})
    run = write_run(tmp_path / "n", scores(), speed=perf(hardware="a\x00<b>&\x1b[0m\ufffe"))
    xml = verdict_junit(gate(run, path))
    assert "<b>" not in xml
    ET.fromstring(xml)


def test_the_run_may_be_read_from_elsewhere(tmp_path: Path) -> None:
    path = reference(tmp_path)
    run = write_run(tmp_path / "n", scores())
    moved = run.root.rename(tmp_path / "moved")
    assert gate(RunFiles(moved), path).answer == "pass"
