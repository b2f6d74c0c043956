from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from lens_bench.records import ArgValue, Score
from lens_bench.report.leaderboard import Average, build, to_html, to_markdown, write_csv
from lens_bench.report.leaderboard.averages import EIGHT_CELLS, published_averages
from lens_bench.report.published import read_published
from lens_bench.run.manifest import Settings

from .made_runs import score, write_run

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "results" / "published.csv"
MEASURED = frozenset({"measured"})


def cell_scores(number: int, iou: float, n: int = 12) -> list[Score]:
    """Scores of one of the eight splits; image ids are the split's own."""
    made = [score(i, iou, union=1000 * (number + 1)) for i in range(n)]
    return [replace(s, sample_id=f"{number}/{s.sample_id}", image_id=f"{number}/{s.image_id}") for s in made]


def write_eight(folder: Path, ious: Mapping[int, float], cells: range = range(8), **changes: object) -> None:
    for number in cells:
        suite, split = EIGHT_CELLS[number]
        settings = {"suite": suite, "split": split, "suite_hash": str(number) * 64} | changes
        write_run(folder, cell_scores(number, ious[number]), **settings)  # type: ignore[arg-type]


IOUS = {number: 0.4 + 0.05 * number for number in range(8)}


def averages(folder: Path, **changes: object) -> list[Average]:
    return list(build(folder, PUBLISHED, include=MEASURED, **changes).averages)  # type: ignore[arg-type]


def test_mean_of_eight_and_pooled_value_of_a_measured_model(tmp_path: Path) -> None:
    write_eight(tmp_path, IOUS)
    (found,) = averages(tmp_path)
    assert found.mean8 == pytest.approx(sum(IOUS.values()) / 8)
    weights = {number: number + 1 for number in range(8)}
    pooled = sum(IOUS[n] * w for n, w in weights.items()) / sum(weights.values())
    assert found.pooled == pytest.approx(pooled)
    assert pooled > found.mean8 + 0.03, "large splits weigh more"
    assert found.low is not None
    assert found.high is not None
    assert found.low < pooled < found.high
    assert (found.rank, found.ranked, found.weight_digests) == (1, 1, ("w" * 64,))


def test_other_metrics_have_a_mean_and_nothing_pooled(tmp_path: Path) -> None:
    write_eight(tmp_path, IOUS)
    (found,) = averages(tmp_path, metric="giou")
    assert found.mean8 == pytest.approx(sum(IOUS.values()) / 8)
    assert found.pooled is None


def test_a_missing_or_incomplete_cell_gives_no_average(tmp_path: Path) -> None:
    write_eight(tmp_path, IOUS, range(7))
    assert averages(tmp_path) == []
    write_eight(tmp_path, IOUS, range(7, 8), n_samples=100)
    assert averages(tmp_path) == []


def submit(
    folder: Path, cells: range = range(8), *, source: str = "https://x.org", mark: str = "", **more: object
) -> None:
    """Score a predictions file for each split, as ``score --predictions FILE --name theirs --source URL`` does."""
    for n in cells:
        sha = sha256(f"{n}{mark}".encode()).hexdigest()
        args: dict[str, ArgValue] = {"predictions": f"sha256:{sha}", "box_format": "xyxy"} | more  # type: ignore[dict-item]
        card = {"title": "theirs", "source": source, "sees_ground_truth": False, "timed": False}
        settings = Settings(args=args, prompt={}, dtype="float32", engine=None, limit=None)
        write_eight(
            folder, IOUS, range(n, n + 1), model="theirs", weight_digest=sha, settings=settings, model_card=card
        )


def test_predictions_files_of_one_name_and_source_are_one_submission(tmp_path: Path) -> None:
    submit(tmp_path)
    (found,) = averages(tmp_path)
    assert found.mean8 == pytest.approx(sum(IOUS.values()) / 8)
    assert (found.rank, found.ranked, len(found.weight_digests)) == (1, 1, 8)
    assert found.notes == ("8 predictions files of one submission",)
    assert "measured, predictions of https://x.org" in to_markdown(build(tmp_path, PUBLISHED, include=MEASURED))


@pytest.mark.parametrize(
    "others",
    [{"source": "https://y.org"}, {"source": ""}, {"box_format": "xywh"}],
    ids=["another source", "no source", "read in another way"],
)
def test_files_of_several_submissions_are_not_mixed(tmp_path: Path, others: dict[str, str]) -> None:
    submit(tmp_path, range(4))
    submit(tmp_path, range(4, 8), **others)
    assert averages(tmp_path) == []


