from __future__ import annotations

import csv
import html as html_lib
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from lens_bench.errors import DataError, UsageError
from lens_bench.records import Score
from lens_bench.report.leaderboard import (
    Leaderboard,
    Row,
    build,
    rich_table,
    to_html,
    to_markdown,
    write_csv,
    write_html,
    write_markdown,
)
from lens_bench.report.published import COLUMNS
from lens_bench.run.files import RunFiles, read_json, write_json
from lens_bench.run.manifest import Settings

from .made_runs import perf, score, write_run

ROOT = Path(__file__).resolve().parents[2]
MEASURED = frozenset({"measured"})
ORACLE = {"title": "Oracle", "sees_ground_truth": True}
LIMITED = Settings(args={}, prompt={}, dtype="float32", engine=None, limit=20)


def scores(iou: float, n: int = 20) -> list[Score]:
    return [score(i, iou) for i in range(n)]


def board(folder: Path, **changes: object) -> Leaderboard:
    return build(folder, folder / "none.csv", include=MEASURED, **changes)  # type: ignore[arg-type]


def whole(found: Leaderboard) -> list[Row]:
    return [row for row in found.rows if not row.subset]


def places(found: Leaderboard) -> list[tuple[str, str]]:
    return [(r.model, "-" if r.rank is None else f"{r.rank}/{r.ranked}") for r in whole(found)]


# ---------------------------------------------------------------------------------------------- who is ranked


