"""The commands that work on finished runs, as a user meets them."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest


@pytest.fixture(scope="module")
def runs(cli: Any, tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A good, an equal and a bad model on the tiny suite."""
    out = tmp_path_factory.mktemp("runs") / "runs"
    found = {}
    for name, rate in {"good": "0", "same": "0.0000001", "bad": "0.6"}.items():
        command = tiny.run("noisy-oracle", out / name, "--model-arg", f"error_rate={rate}", "--json")
        found[name] = Path(json.loads(cli(*command).stdout)["run"])
    full = json.loads(cli(*tiny.run("full", out / "full", "--json")).stdout)
    return {**found, "full": Path(full["run"]), "out": out, "card": tiny.card_path, "data": tiny.data_root}


def test_compare(cli: Any, runs: dict[str, Path], tmp_path: Path) -> None:
    shown = cli("compare", runs["good"], runs["bad"], "--markdown", tmp_path / "c.md")
    assert shown.returncode == 0, shown.stderr
    assert "72 expressions of 12 images" in shown.stdout
    assert "cIoU" in (tmp_path / "c.md").read_text()
    (comparison,) = json.loads(cli("compare", runs["good"], runs["bad"], "--json").stdout)["comparisons"]
    assert comparison["n_shared"] == 72


def test_compare_refuses_another_protocol(cli: Any, tiny: Any, runs: dict[str, Path], tmp_path: Path) -> None:
    lisa = json.loads(cli(*tiny.run("full", tmp_path, "--protocol", "lisa", "--json")).stdout)["run"]
    result = cli("compare", runs["full"], lisa)
    assert result.returncode in (2, 4)
    assert "lisa" in result.stderr


def test_runs_of_different_protocols_under_one_of_them(
    cli: Any, tiny: Any, runs: dict[str, Path], tmp_path: Path
) -> None:
    lisa = json.loads(cli(*tiny.run("full", tmp_path, "--protocol", "lisa", "--json")).stdout)["run"]
    where = ["--suite", tiny.card_path, "--data-root", tiny.data_root]
    assert cli("score", lisa, "--protocol", "strict", *where).returncode == 0
    found = cli("compare", runs["full"], lisa, "--protocol", "strict", "--json")
    assert found.returncode == 0, found.stderr
    (comparison,) = json.loads(found.stdout)["comparisons"]
    assert (comparison["protocol"], comparison["overall"]["metrics"][0]["delta"]) == ("strict", 0.0)
    reference = tmp_path / "gate.json"
    assert cli("gate", runs["full"], "--against", reference, "--update").returncode == 0
    own = cli("gate", lisa, "--against", reference)
    assert own.returncode == 2
    assert "--protocol strict" in own.stderr
    assert cli("gate", lisa, "--against", reference, "--protocol", "strict").returncode == 0
    for more, name in (([], "lisa"), (["--protocol", "strict"], "strict")):
        made = cli("gate", lisa, "--against", tmp_path / f"{name}.json", "--update", *more)
        assert made.returncode == 0, made.stderr
        assert json.loads((tmp_path / f"{name}.json").read_text())["protocol"] == name
    page = cli("report", lisa, "--protocol", "strict", "-o", tmp_path / "page.html", *where)
    assert page.returncode == 0, page.stderr
    assert "protocol strict" in (tmp_path / "page.html").read_text()
    never = cli("report", lisa, "--protocol", "gres", "-o", tmp_path / "page.html", *where)
    assert never.returncode == 4
    assert "is not scored under gres" in " ".join(never.stderr.split())


