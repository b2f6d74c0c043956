"""The command line as a user meets it: outputs, exit codes, hints."""

from __future__ import annotations

import csv
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lens_bench.scoring.protocols import PROTOCOLS

SHARED = Path(__file__).resolve().parents[2] / "shared"
needs_gseval = pytest.mark.skipif(
    not (SHARED / "data/gseval/GroundingSuite-Eval.jsonl").exists(), reason="../shared/data/gseval is absent"
)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["list"],
        ["list", "recipes"],
        ["list", "models", "--json"],
        ["show", "lisa"],
        ["run", "--help"],
    ],
)
def test_looking_things_up_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['lens-bench', *{arguments!r}]\n"
        "from lens_bench.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "heavy = {'torch', 'transformers', 'pandas', 'datasets', 'matplotlib', 'cv2'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_list(cli: Any) -> None:
    result = cli("list")
    assert result.returncode == 0
    for word in ("oracle", "replay", "refcoco+", "gseval", "shapes", "strict", "seg-zero"):
        assert word in result.stdout
    assert "crashing" not in result.stdout
    names = {m["name"] for m in json.loads(cli("list", "models", "--all", "--json").stdout)}
    assert {"oracle", "crashing", "oom"} <= names


@pytest.mark.parametrize("name", ["oracle", "noisy-oracle", "refcoco", "shapes", "strict", "lisa", "gres"])
def test_show(cli: Any, name: str) -> None:
    assert name in cli("show", name).stdout
    assert json.loads(cli("show", name, "--json").stdout)["name"] == name


def test_list_recipes(cli: Any) -> None:
    rows = {row["name"]: row for row in json.loads(cli("list", "recipes", "--json").stdout)}
    assert rows["lens-3b-stage2"]["splits"] == ["refcoco/train", "refcoco+/train", "refcocog/train"]
    assert rows["lens-3b-stage2"]["stages"] == ["grpo"] and rows["nano"]["stages"][-1] == "nano-stage2"
    assert json.loads(cli("list", "--json").stdout)["recipes"] == list(rows.values())
    assert "did you mean recipes" in cli("list", "recipe").stderr


def test_show_suggests_the_suites_of_a_model(cli: Any) -> None:
    shown = cli("show", "lens-3b").stdout
    assert "run it" in shown and "lens-bench run --suite refcoco,refcoco+,refcocog --model lens-3b" in shown
    assert "run it" not in cli("show", "oracle").stdout


def test_show_a_recipe(cli: Any, tmp_path: Path) -> None:
    shown = cli("show", "nano", "--data-root", tmp_path).stdout
    rows = [line.split(maxsplit=1) for line in shown.splitlines() if line.strip()]
    assert [row[1].strip() for row in rows if row[0] == "stage"] == [
        "nano-sam", "nano-vlm", "nano-sft", "nano-stage1", "nano-joint", "nano-stage2",
    ]  # fmt: skip
    assert [row[1].strip() for row in rows if row[0] == "steps"] == [
        "5,000",
        "4,000",
        "10,000",
        "1,500",
        "2,000",
        "120",
    ]
    starts = [row[1].strip() for row in rows if row[0] == "starts"]
    assert starts[0].startswith("from") and "drawn from the seed" in starts[0]
    assert starts[1].endswith("results/train/nano/1-nano-sam/final")
    for words in ("masks after perfect answers (supervised)", "shapes/train, by expression", "on 1 H100", "nano\n"):
        assert words in re.sub(" +\n", "\n", shown), words
    # What train --dry-run would say.
    dry = cli("train", "nano-stage2", "--dry-run", "--data-root", tmp_path).stdout
    for line in dry.splitlines():
        if line.startswith(("trainable", "step ", "memory")):
            assert line.strip() in shown


def test_a_name_of_a_model_and_a_recipe_is_shown_as_both(cli: Any, tmp_path: Path) -> None:
    shown = cli("show", "lens-3b-reasonseg-cot", "--json")
    found = json.loads(shown.stdout)
    assert found["adapter"] and found["recipe"]["stages"][0]["stage"] == "grpo"
    assert found["recipe"]["stages"][0]["model"]["prompt"]["question"] == found["args"]["question"]["default"]
    own = tmp_path / "own.yaml"
    own.write_text("base: nano-stage2\nname: own\nmodel: {like: null, checkpoint: nowhere}\n")
    shown = cli("show", own, "--data-root", tmp_path)
    assert shown.returncode == 0 and "not known: no checkpoint in nowhere" in shown.stdout
    assert json.loads(cli("show", own, "--json").stdout)["recipe"]["name"] == "own"


def test_env(cli: Any) -> None:
    content = json.loads(cli("env", "--json").stdout)
    assert content["packages"]["numpy"]
    assert content["cores"] >= 1


def test_run_prints_a_table_and_writes_the_files(cli: Any, tiny: Any, tmp_path: Path) -> None:
    result = cli(*tiny.run("oracle", tmp_path))
    assert result.returncode == 0, result.stderr
    assert "100.00 [100.0, 100.0]" in result.stdout
    assert "sees the ground truth" in result.stderr
    (folder,) = (tmp_path / "tiny/val").iterdir()
    assert {p.name for p in folder.iterdir()} >= {"manifest.json", "predictions.jsonl", "scores.jsonl", "summary.json"}
    again = cli(*tiny.run("oracle", tmp_path))
    assert again.returncode == 0
    assert "answered before" in again.stderr


def test_json_is_the_summary_and_nothing_else(cli: Any, tiny: Any, tmp_path: Path) -> None:
    summary = json.loads(cli(*tiny.run("oracle", tmp_path, "--json", "--limit", 7)).stdout)
    assert summary["metrics"]["ciou"] == 1.0
    assert summary["n_samples"] == 7
    stored = json.loads((Path(summary.pop("run")) / "summary.json").read_text())
    assert stored == summary


def test_dry_run_changes_nothing(cli: Any, tiny: Any, tmp_path: Path) -> None:
    result = cli(*tiny.run("oracle", tmp_path / "out", "--dry-run"))
    assert result.returncode == 0
    assert "72 on 12 images, 0 of them done" in result.stdout
    assert not (tmp_path / "out").exists()


def test_dry_run_says_what_is_missing(cli: Any, tmp_path: Path) -> None:
    result = cli("run", "--suite", "refcoco", "--model", "full", "--data-root", tmp_path, "--dry-run")
    assert result.returncode == 4
    for split in ("val", "testA", "testB"):
        assert f"refcoco {split}" in result.stdout
    assert "was not found" in result.stdout


def test_a_folder_of_runs_is_not_shown_and_one_of_them_is_named(cli: Any, tiny: Any, tmp_path: Path) -> None:
    cli(*tiny.run("oracle", tmp_path / "out"))
    (folder,) = (tmp_path / "out/tiny/val").iterdir()
    for place in (tmp_path, tmp_path / "out", tmp_path / "out/tiny/val"):
        result = cli("show", place)
        assert result.returncode == 2
        assert f"name one: {folder}" in result.stderr
    (tmp_path / "center").symlink_to(tmp_path / "out")
    assert cli("show", "center", cwd=tmp_path).returncode == 0  # the model of that name


def test_score_under_another_protocol(cli: Any, tiny: Any, tmp_path: Path) -> None:
    cli(*tiny.run("oracle", tmp_path))
    (folder,) = (tmp_path / "tiny/val").iterdir()
    where = ["--suite", tiny.card_path, "--data-root", tiny.data_root, "--json"]
    lisa = json.loads(cli("score", folder, "--protocol", "lisa", *where).stdout)
    assert lisa["protocol"] == "lisa"
    assert lisa["metrics"]["ciou"] < 1
    shown = cli("show", folder).stdout
    assert "parts overlap" in shown
    assert "{" not in shown
    assert "24 answers cover more than the target that lisa leaves" in shown
    both = [json.loads(line) for line in cli("score", tmp_path, *where).stdout.splitlines()]
    assert [summary["protocol"] for summary in both] == ["strict", "lisa"]
    assert both[0]["metrics"]["ciou"] == 1.0


def test_several_protocols_side_by_side(cli: Any, tiny: Any, tmp_path: Path) -> None:
    result = cli(*tiny.run("oracle", tmp_path, "--protocol", "strict,lisa", "--protocol", "gres"))
    assert result.returncode == 0, result.stderr
    (folder,) = (tmp_path / "tiny/val").iterdir()
    assert f"strict, lisa, gres protocols, {folder}" in result.stdout
    names = {"scores.jsonl", "summary.json"}
    names |= {"scores.lisa.jsonl", "summary.lisa.json", "scores.gres.jsonl", "summary.gres.json"}
    assert {p.name for p in folder.iterdir() if p.name.startswith(("scores", "summary"))} == names
    rows = [line.split() for line in cli("show", folder).stdout.splitlines() if line.startswith("tiny val")]
    assert [row[2] for row in rows] == ["strict", "lisa", "gres"]
    shown = json.loads(cli("show", folder, "--json").stdout)
    assert shown["protocol"] == "strict"
    assert {k: v["metrics"]["ciou"] < 1 for k, v in shown["other_protocols"].items()} == {"lisa": True, "gres": False}

    where = ["--suite", tiny.card_path, "--data-root", tiny.data_root]
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert before["summary.json"].count(b'"protocol": "strict"') == 1
    again = cli(*tiny.run("oracle", tmp_path, "--protocol", "lavt"))
    assert f"strict, lavt, lisa, gres protocols, {folder}" in again.stdout
    every = cli("score", folder, "--protocol", "all", "--json", *where)
    assert every.returncode == 0, every.stderr
    found = [json.loads(line)["protocol"] for line in every.stdout.splitlines()]
    assert found == ["strict", *(name for name in PROTOCOLS if name != "strict")]
    assert {name: (folder / name).read_bytes() for name in before} == before
    for name in PROTOCOLS:
        stored = json.loads((folder / ("summary.json" if name == "strict" else f"summary.{name}.json")).read_text())
        assert stored["protocol"] == name

    page = cli("report", folder, "-o", tmp_path / "page.html", "--plots", tmp_path / "plots", *where)
    assert page.returncode == 0, page.stderr
    rows = (tmp_path / "page.html").read_text().split('<section id="protocols"')[1].split("</section>")[0]
    assert sorted(re.findall(r'<th scope="row" title="[^"]*">([\w-]+)', rows)) == sorted(PROTOCOLS)
    bars = {p.stem.removeprefix("ciou-") for p in (tmp_path / "plots").glob("ciou-*.svg")}
    assert bars == set(PROTOCOLS)
    chosen = ["--suite", "tiny", "--include", "measured", "--format", "csv", "-o", tmp_path / "leaderboard.csv"]
    board = cli("leaderboard", "--results", tmp_path, *chosen)
    assert board.returncode == 0, board.stderr
    with (tmp_path / "leaderboard.csv").open() as stream:
        measured = [row["protocol"] for row in csv.DictReader(stream) if not row["subset"]]
    assert sorted(measured) == sorted(PROTOCOLS)
    chosen[5:] = ["md", "-o", tmp_path / "leaderboard.md"]
    assert cli("leaderboard", "--results", tmp_path, *chosen).returncode == 0
    lines = [line.split("|") for line in (tmp_path / "leaderboard.md").read_text().splitlines() if "| oracle |" in line]
    assert sorted(cells[5].strip() for cells in lines) == sorted(PROTOCOLS)

    for extra, code, words in (
        (["--protocol", "strict,"], 2, "--protocol names nothing"),
        (["--protocol", "lisa,lis"], 2, "did you mean lisa"),
    ):
        for command in (["score", folder, *where], tiny.run("oracle", tmp_path)):
            refused = cli(*command, *extra)
            assert (refused.returncode, words in refused.stderr) == (code, True), refused.stderr


def test_all_protocols_of_a_new_run(cli: Any, tiny: Any, tmp_path: Path) -> None:
    result = cli(*tiny.run("oracle", tmp_path, "--protocol", "all", "--json", "--limit", 9))
    assert result.returncode == 0, result.stderr
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [summary["protocol"] for summary in found] == list(PROTOCOLS)
    stored = {p.name for p in Path(found[0]["run"]).glob("summary*.json")}
    assert stored == {"summary.json", *(f"summary.{name}.json" for name in PROTOCOLS if name != "strict")}


def test_a_table_of_several_models_names_them(cli: Any, tiny: Any, tmp_path: Path) -> None:
    for model in ("oracle", "full"):
        cli(*tiny.run(model, tmp_path))
    shown = cli("score", tmp_path, "--suite", tiny.card_path, "--data-root", tiny.data_root)
    assert shown.returncode == 0, shown.stderr
    rows = [line.split()[2] for line in shown.stdout.splitlines() if line.startswith("tiny val")]
    assert sorted(rows) == ["full", "oracle"]


def test_a_damaged_run_does_not_keep_the_others_from_being_scored(cli: Any, tiny: Any, tmp_path: Path) -> None:
    for model in ("oracle", "full"):
        cli(*tiny.run(model, tmp_path))
    next((tmp_path / "tiny/val").glob("full-*/predictions.jsonl")).write_text("[]\n")
    result = cli("score", tmp_path, "--suite", tiny.card_path, "--data-root", tiny.data_root)
    assert result.returncode == 4
    assert "left out: " in result.stderr
    assert "predictions.jsonl, line 1 is not a JSON object" in " ".join(result.stderr.split())
    assert "oracle" in result.stdout


def test_score_of_a_predictions_file(cli: Any, tiny: Any, tmp_path: Path) -> None:
    rows = [
        {"sent_id": (100 * i + n) * 10 + s, "box": [0, 0, 5, 5]} for i in range(1, 13) for n in range(3) for s in (0, 1)
    ]
    file = tmp_path / "theirs.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in rows[:-2]))
    command = ["score", "--suite", tiny.card_path, "--data-root", tiny.data_root, "--predictions", file, "--json"]
    result = cli(*command, "--out", tmp_path / "out")
    summary = json.loads(result.stdout)
    assert "70 of 72 expressions have a row" in result.stderr
    assert summary["metrics"]["ciou"] is None
    assert summary["metrics"]["no_mask_rate"] == pytest.approx(2 / 72)
    file.write_text("".join(json.dumps(r) + "\n" for r in [*rows, {"sent_id": 5, "box": None}]))
    result = cli(*command, "--out", tmp_path / "out")
    assert result.returncode == 4
    assert "5" in result.stderr


def test_boxes_of_a_predictions_file_in_another_form(cli: Any, tiny: Any, tmp_path: Path) -> None:
    """The same boxes as corners and as corner and size score alike; a form of no name, and a run's boxes, do not."""
    scored = []
    for form, box in (("xyxy", [2, 3, 7, 9]), ("xywh", [2, 3, 5, 6])):
        file = tmp_path / f"{form}.jsonl"
        file.write_text(json.dumps({"sent_id": (100 * 1 + 0) * 10 + 0, "box": box}) + "\n")
        where = ["--suite", tiny.card_path, "--data-root", tiny.data_root, "--out", tmp_path / form, "--json"]
        result = cli("score", *where, "--predictions", file, "--box-format", form)
        scored.append(json.loads(result.stdout)["metrics"])
    assert scored[0] == scored[1]
    assert cli("score", *where, "--predictions", file, "--box-format", "cxcywh").returncode == 2
    assert cli("score", tmp_path / "xyxy", "--box-format", "xywh").returncode == 2


def test_shards_and_merge(cli: Any, tiny: Any, tmp_path: Path) -> None:
    whole = json.loads(cli(*tiny.run("center", tmp_path / "one", "--json")).stdout)
    for i in (1, 2, 3):
        assert cli(*tiny.run("center", tmp_path / "three", "--shard", f"{i}/3")).returncode == 0
    merged = json.loads(cli("merge", tmp_path / "three", "--json").stdout)
    assert merged["metrics"] == whole["metrics"]
    one, three = (Path(s["run"]) / "scores.jsonl" for s in (whole, merged))
    assert sorted(one.read_text().splitlines()) == sorted(three.read_text().splitlines())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run", "--suite", "refcocoo", "--model", "oracle"], 2, ["no suite 'refcocoo'", "did you mean refcoco"]),
        (["run", "--suite", "refcoco", "--model", "oracel"], 2, ["no model 'oracel'", "did you mean oracle"]),
        (["run", "--suite", "refcoco", "--model", "./nowhere"], 2, ["no card at nowhere"]),
        (["run", "--suite", "refcoco", "--model", "oracle", "--split", "tesA"], 2, ["no split 'tesA'", "testA"]),
        (["run", "--suite", "refcoco", "--model", "oracle", "--protocol", "lis"], 2, ["lis", "did you mean"]),
        (["run", "--suite", "refcoco", "--model", "oracle", "--model-arg", "x=1"], 2, ["no argument 'x'"]),
        (["run", "--suite", "refcoco", "--model", "center", "--model-arg", "share=big"], 2, ["share=big"]),
        (["run", "--suite", "refcoco", "--model", "oracle", "--device", "cuda"], 2, ["--device cuda"]),
        (["run", "--suite", "refcoco", "--model", "oracle", "--engine", "vllm"], 2, ["--engine vllm"]),
        (["run", "--suite", "refcoco", "--model", "oracle", "--shard", "4/3"], 2, ["--shard 4/3"]),
        (["run", "--suite", "refcoco", "--model", "oracle", "--data-root", "."], 4, ["was not found", "hint"]),
        (["run", "--suite", "shapes", "--model", "oracle", "--data-root", "no"], 4, ["--data-root no does not exist"]),
        (["run", "--suite", "refcoco"], 2, ["--model"]),
        (["score"], 2, ["RUN_DIR"]),
        (["score", "--suite", "refcoco", "--predictions", "no.jsonl"], 4, ["there is no predictions file no.jsonl"]),
        (["score", "nowhere"], 2, ["nowhere is not a run directory"]),
        (["run", "--suite", "none.yaml", "--model", "oracle"], 2, ["no card at none.yaml", "list suites"]),
        (["show", "refcooc"], 2, ["refcooc", "did you mean"]),
        (["show", "no/such/run"], 2, ["there is nothing at no/such/run", "named by its directory"]),
        (["list", "modles"], 2, ["modles", "did you mean models"]),
        (["data", "make", "refcoco"], 2, ["not generated"]),
        (["data", "verify", "refcoco", "--data-root", "."], 4, ["was not found"]),
        (["data", "make", "shapes", "--data-root", "no"], 4, ["--data-root no does not exist", "mkdir -p"]),
        (["score", "x", "--name", "y"], 2, ["--name and --source go with --predictions"]),
        (["merge", "nowhere"], 2, ["no shards"]),
    ],
)
def test_errors_are_a_line_a_hint_and_a_code(
    cli: Any, tmp_path: Path, arguments: list[str], code: int, words: list[str]
) -> None:
    result = cli(*arguments, cwd=tmp_path)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def test_debug_shows_the_traceback(cli: Any, tmp_path: Path) -> None:
    result = cli("show", "nothing", "--debug", cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_wrong_counts(cli: Any, own_tiny: Any, tmp_path: Path) -> None:
    text = own_tiny.card_path.read_text().replace("images: 12", "images: 13")
    own_tiny.card_path.write_text(text)
    result = cli(*own_tiny.run("oracle", tmp_path / "out"))
    assert result.returncode == 4
    assert "13 images expected, 12 found" in result.stderr
    assert cli(*own_tiny.run("oracle", tmp_path / "out", "--allow-partial")).returncode == 0


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def test_a_pickle_that_runs_a_command_does_not_run_it(cli: Any, own_tiny: Any, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (own_tiny.data_root / "tiny/refs(unc).p").write_bytes(pickle.dumps([Bomb(marker)], protocol=2))
    result = cli(*own_tiny.run("oracle", tmp_path / "out"))
    assert result.returncode == 4
    assert "system" in result.stderr
    assert not marker.exists()


def test_verify_finds_broken_images(cli: Any, own_tiny: Any) -> None:
    where = ["data", "verify", own_tiny.card_path, "--data-root", own_tiny.data_root]
    assert cli(*where).returncode == 0
    path = own_tiny.data_root / "tiny/images/000004.png"
    path.write_bytes(path.read_bytes()[:100])
    (own_tiny.data_root / "tiny/images/000005.png").unlink()
    result = cli(*where)
    assert result.returncode == 4
    assert "000004.png" in result.stdout
    assert "000005.png" in result.stdout


def test_audit_counts_shared_images(cli: Any, tiny: Any, tmp_path: Path) -> None:
    result = cli("data", "audit", tiny.card_path, "--data-root", tiny.data_root, "-o", tmp_path / "audit.json")
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "audit.json").read_text())["images"] == {"tiny/val": 12}