RULES: dict[str, tuple[list[dict[str, object]], list[tuple[str, str]]]] = {
    "same protocol and content": (
        [{"model": "low", "iou": 0.3}, {"model": "high", "iou": 0.8}],
        [("high", "1/2"), ("low", "2/2")],
    ),
    "equal values share a place": (
        [{"model": "a", "iou": 0.5}, {"model": "b", "iou": 0.5}, {"model": "c", "iou": 0.4}],
        [("a", "1/3"), ("b", "1/3"), ("c", "3/3")],
    ),
    "another protocol is another group": (
        [{"model": "a", "iou": 0.3}, {"model": "b", "iou": 0.8, "protocol": "lens"}],
        [("b", "1/1"), ("a", "1/1")],
    ),
    "another content is another group": (
        [{"model": "a", "iou": 0.3}, {"model": "b", "iou": 0.8, "suite_hash": "b" * 64}],
        [("a", "1/1"), ("b", "1/1")],
    ),
    "an oracle has no place": (
        [{"model": "a", "iou": 0.3}, {"model": "oracle", "iou": 1.0, "model_card": ORACLE}],
        [("a", "1/1"), ("oracle", "-")],
    ),
    "an incomplete run has no place": (
        [{"model": "a", "iou": 0.3}, {"model": "half", "iou": 0.8, "n_samples": 40}],
        [("a", "1/1"), ("half", "-")],
    ),
    "a limited run has no place": (
        [{"model": "a", "iou": 0.3}, {"model": "first", "iou": 0.8, "settings": LIMITED}],
        [("a", "1/1"), ("first", "-")],
    ),
    "checkpoints of one name are both ranked": (
        [{"model": "a", "iou": 0.3}, {"model": "a", "iou": 0.8, "weight_digest": "v" * 64}],
        [("a", "1/2"), ("a", "2/2")],
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_who_is_ranked_with_whom(tmp_path: Path, rule: str) -> None:
    made, expected = RULES[rule]
    for entry in made:
        values = dict(entry)
        write_run(tmp_path, scores(values.pop("iou")), **values)  # type: ignore[arg-type]
    assert places(board(tmp_path)) == expected


def test_a_rate_of_failures_is_better_when_lower(tmp_path: Path) -> None:
    write_run(tmp_path, [score(i, 0.5, status="error" if i < 4 else "ok") for i in range(20)], model="frail")
    write_run(tmp_path, scores(0.5), model="sound")
    assert places(board(tmp_path, metric="error_rate")) == [("sound", "1/2"), ("frail", "2/2")]


def test_splits_stand_apart(tmp_path: Path) -> None:
    for suite, split in (("refcocog", "val"), ("refcoco", "testA"), ("refcoco", "val")):
        write_run(tmp_path, scores(0.5), suite=suite, split=split)
    found = whole(board(tmp_path))
    assert [(r.suite, r.split, r.rank) for r in found] == [
        ("refcoco", "val", 1),
        ("refcoco", "testA", 1),
        ("refcocog", "val", 1),
    ]
    assert {r.suite for r in board(tmp_path, suite="refcoco").rows} == {"refcoco"}


def test_tags_are_cells_of_their_own(tmp_path: Path) -> None:
    write_run(tmp_path, [score(i, 0.9 if i % 2 else 0.1) for i in range(20)], model="odd")
    write_run(tmp_path, [score(i, 0.1 if i % 2 else 0.9) for i in range(20)], model="even")
    best = {r.subset: r.model for r in board(tmp_path).rows if r.rank == 1 and r.subset}
    assert best == {"odd": "odd", "even": "even"}
    assert all(r.low is not None and r.n_samples == 10 for r in board(tmp_path).rows if r.subset)


# ---------------------------------------------------------------------------------------------- what a row says


def test_a_measured_row_carries_where_it_comes_from(tmp_path: Path) -> None:
    files = write_run(tmp_path / "runs", scores(0.6), speed=perf(peak_device_mb=900.0))
    row = whole(board(tmp_path))[0]
    summary = read_json(files.summary)
    low, high = summary["ci95"]["ciou"]  # type: ignore[index]
    assert (row.value, row.low, row.high) == (pytest.approx(0.6), low, high)
    assert (row.protocol, row.weight_digest, row.suite_hash) == ("strict", "w" * 64, "a" * 64)
    assert (row.date, row.n_samples, row.digest) == ("2026-01-01T00:00:00+00:00", 20, summary["digest"])
    assert row.path == files.root.relative_to(tmp_path).as_posix()
    assert row.speed is not None
    assert (row.speed.images_per_s, row.speed.p50_ms, row.speed.p99_ms) == (5.0, 100.0, 200.0)
    assert (row.speed.peak_memory_mb, row.speed.memory_of, row.speed.comparable) == (900.0, "device", True)


def test_speed_that_compares_with_nothing_says_so_everywhere(tmp_path: Path) -> None:
    write_run(tmp_path, scores(0.6), speed=perf(comparable=False, reasons=["resumed: 7 expressions"]))
    found = board(tmp_path)
    assert "(5.00)" in to_markdown(found)
    assert "speed not comparable: resumed: 7 expressions" in to_markdown(found)
    write_csv(found, tmp_path / "out.csv")
    rows = list(csv.DictReader((tmp_path / "out.csv").open(encoding="utf-8")))
    assert {r["speed_comparable"] for r in rows if not r["subset"]} == {"no"}


def test_speeds_stand_beside_the_hardware_they_were_measured_on(tmp_path: Path) -> None:
    write_run(tmp_path, scores(0.6), model="a", speed=perf(hardware="Processor A"))
    write_run(tmp_path, scores(0.5), model="b", speed=perf(hardware="Accelerator B"))
    for text in (to_markdown(board(tmp_path)), to_html(board(tmp_path)), shown(board(tmp_path), 250)):
        assert "Processor A" in text
        assert "Accelerator B" in text


def test_a_run_without_speed_or_latency(tmp_path: Path) -> None:
    write_run(tmp_path, scores(0.6), model="none")
    write_run(tmp_path, scores(0.5), model="bare", speed=perf(latency_ms=None, images_per_s=None, peak_rss_mb=None))
    found = whole(board(tmp_path))
    assert found[0].speed is None
    assert found[1].speed is not None
    assert (found[1].speed.p50_ms, found[1].speed.memory_of) == (None, "")
    assert "p50" not in to_markdown(board(tmp_path))


def test_an_incomplete_run_says_how_far_it_came(tmp_path: Path) -> None:
    write_run(tmp_path, scores(0.6), n_samples=40)
    assert whole(board(tmp_path))[0].notes == ("incomplete: 20 of 40 expressions",)


def test_a_model_with_several_weights_is_flagged_on_every_row(tmp_path: Path) -> None:
    write_run(tmp_path, scores(0.6), model="lens", split="val", weight_digest="1" * 64)
    write_run(tmp_path, scores(0.6), model="lens", split="test", weight_digest="2" * 64)
    write_run(tmp_path, scores(0.6), model="other", split="val", weight_digest="1" * 64)
    flags = {(r.model, r.split): "per-benchmark checkpoints" in r.notes for r in board(tmp_path).rows}
    assert flags == {("lens", "val"): True, ("lens", "test"): True, ("other", "val"): False}
    assert "per-benchmark checkpoints" in to_html(board(tmp_path, suite="toy"))


# ---------------------------------------------------------------------------------------------- what is left out


def test_unmerged_shards_are_left_out_with_a_note_and_merged_ones_silently(tmp_path: Path) -> None:
    files = write_run(tmp_path, scores(0.6))
    shard = files.root / "shards" / "1of2"
    shard.mkdir(parents=True)
    content = read_json(files.manifest)
    write_json(shard / "manifest.json", {**content, "shard": [1, 2]})
    assert board(tmp_path).notes == ()
    for path in (files.manifest, files.summary, files.scores):
        path.unlink()
    found = board(tmp_path)
    assert found.rows == ()
    assert found.notes == (f"left out {files.root.relative_to(tmp_path).as_posix()}: its shards are not merged",)


def test_a_shard_that_lies_elsewhere_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stray = write_run(tmp_path, scores(0.6), shard=(1, 1))
    found = board(tmp_path)
    assert found.rows == ()
    assert ["does not lie in shards/1of1" in error.message for error in found.damaged] == [True]
    monkeypatch.chdir(stray.root)
    assert len(build(Path(), tmp_path / "none.csv", include=MEASURED).damaged) == 1


def test_directories_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    write_run(tmp_path, scores(0.6), model="good")
    unfinished = write_run(tmp_path, scores(0.6), model="unfinished")
    unfinished.summary.unlink()
    broken = write_run(tmp_path, scores(0.6), model="broken")
    broken.manifest.write_text("{", encoding="utf-8")
    foreign = write_run(tmp_path, scores(0.6), model="foreign")
    write_json(foreign.summary, read_json(foreign.summary) | {"digest": "00000000"})
    old = write_run(tmp_path, scores(0.6), model="old")
    write_json(old.manifest, read_json(old.manifest) | {"schema_version": 0})
    bare = write_run(tmp_path, scores(0.6), model="bare")
    write_json(bare.summary, {k: v for k, v in read_json(bare.summary).items() if k != "ci95"})
    found = board(tmp_path)
    assert [r.model for r in whole(found)] == ["good"]
    assert len(found.notes) == 5
    for files in (unfinished, broken, foreign, old, bare):
        assert sum(files.root.name in note for note in found.notes) == 1


def test_a_run_under_several_protocols_has_a_row_for_each(tmp_path: Path) -> None:
    write_run(tmp_path, scores(0.6), model="a", also=["lisa", "gres"])
    write_run(tmp_path, scores(0.5), model="b", also=["lisa"])
    found = board(tmp_path)
    assert {(r.protocol, r.model, f"{r.rank}/{r.ranked}") for r in whole(found)} == {
        ("strict", "a", "1/2"),
        ("strict", "b", "2/2"),
        ("lisa", "a", "1/2"),
        ("lisa", "b", "2/2"),
        ("gres", "a", "1/1"),
    }
    write_csv(found, tmp_path / "out.csv")
    rows = [r for r in csv.DictReader((tmp_path / "out.csv").open(encoding="utf-8")) if not r["subset"]]
    assert sorted(r["protocol"] for r in rows) == ["gres", "lisa", "lisa", "strict", "strict"]
    for text in (to_html(found), to_markdown(found), shown(found, 250)):
        assert all(name in text for name in ("gres", "lisa", "strict"))


def test_altered_scores_are_not_ranked(tmp_path: Path) -> None:
    write_run(tmp_path, scores(0.6), model="good")
    forged = write_run(tmp_path, scores(0.5), model="forged", also=["lisa"])
    summary = read_json(forged.summary)
    summary["metrics"]["ciou"] = 0.99  # type: ignore[index]
    write_json(forged.summary, summary)
    found = board(tmp_path)
    assert {(r.protocol, r.model) for r in whole(found)} == {("strict", "good"), ("lisa", "forged")}
    (error,) = found.damaged
    assert "metrics.ciou is not that of scores.jsonl" in error.message
    assert [note for note in found.notes if "forged" in note and "metrics.ciou" in note]
    other = read_json(forged.other_summary("lisa"))
    write_json(forged.other_summary("lisa"), other | {"perf": 7})
    found = board(tmp_path)
    assert [r.model for r in whole(found)] == ["good"]
    assert any("under lisa" in note for note in found.notes)


def test_a_run_that_is_not_finished_is_no_damage(tmp_path: Path) -> None:
    files = write_run(tmp_path, scores(0.6))
    files.summary.unlink()
    files.scores.unlink()
    found = board(tmp_path)
    assert found.damaged == ()
    assert "it is not finished" in found.notes[0]


def test_a_copied_run_counts_once(tmp_path: Path) -> None:
    write_run(tmp_path / "a", scores(0.6), created="2026-01-01T00:00:00+00:00")
    write_run(tmp_path / "b", scores(0.7), created="2026-02-01T00:00:00+00:00")
    write_run(tmp_path / "c", scores(0.8), created="2025-12-01T00:00:00+00:00")
    found = board(tmp_path)
    assert [round(r.value, 3) for r in whole(found)] == [0.7]
    assert sorted(note.split("/")[0] for note in found.notes) == ["left out a", "left out c"]


def test_nothing_at_all(tmp_path: Path) -> None:
    found = board(tmp_path / "absent")
    assert found == Leaderboard("ciou", (), (), ())
    assert "No result." in to_markdown(found)
    assert "No result." in to_html(found)
    assert "no result" in shown(found)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"suite": "tooy"}, "did you mean toy"),
        ({"metric": "cious"}, "did you mean ciou"),
        ({"include": frozenset({"printed"})}, "measured, published"),
        ({"include": frozenset()}, "measured, published"),
    ],
)
def test_what_does_not_exist_is_a_usage_error(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    write_run(tmp_path, scores(0.6))
    with pytest.raises(UsageError) as caught:
        build(tmp_path, tmp_path / "none.csv", **({"include": MEASURED} | changes))  # type: ignore[arg-type]
    assert words in caught.value.hint


def test_published_numbers_must_be_there_where_they_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no published numbers"):
        build(tmp_path, tmp_path / "none.csv")


# ---------------------------------------------------------------------------------------------- published rows


PRINTED = {
    "suite": "toy",
    "split": "val",
    "metric": "ciou",
    "unit": "percent",
    "source": "Table 1",
    "evidence": "paper",
    "verified": "yes",
}


def published(path: Path, *rows: dict[str, str]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(PRINTED | row for row in rows)
    return path


def test_published_rows_are_ranked_only_among_themselves_and_by_stated_protocol(tmp_path: Path) -> None:
    write_run(tmp_path, scores(0.6), model="ours")
    file = published(
        tmp_path / "p.csv",
        {"model": "best", "value": "90.0"},
        {"model": "next", "value": "80"},
        {"model": "strict too", "value": "85.0", "protocol": "strict"},
        {"model": "doubted", "value": "99.0", "disputed": "yes", "note": "why"},
        {"model": "recalled", "value": "98.0", "evidence": "recall", "verified": "no"},
        {"model": "cheat", "value": "97.0", "sees_ground_truth": "yes"},
    )
    found = build(tmp_path, file)
    assert dict(places(found)) == {
        "ours": "1/1",
        "best": "1/2",
        "next": "2/2",
        "strict too": "1/1",
        "doubted": "-",
        "recalled": "-",
        "cheat": "-",
    }
    assert next(r.model for r in whole(found)) == "ours"
    text = to_markdown(found)
    assert "| 90.0 |" in text
    assert "| 80 |" in text, "a published value stands as printed"
    assert "disputed; why" in text
    assert "unverified" in text
    assert [r.model for r in build(tmp_path, file, include=frozenset({"published"})).rows if r.rank == 1] == [
        "best",
        "strict too",
    ]


def test_the_shipped_numbers_build_a_leaderboard_of_every_metric() -> None:
    file = ROOT / "results" / "published.csv"
    for metric in ("ciou", "giou", "box_acc_0.5", "n_acc"):
        found = build(ROOT / "tests" / "absent", file, metric=metric)
        assert found.rows
        assert to_html(found)
    assert {r.metric for r in build(ROOT / "tests" / "absent", file, suite="gseval", metric="giou").rows} == {"giou"}


def test_the_shipped_leaderboard_has_the_columns_and_published_rows_that_would_be_written_now(tmp_path: Path) -> None:
    found = build(ROOT / "tests" / "absent", ROOT / "results" / "published.csv")
    write_csv(found, tmp_path / "now.csv")
    tables = []
    for path in (ROOT / "results" / "leaderboard.csv", tmp_path / "now.csv"):
        with path.open(encoding="utf-8", newline="") as stream:
            head, *rows = csv.reader(stream)
        tables.append([head, *(row for row in rows if row[0] == "published")])
    assert tables[0] == tables[1]


# ---------------------------------------------------------------------------------------------- writers


def shown(found: Leaderboard, width: int = 160) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(rich_table(found))
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def test_csv_holds_every_row_once_and_reads_back(tmp_path: Path) -> None:
    write_run(tmp_path, scores(0.6), speed=perf())
    found = board(tmp_path)
    path = tmp_path / "new" / "leaderboard.csv"
    write_csv(found, path)
    rows = list(csv.DictReader(path.open(encoding="utf-8", newline="")))
    assert len(rows) == len(found.rows)
    first = rows[0]
    assert (first["rank"], first["ranked"], first["model"], first["complete"]) == ("1", "1", "model-a", "yes")
    assert float(first["value"]) == pytest.approx(0.6)
    assert float(first["images_per_s"]) == 5.0
    again = path.read_bytes()
    write_csv(found, path)
    assert path.read_bytes() == again


HOSTILE = "<script>alert(1)</script>|*x*[red]`"


def hostile(tmp_path: Path) -> Leaderboard:
    file = published(
        tmp_path / "p.csv",
        {"model": HOSTILE, "value": "50.0", "source": HOSTILE, "note": f'"><img src=x onerror=alert(1)>\n{HOSTILE}'},
    )
    found = build(tmp_path, file)
    return replace(found, notes=(f"left out {HOSTILE}",))


def test_html_escapes_every_text(tmp_path: Path) -> None:
    page = to_html(hostile(tmp_path))
    assert html_lib.escape(HOSTILE) in page
    assert page.count("<script>") == 1, "only the page's own"
    assert "<img" not in page
    assert not re.search(r"(?:src|href)\s*=", page.replace("img src=x", "")), "nothing is fetched"
    assert "http:" not in page.replace("http-equiv", "")
    assert "https:" not in page


def test_markdown_and_terminal_take_no_text_for_markup(tmp_path: Path) -> None:
    found = hostile(tmp_path)
    text = to_markdown(found)
    assert "<script>" not in text
    table = [line for line in text.splitlines() if "50.0" in line]
    assert len(table) == 1
    assert len(re.split(r"(?<!\\)\|", table[0])) == 8, "six columns"
    assert "[red]" in shown(found).replace("\n", "")


def test_files_are_written(tmp_path: Path) -> None:
    write_run(tmp_path, scores(0.6))
    found = board(tmp_path)
    write_markdown(found, tmp_path / "x" / "board.md")
    write_html(found, tmp_path / "x" / "board.html")
    assert (tmp_path / "x" / "board.md").read_text(encoding="utf-8") == to_markdown(found)
    page = (tmp_path / "x" / "board.html").read_text(encoding="utf-8")
    assert page == to_html(found)
    assert page.startswith("<!doctype html>")


def test_terminal_shows_ranks_and_intervals(tmp_path: Path) -> None:
    write_run(tmp_path, [score(i, 0.3 + 0.02 * i) for i in range(20)])
    text = shown(board(tmp_path))
    assert "1/1" in text
    assert re.search(r"\d\d\.\d–\d\d\.\d", text)


def test_importing_the_leaderboard_imports_nothing_heavy() -> None:
    code = (
        "import sys, json; import lens_bench.report.leaderboard; "
        "print(json.dumps([m for m in ('torch', 'transformers', 'matplotlib', 'pandas') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_a_run_directory_object_is_what_find_runs_gives(tmp_path: Path) -> None:
    files = write_run(tmp_path, scores(0.6))
    assert RunFiles(tmp_path / whole(board(tmp_path))[0].path) == files