def test_no_command_believes_a_forged_run(cli: Any, runs: dict[str, Path], tmp_path: Path) -> None:
    """Scores that were made better in one row, and a summary that fits them: the row is not one of its protocol."""
    forged = tmp_path / "runs" / "forged"
    shutil.copytree(runs["bad"], forged)
    reference = tmp_path / "gate.json"
    assert cli("gate", runs["good"], "--against", reference, "--update").returncode == 0
    rows = [json.loads(line) for line in (forged / "scores.jsonl").read_text().splitlines()]
    rows[5] |= {"intersection": rows[5]["union"] + 1, "iou": 1.0}
    (forged / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = json.loads((forged / "summary.json").read_text())
    summary["scores_sha256"] = hashlib.sha256((forged / "scores.jsonl").read_bytes()).hexdigest()
    (forged / "summary.json").write_text(json.dumps(summary))
    for command in (
        ["show", forged],
        ["compare", runs["good"], forged],
        ["gate", forged, "--against", reference],
        ["gate", forged, "--against", tmp_path / "new.json", "--update"],
        ["report", forged, "-o", tmp_path / "page.html"],
        ["leaderboard", "--results", tmp_path / "runs", "--include", "measured"],
    ):
        result = cli(*command)
        assert result.returncode == 4, (command, result.stderr)
        assert f"the score of {rows[5]['sample_id']} is not one of strict: intersection" in result.stderr, command
        assert f"`lens-bench score {forged} --protocol strict`" in result.stderr, command
    assert not (tmp_path / "new.json").exists()
    assert not (tmp_path / "page.html").exists()
    repaired = cli("score", forged, "--json", "--suite", runs["card"], "--data-root", runs["data"])
    assert repaired.returncode == 0, repaired.stderr
    assert (forged / "scores.jsonl").read_bytes() == (runs["bad"] / "scores.jsonl").read_bytes()
    assert cli("show", forged).returncode == 0


def test_no_command_believes_scores_of_other_predictions(cli: Any, runs: dict[str, Path], tmp_path: Path) -> None:
    edited = tmp_path / "runs" / "edited"
    shutil.copytree(runs["bad"], edited)
    reference = tmp_path / "gate.json"
    assert cli("gate", runs["good"], "--against", reference, "--update").returncode == 0
    lines = (runs["good"] / "predictions.jsonl").read_text().splitlines(keepends=True)
    (edited / "predictions.jsonl").write_text("".join(lines))
    for command in (
        ["show", edited],
        ["compare", runs["good"], edited],
        ["gate", edited, "--against", reference],
        ["leaderboard", "--results", tmp_path / "runs", "--include", "measured"],
    ):
        result = cli(*command)
        assert result.returncode == 4, (command, result.stderr)
        assert "is not what was scored" in " ".join(result.stderr.split()), command
    assert cli("score", edited, "--suite", runs["card"], "--data-root", runs["data"]).returncode == 0
    assert (edited / "scores.jsonl").read_bytes() == (runs["good"] / "scores.jsonl").read_bytes()


def test_a_damaged_run_is_named_and_the_rest_is_shown(cli: Any, tiny: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for model in ("full", "empty"):
        assert cli(*tiny.run(model, out)).returncode == 0
    (damaged,) = (out / "tiny/val").glob("empty-*")
    (damaged / "manifest.json").write_text("[" * 100_000)
    for command, shown in (
        (["leaderboard", "--results", out, "--suite", "tiny", "--include", "measured"], "full"),
        (["compare", out, out], "72 expressions of 12 images"),
        (["report", out, "--suite", tiny.card_path, "--data-root", tiny.data_root], "report.html"),
    ):
        result = cli(*command)
        assert result.returncode == 4, result.stderr
        assert shown in result.stdout
        assert "nested too deeply" in " ".join(result.stderr.split())
        assert "Traceback" not in result.stderr


def test_an_update_that_lowers_the_reference_needs_yes(cli: Any, runs: dict[str, Path], tmp_path: Path) -> None:
    reference = tmp_path / "gate.json"
    update = ("--against", reference, "--update")
    assert cli("gate", runs["bad"], *update).returncode == 0
    raised = cli("gate", runs["good"], *update)
    assert raised.returncode == 0, raised.stderr
    assert "before cIoU" in raised.stdout
    better = reference.read_bytes()
    lowered = cli("gate", runs["bad"], *update)
    assert lowered.returncode == 2
    assert "the update would lower cIoU from" in " ".join(lowered.stderr.split()) and "--yes" in lowered.stderr
    assert cli("gate", runs["good"], *update, "--metric", "giou").returncode == 2  # judges something else
    assert reference.read_bytes() == better
    assert cli("gate", runs["good"], *update).returncode == 0  # the same again
    assert cli("gate", runs["bad"], *update, "--yes").returncode == 0
    assert reference.read_bytes() != better
    assert cli("gate", runs["bad"], "--against", reference, "--yes").returncode == 2


def test_gate(cli: Any, runs: dict[str, Path], tmp_path: Path) -> None:
    reference = tmp_path / "gates/tiny.json"
    made = cli("gate", runs["good"], "--against", reference, "--update", "--margin", "1.5")
    assert made.returncode == 0, made.stderr
    assert "margin 1.5 points" in made.stdout
    passed = cli("gate", runs["same"], "--against", reference, "--json")
    assert passed.returncode == 0, passed.stderr
    assert json.loads(passed.stdout)["answer"] == "pass"
    extra = ["--junit", tmp_path / "gate.xml", "--markdown", tmp_path / "gate.md"]
    failed = cli("gate", runs["bad"], "--against", reference, *extra)
    assert failed.returncode == 3
    assert "error:" in failed.stderr
    assert ElementTree.parse(tmp_path / "gate.xml").getroot().find(".//failure") is not None
    assert "regression" in (tmp_path / "gate.md").read_text()


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--margin", "2"], 2, "--update"),
        (["--update", "--tolerance", "latency"], 2, "figure=ratio"),
        ([], 4, "nowhere.json"),
    ],
)
def test_gate_mistakes(cli: Any, runs: dict[str, Path], tmp_path: Path, more: list[str], code: int, words: str) -> None:
    result = cli("gate", runs["good"], "--against", tmp_path / "nowhere.json", *more)
    assert (result.returncode, words in result.stderr) == (code, True), result.stderr


