"""The command line on terminals: hostile values, other encodings, Ctrl-C before anything has begun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

from lens_bench.cli.options import command

HOSTILE = "\x1b]0;owned\x07\x9b2J\u202e[bold red]=1+1"
LEFT = set("\x1b\x07\x9b\u202e")


CARD = """
name: hostile
title: "Hostile \\e[2J"
summary: "For tests \\x9b2J"
reader: coco_json
files: {roots: [.], required: {annotations: a.json, expressions_json: e.json}}
images: {roots: [.]}
splits: {all: {expected: {}, warning: "\\e]0;owned\\a"}}
default_splits: [all]
"""


@pytest.fixture(scope="module")
def hostile(cli: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], Path]:
    """A suite whose tags, ids and file names hold control characters, and a run over it."""
    root = tmp_path_factory.mktemp("hostile")
    name = "\x1b]0;owned\x07.png"
    Image.new("RGB", (64, 48)).save(root / name)
    images = [{"id": 1, "file_name": name, "height": 48, "width": 64}]
    square = {"image_id": 1, "category_id": 1, "iscrowd": 0, "area": 64.0, "bbox": [2, 2, 8, 8]}
    outline = [[2, 2, 10, 2, 10, 10, 2, 10]]
    annotations = [{"id": i, **square, "segmentation": outline} for i in range(6)]
    rows = [{"expression": HOSTILE, "ann_ids": [i], "id": f"{i}{HOSTILE}", "tags": [HOSTILE]} for i in range(6)]
    (root / "a.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    (root / "e.json").write_text(json.dumps(rows))
    (root / "card.yaml").write_text(CARD)
    where = ["--suite", str(root / "card.yaml"), "--data-root", str(root)]
    made = cli("run", *where, "--model", "noisy-oracle", "--out", root / "runs", "--json")
    assert made.returncode == 0, made.stderr
    assert not set(made.stdout + made.stderr) & LEFT
    return Path(json.loads(made.stdout)["run"]), where, root / "runs"


# Runs command lines, one after the other, in one process; its last line of errors holds their exit codes.
SEVERAL = """
import json, sys
from lens_bench.cli.app import run
codes = []
for words in json.loads(sys.argv[1]):
    try:
        run(words)
    except SystemExit as stop:
        codes.append(stop.code or 0)
