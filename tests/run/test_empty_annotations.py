"""Annotations that cover no pixel stop a run before a model is loaded, and are never scored as if they were truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lens_bench import masks
from lens_bench.cards import Expected
from lens_bench.data.empty import covers_nothing
from lens_bench.data.split import open_split
from lens_bench.data.verify import verify_split
from lens_bench.errors import DataError
from lens_bench.records import GroundTruth, Outline, Polygon
from lens_bench.registry import find_model, find_suite
from lens_bench.run.evaluate import run_split
from lens_bench.run.manifest import read_manifest
from lens_bench.run.plan import make_model
from lens_bench.run.rescore import rescore
from lens_bench.run.results import read_results
from lens_bench.run.session import InProcess
from lens_bench.run.watch import Quiet
from lens_bench.scoring.protocols import get_protocol

OUTSIDE = [[100.0, 100.0, 120.0, 100.0, 120.0, 120.0]]
NOTHING: list[Any] = [OUTSIDE, [], None, {"size": [48, 64], "counts": [48 * 64]}, [[5.2, 5.2, 5.3, 5.2, 5.3, 5.3]]]


def _damage(tiny: Any, segmentation: Any, ann_id: int = 10) -> None:
    path = tiny.data_root / "tiny" / "instances.json"
    content = json.loads(path.read_text())
    for record in content["annotations"]:
        if record["id"] == ann_id:
            record["segmentation"] = segmentation
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("segmentation", NOTHING)
def test_an_annotation_that_covers_no_pixel_stops_a_run(own_tiny: Any, tmp_path: Path, segmentation: Any) -> None:
    _damage(own_tiny, segmentation)
    with pytest.raises(DataError, match=r"annotation of tiny/unc/val/ref100/sent1000 covers no pixel") as caught:
        own_tiny.plan("empty", tmp_path)
    assert "--allow-partial" in caught.value.hint
    assert own_tiny.plan("empty", tmp_path, shard=(1, 2)).samples  # another image's work


def test_the_number_of_others_is_named(own_tiny: Any, tmp_path: Path) -> None:
    for ann_id in (10, 20, 21):
        _damage(own_tiny, OUTSIDE, ann_id)
    with pytest.raises(DataError, match=r"\(and 2 more annotations\)"):
        own_tiny.plan("empty", tmp_path)


def test_allow_partial_leaves_them_out_counts_them_and_says_so(own_tiny: Any, tmp_path: Path) -> None:
    _damage(own_tiny, OUTSIDE)
    plan = own_tiny.plan("empty", tmp_path, allow_partial=True)
    assert len(plan.samples) == plan.manifest.n_samples == 70
    assert plan.manifest.data["left_out"] == 2
    assert plan.manifest.coverage(70) == "70 of 72 expressions"
    notes: list[str] = []

    class Watch(Quiet):
        def note(self, text: str) -> None:
            notes.append(text)

    card = find_model("empty")
    _, segmenter = make_model(card, plan.request)
    session = InProcess(segmenter, [plan])
    outcome = run_split(plan, session, Watch())
    assert outcome.answered == 70
    assert "left out 2 expressions whose annotation covers no pixel of its image" in notes
    metrics = outcome.summary["metrics"]
    assert isinstance(metrics, dict)
    assert metrics["giou"] == 0.0  # nothing is not right anywhere


def test_scoring_again_leaves_the_same_ones_out(own_tiny: Any, tmp_path: Path) -> None:
    for ann_id in (10, 11):  # four of the six expressions of an image: a choice of three among all would take some
        _damage(own_tiny, OUTSIDE, ann_id)
    plan = own_tiny.plan("oracle", tmp_path, allow_partial=True, also=("glamm",))
    _, segmenter = make_model(plan.card, plan.request)
    files = run_split(plan, InProcess(segmenter, [plan]), Quiet()).files
    before = files.other_scores("glamm").read_bytes()
    files.other_scores("glamm").unlink()
    rescore(files, ["glamm"], own_tiny.data_root, suite=str(own_tiny.card_path))
    assert files.other_scores("glamm").read_bytes() == before
    assert read_results(files, read_manifest(files), "glamm").summary["complete"] is True


def test_nothing_at_all_is_an_error_even_so(own_tiny: Any, tmp_path: Path) -> None:
    _damage(own_tiny, OUTSIDE)
    with pytest.raises(DataError, match="no annotation of tiny val covers"):
        own_tiny.plan("empty", tmp_path, allow_partial=True, limit=2)


def test_verify_finds_them_and_exits_with_4(own_tiny: Any, cli: Any) -> None:
    _damage(own_tiny, OUTSIDE)
    split = open_split(own_tiny.card, "val", own_tiny.data_root)
    report = verify_split(split)
    assert not report.ok
    (finding,) = report.findings
    assert (finding.kind, finding.sample_id) == ("empty annotation", "tiny/unc/val/ref100/sent1000")
    result = cli("data", "verify", own_tiny.card_path, "--data-root", own_tiny.data_root)
    assert result.returncode == 4
    assert "empty annotation: tiny/unc/val/ref100/sent1000: it covers no pixel" in result.stdout


@pytest.mark.parametrize(("allowed", "fine"), [(0, False), (1, False), (2, True), (3, True), ("any", True)])
def test_a_card_says_how_many_its_authors_have(own_tiny: Any, tmp_path: Path, allowed: Any, fine: bool) -> None:
    for ann_id in (10, 20):
        _damage(own_tiny, OUTSIDE, ann_id)
    text = own_tiny.card_path.read_text()
    own_tiny.card_path.write_text(text.replace("expressions: 72}", f"expressions: 72, empty: {allowed}}}"))
    assert verify_split(open_split(own_tiny.card, "val", own_tiny.data_root)).ok is fine
    if fine:
        assert len(own_tiny.plan("empty", tmp_path).samples) == 72
    else:
        with pytest.raises(DataError, match="covers no pixel"):
            own_tiny.plan("empty", tmp_path)


def test_shipped_cards_allow_what_their_authors_files_have() -> None:
    assert find_suite("reasonseg").splits["test"].expected.empty == 2
    assert all(split.expected.empty == "any" for split in find_suite("grefcoco").splits.values())
    assert Expected().empty == 0


def test_no_target_is_no_empty_annotation() -> None:
    assert covers_nothing(GroundTruth((4, 4)))
    assert not covers_nothing(GroundTruth((4, 4), no_target=True))
    assert covers_nothing(GroundTruth((4, 4), (Polygon((9, 9, 12, 9, 12, 12)),)))
    assert not covers_nothing(GroundTruth((4, 4), (Polygon((9, 9, 12, 9, 12, 12)), Polygon((0, 0, 3, 0, 3, 3)))))


@pytest.mark.parametrize(
    ("points", "nothing"),
    [
        ((1, 1, 3, 1, 3, 3), False),
        ((-0.9, -0.9, -0.9, -0.9), False),
        ((-1.5, -1.5, -3, -1.5, -3, -3), True),
        ((3.9, 3.9), False),
        ((4.0, 1.0, 9, 1, 9, 3), True),
        ((-5, 2, 9, 2), False),
        ((), True),
    ],
)
def test_outlines_cover_what_paint_draws(points: tuple[float, ...], nothing: bool) -> None:
    outline = Outline(points, ignore=False)
    assert covers_nothing(GroundTruth((4, 4), outlines=(outline,))) is nothing
    assert (masks.area(masks.paint((outline,), (4, 4))[0]) == 0) is nothing
    assert covers_nothing(GroundTruth((4, 4), outlines=(Outline((0, 0, 3, 0, 3, 3), ignore=True),)))


def test_fractions_of_the_image_are_refused_although_they_may_cover_a_pixel(own_tiny: Any, tmp_path: Path) -> None:
    _damage(own_tiny, [[0.1, 0.1, 0.9, 0.1, 0.9, 1.0]])
    with pytest.raises(DataError, match=r"annotation 10 of .* all between 0 and 1"):
        own_tiny.plan("empty", tmp_path, allow_partial=True)
    assert masks.area(masks.part_rle(Polygon((0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0)), (4, 4))) == 1


def test_strict_would_have_rewarded_them() -> None:
    assert get_protocol("strict").empty_union_iou == 1.0
    assert masks.area(masks.part_rle(Polygon(tuple(OUTSIDE[0])), (48, 64))) == 0