def test_leaderboard(cli: Any, runs: dict[str, Path], tmp_path: Path) -> None:
    shown = cli("leaderboard", "--results", runs["out"], "--suite", "tiny")
    assert shown.returncode == 0, shown.stderr
    assert "oracle: sees the ground" in shown.stdout  # the column is folded
    assert "(error_rate=0.6)" in shown.stdout
    folder = runs["out"].parent
    assert not list(folder.glob("leaderboard*"))  # a selection is shown, and replaces nothing
    assert cli("leaderboard", "--results", runs["out"]).returncode == 0
    whole = (folder / "leaderboard.csv").read_bytes()
    for more in (["--suite", "tiny"], ["--metric", "giou"], ["--include", "measured"]):
        assert cli("leaderboard", "--results", runs["out"], "--format", "csv", *more).returncode == 0
    assert (folder / "leaderboard.csv").read_bytes() == whole
    names = {p.name for p in folder.glob("leaderboard*")}
    assert names == {"leaderboard.csv", *(f"leaderboard-{n}.csv" for n in ("tiny", "giou", "measured"))}
    with (runs["out"].parent / "leaderboard.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["suite"] == "tiny"]
    assert {row["model"] for row in rows} >= {"noisy-oracle", "full"}
    for kind in ("md", "html", "csv"):
        target = tmp_path / f"board.{kind}"
        assert cli("leaderboard", "--results", runs["out"], "--format", kind, "-o", target).returncode == 0
        assert "LENS-3B" in target.read_text()
    published = cli("leaderboard", "--results", tmp_path / "none", "--include", "published", "--suite", "refcoco")
    assert "LENS-3B" in published.stdout and "there is no folder" not in published.stderr
    mistaken = cli("leaderboard", "--results", tmp_path / "nowhere", "-o", tmp_path / "board.csv", "--suite", "refcoco")
    assert f"there is no folder {tmp_path / 'nowhere'}, so nothing measured is shown" in mistaken.stderr
    wrong = cli("leaderboard", "--results", runs["out"], "--metric", "cio")
    assert wrong.returncode == 2
    assert "ciou" in wrong.stderr


def test_report(cli: Any, tiny: Any, runs: dict[str, Path], tmp_path: Path) -> None:
    where = ["--data-root", tiny.data_root, "--suite", tiny.card_path]
    page, plots = tmp_path / "page.html", tmp_path / "plots"
    result = cli("report", runs["good"], runs["bad"], "-o", page, "--plots", plots, *where)
    assert result.returncode == 0, result.stderr
    text = page.read_text()
    assert "thing 0 0" in text  # an expression of the suite
    assert not re.search(r"(?:src|href)=[\"']https?:", text)
    assert {p.suffix for p in plots.iterdir()} == {".svg", ".png"}
    alone = cli("report", runs["full"], *where)
    assert alone.returncode == 0
    assert (runs["full"] / "report.html").exists()


def write_stage(folder: Path, recipe: dict[str, object], lines: list[dict[str, object]], *, done: bool = True) -> None:
    """A stage's folder as a training leaves it."""
    (folder / "final" if done else folder).mkdir(parents=True)
    (folder / "recipe.json").write_text(json.dumps({"recipe": recipe}))
    (folder / "train_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_training_has_curves_and_a_page(cli: Any, tmp_path: Path) -> None:
    folder = tmp_path / "nano-stage2"
    folder.mkdir()
    lines = [{"step": n, "loss": 1 / (n + 1), "reward/total": n / 10, "kl": 0.01 * n} for n in range(10)]
    (folder / "train_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    drawn = cli("report", folder, "--plots", tmp_path / "plots")
    assert drawn.returncode == 0, drawn.stderr
    assert {p.name for p in (tmp_path / "plots").iterdir()} == {"training.svg", "training.png"}
    assert "0.000 → 0.900" in (folder / "report.html").read_text()
    refused = cli("report", folder / "train_log.jsonl")
    assert refused.returncode == 2
    assert "--plots DIR" in refused.stderr
    (folder / "train_log.jsonl").write_text("")
    assert "has not done a step yet" in cli("report", folder).stderr


def test_the_page_of_a_chain_has_every_stage_in_order(cli: Any, tmp_path: Path) -> None:
    chain = tmp_path / "<all>"
    evaluation = {"split": "shapes/val", "samples": 16}
    first = [{"step": n, "loss": 2.0 - n / 10, "seconds": 30.0} for n in range(1, 11)]
    write_stage(chain / "2-first", {"stage": "supervised", "optimiser": {"steps": 10}, "text": {"weight": 0}}, first)
    second: list[dict[str, object]] = [
        {"step": n, "loss": 0.5, "seconds": 0.5, "reward/total": n / 20, "reward/box": n / 40} for n in range(1, 21)
    ]
    for step, giou in ((10, 0.25), (15, 0.5), (20, 0.375)):
        second[step - 1] |= {"eval/giou": giou, "eval/failed": giou / 10, "eval/loss_bce": giou}
    grpo = {"stage": "grpo", "optimiser": {"steps": 40}, "evaluation": evaluation}
    write_stage(chain / "10-second", grpo, second, done=False)
    reasons = {"a": "broken image: cannot be read", "b": "broken image: cut off", "c": "empty annotation"}
    (chain / "10-second" / "left_out.json").write_text(json.dumps({"shapes/train": reasons, "shapes/val": {}}))
    (chain / "chain.json").write_text('{"stages": ["2-first", "10-second", "11-third"]}')
    result = cli("report", chain, "--plots", tmp_path / "plots")
    assert result.returncode == 0, result.stderr
    names = {f"training-{stage}.{kind}" for stage in ("2-first", "10-second") for kind in ("svg", "png")}
    assert {p.name for p in (tmp_path / "plots").iterdir()} == names
    text = (chain / "report.html").read_text()
    assert str(chain / "report.html") in result.stdout and "<h1>&lt;all&gt;</h1>" in text
    sections = re.split(r"<section", text)[1:]
    headings = [re.findall(r"<h2[^>]*>(.*?)</h2>", section)[0] for section in sections]
    assert headings == ["Stages", "2-first", "10-second", "11-third"]
    cell = re.compile(r"<t[hd][^>]*>(?:<a[^>]*>)?(.*?)(?:</a>)?</t[hd]>")
    rows = [cell.findall(row) for row in sections[0].split("<tr>")[2:]]
    measured = "gIoU 37.5 %, best 50.0 % at step 15"
    assert rows == [
        ["2-first", "masks after perfect answers", "10", "5.0 min", "1.900 → 1.000", "–", "–"],
        [
            "10-second",
            "GRPO",
            "20 of 40",
            "10 s",
            "0.500 → 0.500",
            "0.075 → 0.975",
            measured,
        ],
        ["11-third", "–", "not begun", "–", "–", "–", "–"],
    ]
    assert [section.count("data:image/svg+xml") for section in sections] == [0, 1, 1, 0]
    assert "Evaluations on shapes/val, 16 samples" in sections[2] and "50.0 % (step 15)" in sections[2]
    # Of failures and losses the smallest is the best; losses are no shares.
    assert "2.5 % (step 10)" in sections[2] and "0.250 (step 10)" in sections[2]
    cells = cell.findall(sections[2])
    assert cells[-6:] == ["shapes/train", "broken image", "2", "shapes/train", "empty annotation", "1"]
    assert "No step was done yet." in sections[3]
    assert not re.search(r"(?:src|href)=[\"']https?:", text) and "<script" not in text
    # One page for each of several trainings.
    folders = [chain / "2-first", chain / "10-second"]
    assert cli("report", *folders, "-o", tmp_path / "pages").returncode == 0
    assert {p.name for p in (tmp_path / "pages").iterdir()} == {"2-first-report.html", "10-second-report.html"}
    assert "is one file" in cli("report", *folders, "-o", tmp_path / "page.html").stderr


def test_view_serves_reports_on_loopback(cli: Any, tiny: Any, runs: dict[str, Path]) -> None:
    assert cli("report", runs["full"], "--data-root", tiny.data_root, "--suite", tiny.card_path).returncode == 0
    command = [sys.executable, "-u", "-m", "lens_bench.cli", "view", str(runs["out"]), "--port", "0"]
    command += ["--protocol", "lisa"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[0]
            assert url.startswith("http://127.0.0.1:")
            with urllib.request.urlopen(url, timeout=120) as index:
                text = index.read()
            assert b"report.html" in text
            assert b"not scored under lisa" in text
        finally:
            server.terminate()


def test_finished_runs_need_no_torch(runs: dict[str, Path]) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['lens-bench', 'compare', {str(runs['good'])!r}, {str(runs['bad'])!r}]\n"
        "from lens_bench.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