@needs_gseval
@pytest.mark.parametrize("command", ["score", "run"])
def test_published_row_of_a_real_model(cli: Any, tmp_path: Path, command: str) -> None:
    data = SHARED / "data/gseval"
    file = data / "claude_predictions.jsonl"
    answer = (
        ["--predictions", file] if command == "score" else ["--model", "replay", "--model-arg", f"predictions={file}"]
    )
    where = ["--suite", "gseval", "--data-root", data, "--protocol", "gseval", "--out", tmp_path, "--json"]
    summary = json.loads(cli(command, *where, *answer).stdout)
    assert summary["n_samples"] == 3715
    assert round(summary["metrics"]["box_acc_0.5"], 4) == 0.2377
    found = {tag: round(values["box_acc_0.5"], 4) for tag, values in summary["by_tag"].items()}
    assert found == {"stuff": 0.5668, "part": 0.0264, "multi": 0.2068, "single": 0.0939}


def test_predict(cli: Any, tiny: Any, tmp_path: Path) -> None:
    image = tiny.data_root / "tiny/images/000001.png"
    command = ["predict", "--model", "center", "--image", image, "--text", "a thing", "--text", "<b>&"]
    shown = cli(*command, "-o", tmp_path / "over.png")
    assert shown.returncode == 0, shown.stderr
    assert "<b>&" in shown.stdout
    assert {p.name for p in tmp_path.iterdir()} == {"over-1.png", "over-2.png"}
    answers = [json.loads(line) for line in cli(*command, "--json").stdout.splitlines()]
    assert [a["status"] for a in answers] == ["ok", "ok"]
    assert answers[0]["mask"]["size"] == [48, 64]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--model", "oracle", "--image", "000001.png", "--text", "a"], 2, "answers from the ground truth"),
        (["--model", "center", "--image", "nowhere.png", "--text", "a"], 4, "no picture nowhere.png"),
        (["--model", "center", "--image", "000001.png", "--text", " "], 2, "--text is empty"),
        (["--model", "center", "--image", "000001.png", "--text", "a", "-o", "a.what"], 2, "cannot write"),
        (["--model", "crashing", "--image", "000001.png", "--text", "a", "--model-arg", "share=1"], 1, "failed"),
    ],
)
def test_predict_mistakes(cli: Any, tiny: Any, arguments: list[str], code: int, words: str) -> None:
    result = cli("predict", *arguments, cwd=tiny.data_root / "tiny/images")
    assert result.returncode == code, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_splits_may_be_named_in_several_ways(cli: Any, tiny: Any, tmp_path: Path) -> None:
    for words in (["--split", "val"], ["--split", "val,val"], ["--split", "val", "val", "--seed", "0"]):
        result = cli(*tiny.run("full", tmp_path, "--json", *words))
        assert len(result.stdout.splitlines()) == 1, result.stderr
    assert "names nothing" in cli(*tiny.run("full", tmp_path, "--split", "")).stderr