def test_a_split_with_two_files_leaves_open_which_belong_together(tmp_path: Path) -> None:
    submit(tmp_path)
    submit(tmp_path, range(1), mark="later")
    assert averages(tmp_path) == []


def test_settings_weights_and_protocols_are_not_mixed(tmp_path: Path) -> None:
    write_eight(tmp_path, IOUS, range(4))
    write_eight(tmp_path, IOUS, range(4, 8), seed=1)
    assert averages(tmp_path) == []
    write_eight(tmp_path / "lens", IOUS, range(4, 8), protocol="lens")
    assert averages(tmp_path) == []


def test_a_checkpoint_per_benchmark_is_marked_and_not_ranked(tmp_path: Path) -> None:
    write_eight(tmp_path, IOUS, range(4))
    write_eight(tmp_path, IOUS, range(4, 8), weight_digest="v" * 64)
    (found,) = averages(tmp_path)
    assert found.rank is None
    assert found.weight_digests == ("w" * 64, "v" * 64)
    assert found.notes == ("per-benchmark checkpoints",)


def test_averages_on_other_content_are_not_ranked_together(tmp_path: Path) -> None:
    write_eight(tmp_path, IOUS, model="a")
    write_eight(tmp_path, IOUS, range(7), model="b")
    write_eight(tmp_path, IOUS, range(7, 8), model="b", suite_hash="f" * 64)
    write_eight(tmp_path, {n: v + 0.01 for n, v in IOUS.items()}, model="c")
    places = {a.model: (a.rank, a.ranked) for a in averages(tmp_path)}
    assert places == {"c": (1, 2), "a": (2, 2), "b": (1, 1)}


def test_an_oracle_has_an_average_without_a_place(tmp_path: Path) -> None:
    write_eight(tmp_path, IOUS, model_card={"title": "Oracle", "sees_ground_truth": True})
    (found,) = averages(tmp_path)
    assert (found.oracle, found.rank) == (True, None)


def test_a_cell_whose_scores_cannot_be_read_is_no_cell(tmp_path: Path) -> None:
    write_eight(tmp_path, IOUS)
    next(tmp_path.rglob("scores.jsonl")).unlink()
    found = build(tmp_path, PUBLISHED, include=MEASURED)
    assert found.averages == ()
    assert len([row for row in found.rows if not row.subset]) == 7
    assert ["no scores.jsonl" in error.message for error in found.damaged] == [True]


def test_splits_that_share_expressions_leave_the_mean_and_say_so(tmp_path: Path) -> None:
    for suite, split in EIGHT_CELLS:
        write_run(tmp_path, [score(i, 0.5) for i in range(4)], suite=suite, split=split)
    (found,) = averages(tmp_path)
    assert found.mean8 == pytest.approx(0.5)
    assert found.pooled is None
    assert "no pooled cIoU: toy/val/00000 is scored twice" in found.notes[0]


def test_averages_are_written_by_every_writer(tmp_path: Path) -> None:
    write_eight(tmp_path, IOUS)
    found = build(tmp_path, PUBLISHED)
    (mine,) = [a for a in found.averages if a.kind == "measured"]
    assert mine == found.averages[0], "measured first"
    assert "57.5" in to_markdown(found)
    assert "57.5" in to_html(found)
    write_csv(found, tmp_path / "board.csv")
    assert "refcoco-family,all,,ciou_mean8,1,1,model-a,,0.575," in (tmp_path / "board.csv").read_text(encoding="utf-8")


def test_averages_stand_with_the_suites_they_are_of(tmp_path: Path) -> None:
    assert build(tmp_path, PUBLISHED, suite="refcocog").averages
    assert not build(tmp_path, PUBLISHED, suite="reasonseg").averages


def test_every_published_model_with_eight_cells_has_an_average() -> None:
    found = published_averages(read_published(PUBLISHED), "ciou")
    by_name = {(a.model, a.source): a for a in found}
    assert len(found) == len(by_name) >= 33
    lens = by_name["LENS-3B", "LENS (AAAI 2026) Table 1"]
    assert (round(100 * lens.mean8, 2), lens.printed) == (81.15, "81.2")
    zero_shot = next(a for a in found if a.model == "GLaMM-7B (zero-shot)")
    assert (round(100 * zero_shot.mean8, 1), zero_shot.printed) == (50.6, "")
    agent = next(a for a in found if "OpenReview" in a.source)
    assert (round(100 * agent.mean8, 1), agent.printed, agent.disputed) == (71.2, "74.2", False)
    assert next(a for a in found if a.model == "PixelLM-7B" and "LENS" in a.source).disputed
