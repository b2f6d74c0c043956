"""What a run covers of its split, and whose answers it holds: in every place where its numbers are shown."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lens_bench.commands.run import submission
from lens_bench.data.split import shortfall
from lens_bench.errors import UsageError
from lens_bench.report.gate_reference import make_reference
from lens_bench.report.leaderboard import Leaderboard, Row, build, to_html, write_csv
from lens_bench.report.page.build import PageOptions, report
from lens_bench.report.plots.groups import groups_of
from lens_bench.report.runset import load_run
from lens_bench.run.evaluate import run_splits
from lens_bench.run.files import JsonObject, RunFiles, read_json
from lens_bench.run.manifest import read_manifest
from lens_bench.run.plan import Plan, Request, make_model, make_plan

from ..report.made_runs import score, write_run

HALF = "72 of 144 expressions"


@pytest.fixture
def half(own_tiny: Any) -> Any:
    """A suite whose card expects twice as many expressions as its files hold."""
    card = own_tiny.card_path.read_text().replace("expressions: 72", "expressions: 144")
    own_tiny.card_path.write_text(card)
    return own_tiny


def finish(plan: Plan) -> JsonObject:
    _, segmenter = make_model(plan.card, plan.request)
    (outcome,) = run_splits([plan], segmenter)
    return outcome.summary


def submit(
    tiny: Any, out: Path, file: Path, name: str | None, source: str | None = None
) -> tuple[RunFiles, JsonObject]:
    card = submission(name, source)
    request = Request(args={"predictions": str(file)}, data_root=tiny.data_root, out=out, max_errors=1.0)
    options, segmenter = make_model(card, request)
    plan = make_plan(tiny.card, "val", card, options, segmenter, request)
    (outcome,) = run_splits([plan], segmenter)
    return outcome.files, outcome.summary


def predictions(path: Path, side: int) -> Path:
    """Boxes for all expressions of the tiny suite."""
    keys = [(100 * i + n) * 10 + s for i in range(1, 13) for n in range(3) for s in (0, 1)]
    path.write_text("".join(json.dumps({"sent_id": key, "box": [0, 0, side, side]}) + "\n" for key in keys))
    return path


def board(folder: Path, metric: str = "ciou") -> Leaderboard:
    return build(folder, folder / "none.csv", metric=metric, include=frozenset({"measured"}))


def whole(found: Leaderboard) -> list[Row]:
    return [row for row in found.rows if not row.subset]


# ---------------------------------------------------------------------------------------------- part of a split


def test_a_partial_data_set_is_not_ranked_and_says_so_everywhere(half: Any, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    plan = half.plan("full", out, allow_partial=True)
    summary = finish(plan)
    assert (summary["complete"], summary["coverage"]) == (True, HALF)
    manifest = read_manifest(plan.files)
    assert manifest.data["expected"] == {"images": 12, "refs": 36, "expressions": 144, "content_hash": ""}
    assert manifest.data["found"] == {"images": 12, "refs": 36, "expressions": 72}
    found = board(out)
    (row,) = whole(found)
    assert (row.rank, row.complete, row.notes) == (None, False, (f"incomplete: {HALF}",))
    assert HALF in to_html(found)
    write_csv(found, tmp_path / "board.csv")
    (line,) = [r for r in csv.DictReader((tmp_path / "board.csv").open()) if not r["subset"]]
    assert (line["complete"], line["rank"], line["notes"]) == ("no", "", f"incomplete: {HALF}")
    (page,) = report([plan.files.root], None, PageOptions(suite=str(half.card_path), plots=False))
    assert HALF in page.path.read_text()
    run = load_run(plan.files)
    assert groups_of([run])[0].members[0].ranked is False
    assert make_reference(run).coverage == HALF


def test_the_terminal_names_the_part(cli: Any, half: Any, tmp_path: Path) -> None:
    result = cli(*half.run("full", tmp_path / "out", "--allow-partial"))
    assert f"tiny val ({HALF})" in result.stdout
    (folder,) = (tmp_path / "out/tiny/val").iterdir()
    assert cli("show", folder).stdout.count(HALF) == 2
    shown = cli("leaderboard", "--results", tmp_path / "out", "--include", "measured", "-o", tmp_path / "b.csv")
    assert HALF in " ".join(shown.stdout.split())


def test_a_limit_is_a_part_of_the_split(tiny: Any, tmp_path: Path) -> None:
    assert finish(tiny.plan("full", tmp_path, limit=10))["coverage"] == "10 of 72 expressions"
    assert finish(tiny.plan("full", tmp_path))["coverage"] == ""
    assert [(r.rank, r.notes) for r in whole(board(tmp_path))] == [
        (1, ()),
        (None, ("incomplete: 10 of 72 expressions",)),
    ]


def test_what_a_manifest_covers(tiny: Any, tmp_path: Path) -> None:
    manifest = tiny.plan("full", tmp_path).manifest
    assert manifest.coverage(72) == ""
    assert manifest.coverage(30) == "30 of 72 expressions"
    earlier = replace(manifest, data={})
    assert (earlier.coverage(72), earlier.coverage(30)) == ("", "30 of 72 expressions")
    limited = replace(earlier, settings=replace(earlier.settings, limit=10))
    assert limited.coverage(10) == "10 expressions"


def test_fields_of_later_versions_may_be_absent_from_a_manifest(tiny: Any, tmp_path: Path) -> None:
    plan = tiny.plan("full", tmp_path)
    finish(plan)
    content = read_json(plan.files.manifest)
    for name in ("data", "pixels", "data_root"):
        del content[name]
    plan.files.manifest.write_text(json.dumps(content))
    assert read_manifest(plan.files).digest == plan.manifest.digest
    assert whole(board(tmp_path))[0].complete


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ({"expressions": 10_834}, "60 of 10,834 expressions"),
        ({"expressions": 60, "images": 25}, "20 of 25 images"),
        ({"expressions": 50}, "60 instead of 50 expressions"),
        (
            {"expressions": None, "content_hash": "b" * 64},
            "content aaaaaaaaaaaa, not bbbbbbbbbbbb as on the suite's card",
        ),
        ({"expressions": 60, "images": 20, "refs": None, "content_hash": ""}, ""),
    ],
)
def test_in_what_files_fall_short(expected: dict[str, object], text: str) -> None:
    assert shortfall(expected, {"images": 20, "refs": 30, "expressions": 60}, "a" * 64) == text


# ---------------------------------------------------------------------------------------------- submissions


def test_reading_a_file_has_no_speed(tiny: Any, tmp_path: Path) -> None:
    files, summary = submit(tiny, tmp_path / "out", predictions(tmp_path / "p.jsonl", 9), "theirs")
    assert summary["perf"] is None
    assert load_run(files).perf is None
    assert whole(board(tmp_path / "out", "box_acc_0.5"))[0].speed is None
    assert finish(tiny.plan("full", tmp_path / "out"))["perf"] is not None


def test_what_has_no_speed_is_not_profiled(cli: Any, tiny: Any, tmp_path: Path) -> None:
    where = ["--suite", tiny.card_path, "--data-root", tiny.data_root, "--out", tmp_path / "out"]
    file = predictions(tmp_path / "p.jsonl", 9)
    result = cli("profile", *where, "--model", "replay", "--model-arg", f"predictions={file}")
    assert result.returncode == 2
    assert "only looks its answers up" in result.stderr


def test_submissions_have_names_and_sources(tiny: Any, tmp_path: Path) -> None:
    file, out = predictions(tmp_path / "p.jsonl", 9), tmp_path / "out"
    files, summary = submit(tiny, out, file, "their-model", "https://example.org/paper")
    assert files.root.name.startswith("their-model-")
    assert summary["model"] == read_manifest(files).model == "their-model"
    (row,) = whole(board(out, "box_acc_0.5"))
    assert (row.model, row.source, row.distinct, row.notes) == ("their-model", "https://example.org/paper", "", ())
    again, _ = submit(tiny, out, file, "their-model", "https://example.org/journal")
    assert again == files
    assert read_manifest(files).model_card["source"] == "https://example.org/journal"
    with pytest.raises(UsageError, match="cannot be the name of a model"):
        submission("../up", None)


def test_a_name_that_repeats_shows_what_differs(tiny: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    runs = [submit(tiny, out, predictions(tmp_path / f"{n}.jsonl", n), None)[0] for n in (9, 20)]
    digests = {read_manifest(files).weight_digest[:8] for files in runs}
    rows = whole(board(out, "box_acc_0.5"))
    assert {r.distinct for r in rows} == {f"file {d}" for d in digests}
    assert not any("per-benchmark" in note for r in rows for note in r.notes)
    text = to_html(board(out, "box_acc_0.5"))
    assert all(f"replay (file {d})" in text for d in digests)


def test_two_submissions_as_a_user_scores_them(cli: Any, tiny: Any, tmp_path: Path) -> None:
    files = {n: predictions(tmp_path / f"{n}.jsonl", n) for n in (9, 20)}
    where = ["--suite", tiny.card_path, "--data-root", tiny.data_root]

    def shown(out: Path, names: Sequence[str]) -> list[dict[str, str]]:
        for (n, file), name in zip(files.items(), names, strict=True):
            named = ["--name", name, "--source", f"https://example.org/{n}"] if name else []
            made = cli("score", *where, "--out", out, "--predictions", file, *named)
            assert made.returncode == 0, made.stderr
        chosen = ["--include", "measured", "--metric", "box_acc_0.5", "--format", "csv", "-o", tmp_path / "board.csv"]
        assert cli("leaderboard", "--results", out, *chosen).returncode == 0
        with (tmp_path / "board.csv").open(newline="") as stream:
            return [row for row in csv.DictReader(stream) if not row["subset"]]

    rows = shown(tmp_path / "named", ("ours", "LISA-7B+"))
    told = {(r["model"], r["variant"], r["source"], r["notes"]) for r in rows}
    assert told == {("ours", "", "https://example.org/9", ""), ("LISA-7B+", "", "https://example.org/20", "")}
    rows = shown(tmp_path / "nameless", ("", ""))
    assert {(r["model"], r["variant"], r["notes"]) for r in rows} == {
        ("replay", f"file {hashlib.sha256(file.read_bytes()).hexdigest()[:8]}", "") for file in files.values()
    }
    table = cli("score", tmp_path / "nameless", *where).stdout
    names = {line.split()[2] for line in table.splitlines() if line.startswith("tiny val")}
    assert names == {f"replay-{row['digest']}" for row in rows}
    for mistake in (["--name", "../up"], ["--name", ""], ["--source", "x"]):
        extra = mistake if mistake[0] == "--source" else ["--predictions", files[9], *mistake]
        place = [tmp_path / "named"] if mistake[0] == "--source" else ["--out", tmp_path / "no"]
        assert cli("score", *place, *where, *extra).returncode == 2


def test_one_name_over_several_splits_is_noted_for_weights_alone(tmp_path: Path) -> None:
    """Other weights on another split are other checkpoints; another predictions file is not."""
    rows = [score(i, 0.5) for i in range(4)]
    looked_up = {"title": "Theirs", "sees_ground_truth": False, "timed": False}
    for split, digest in (("val", "1"), ("testA", "2")):
        write_run(tmp_path, rows, model="trained", split=split, weight_digest=digest * 64)
        write_run(tmp_path, rows, model="theirs", split=split, weight_digest=digest * 64, model_card=looked_up)
    write_run(tmp_path, rows, model="same", split="val")
    write_run(tmp_path, rows, model="same", split="testA")
    noted = {r.model for r in board(tmp_path).rows if "per-benchmark checkpoints" in r.notes}
    assert noted == {"trained"}


def test_arguments_that_differ_are_shown(tiny: Any, tmp_path: Path) -> None:
    for share in ("0.25", "0.5"):
        finish(tiny.plan("center", tmp_path, args={"share": share}))
    finish(tiny.plan("full", tmp_path))
    assert {(r.model, r.distinct) for r in whole(board(tmp_path))} == {
        ("center", "share=0.25"),
        ("center", "share=0.5"),
        ("full", ""),
    }


# ---------------------------------------------------------------------------------------------- the data root


def test_a_report_finds_the_data_of_its_run(tiny: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("LENS_BENCH_DATA", str(tmp_path / "elsewhere"))
    plan = tiny.plan("full", tmp_path / "out")
    finish(plan)
    (page,) = report([plan.files.root], None, PageOptions(suite=str(tiny.card_path), plots=False))
    assert page.pictures > 0
    (page,) = report([plan.files.root], None, PageOptions(tmp_path, suite=str(tiny.card_path), plots=False))
    assert page.pictures == 0


def test_scoring_again_finds_the_data_of_its_run(cli: Any, tiny: Any, tmp_path: Path) -> None:
    cli(*tiny.run("oracle", tmp_path / "out"))
    (folder,) = (tmp_path / "out/tiny/val").iterdir()
    result = cli("score", folder, "--suite", tiny.card_path, "--json")
    assert json.loads(result.stdout)["metrics"]["ciou"] == 1.0
    assert cli("score", folder, "--suite", tiny.card_path, "--data-root", tmp_path / "no").returncode == 4


def test_a_data_root_that_is_not_there_stays_so(cli: Any, tmp_path: Path) -> None:
    root = tmp_path / "typo"
    result = cli("run", "--suite", "shapes", "--model", "oracle", "--data-root", root, "--out", tmp_path / "out")
    assert result.returncode == 4
    assert not root.exists()