def test_dry_run_as_json(cli: Any, tiny: Any, tmp_path: Path) -> None:
    plan = json.loads(cli(*tiny.run("full", tmp_path, "--dry-run", "--json")).stdout)
    assert plan["suite"] == "tiny val"
    assert "72 on 12 images" in plan["expressions"]


@pytest.mark.parametrize(
    "option", [["--seed", "-1"], ["--timeout", "-1"], ["--batch-size", "²"], ["--max-errors", "²"]]
)
def test_numbers_that_make_no_sense(cli: Any, tiny: Any, tmp_path: Path, option: list[str]) -> None:
    result = cli(*tiny.run("full", tmp_path, *option))
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_a_place_that_cannot_be_written_is_a_line(cli: Any, tiny: Any, tmp_path: Path) -> None:
    result = cli(*tiny.run("full", tmp_path / ("long" * 100)))
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "the system refused" in result.stderr and "longlong" in result.stderr


def test_a_placeholder_that_is_no_option(cli: Any, own_tiny: Any, tmp_path: Path) -> None:
    text = own_tiny.card_path.read_text()
    for wrong in ("{foo}", "{0}", "{split.__class__}"):
        own_tiny.card_path.write_text(text.replace("roots: [tiny]", f"roots: ['{wrong}']"))
        result = cli(*own_tiny.run("full", tmp_path))
        assert result.returncode == 2
        assert wrong in result.stderr