print(json.dumps(codes), file=sys.stderr)
"""


def several(commands: list[list[object]], **environment: str) -> tuple[str, str, list[int]]:
    """Output, errors and exit codes of commands."""
    call = [sys.executable, "-c", SEVERAL, json.dumps([[str(word) for word in words] for words in commands])]
    result = subprocess.run(call, capture_output=True, env={**os.environ, "COLUMNS": "160", **environment})
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    errors = result.stderr.decode(encoding)
    assert result.returncode == 0, errors
    return result.stdout.decode(encoding), errors, json.loads(errors.splitlines()[-1])


def test_no_command_sends_what_files_hold(cli: Any, hostile: tuple[Path, list[str], Path], tmp_path: Path) -> None:
    run, where, results = hostile
    output, errors, codes = several(
        [
            ["show", run],
            ["show", run, "--json"],
            ["compare", run, run],
            ["compare", run, run, "--markdown", tmp_path / "c.md"],
            ["leaderboard", "--results", results, "-o", tmp_path / "board.csv"],
            ["leaderboard", "--results", results, "--format", "md", "-o", tmp_path / "board.md"],
            ["gate", run, "--against", tmp_path / "g.json", "--update"],
            [
                "gate",
                run,
                "--against",
                tmp_path / "g.json",
                "--markdown",
                tmp_path / "g.md",
                "--junit",
                tmp_path / "g.xml",
            ],
            ["show", f"nothing{HOSTILE}"],
            ["show", f"--{HOSTILE}"],
            ["show", where[1]],
            ["data", "verify", *where[1:]],
            ["data", "verify", *where[1:], "--json"],
            ["data", "audit", where[1], where[1], *where[2:]],
            ["score", run, *where],
            ["report", run, *where, "-o", tmp_path / "page.html"],
            ["run", "--suite", HOSTILE + "x" * 20_000, "--model", "oracle"],
        ]
    )
    assert not set(output + errors) & LEFT
    assert "Traceback" not in errors
    assert "owned" in output and "owned" in errors, "the values were shown"
    assert max(map(len, errors.splitlines())) < 1_100
    assert set(codes) <= {0, 2, 3, 4}, codes
    assert codes.count(0) > 10
    for name in ("c.md", "board.md", "board.csv", "g.md", "g.xml"):
        path = tmp_path / name
        assert not path.exists() or not set(path.read_text(encoding="utf-8")) & LEFT, name


def test_every_command_prints_in_ascii(cli: Any, tiny: Any, tmp_path: Path) -> None:
    out, where = tmp_path / "runs", ["--suite", tiny.card_path, "--data-root", tiny.data_root]
    run = json.loads(cli("run", *where, "--model", "noisy-oracle", "--out", out, "--json").stdout)["run"]
    commands: list[list[object]] = [
        ["--help"],
        ["run", "--help"],
        ["list"],
        ["list", "--json"],
        ["show", "strict"],
        ["show", "lisa"],
        ["show", "refcoco"],
        ["show", run],
        ["env"],
        ["run", *where, "--model", "noisy-oracle", "--out", out],
        ["run", *where, "--model", "noisy-oracle", "--out", out, "--dry-run"],
        ["score", run, *where],
        ["compare", run, run],
        ["gate", run, "--against", tmp_path / "gate.json", "--update"],
        ["gate", run, "--against", tmp_path / "gate.json"],
        ["leaderboard", "--results", out],
        ["data", "verify", *where[1:]],
        ["data", "audit", tiny.card_path, "--data-root", tiny.data_root],
        ["report", run, *where],
    ]
    output, _, codes = several(commands, PYTHONIOENCODING="ascii")
    assert codes == [0] * len(commands)
    assert "Intervals and p-values" in output


def test_a_name_that_the_system_cannot_spell_is_an_error_of_usage(capsys: pytest.CaptureFixture[str]) -> None:
    @command
    def opens() -> None:
        Path("a\ud800.png").stat()

    with pytest.raises(typer.Exit) as stopped:
        opens()
    assert stopped.value.exit_code == 2
    assert r"has no file name 'a\ud800.png'" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["typer", "lens_bench.cli.app", "lens_bench.cli.running", "rich"])
def test_ctrl_c_while_modules_are_imported(module: str) -> None:
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Press:\n"
        "    done = False\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r} and not self.done:\n"
        "            self.done = True\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Press())\n"
        "from lens_bench.cli import main\n"
        "sys.argv = ['lens-bench', 'list', 'suites']\n"
        "main()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 130, result.stderr
    assert "Traceback" not in result.stderr
    assert "interrupted" in result.stderr


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    code = (
        "import os, signal, sys\n"
        "from lens_bench.cli import main\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "sys.argv = ['lens-bench', '--version']\n"
        "try:\n    main()\n"
        "finally:\n    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_workers_that_are_starting_leave_ctrl_c_to_their_parent(tmp_path: Path) -> None:
    """Pressed where the first worker has been started and imports; the worker has the same terminal."""
    code = (
        "import multiprocessing.popen_spawn_posix as posix, os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "launch = posix.Popen._launch\n"
        "def pressed(self, process):\n"
        "    launch(self, process)\n"
        "    os.kill(self.pid, signal.SIGINT)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "posix.Popen._launch = pressed\n"
        "from lens_bench.cli import main\n"
        f"sys.argv = ['lens-bench', 'data', 'make', 'shapes', '--split', 'val', '--data-root', {str(tmp_path)!r}]\n"
        "if __name__ == '__main__':\n    main()\n"
    )
    script = tmp_path / "make.py"
    script.write_text(code)
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert result.returncode == 130, result.stderr
    assert "Traceback" not in result.stderr
    assert signal.SIGINT.name not in result.stderr
