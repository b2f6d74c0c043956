"""Folders that results go to: made where they are missing, refused where a file is in the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lens_bench.errors import UsageError
from lens_bench.lock import FolderLock, require_folder


def test_a_folder_is_there_or_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_folder(tmp_path)
    require_folder(tmp_path / "a" / "b")
    monkeypatch.chdir(tmp_path)
    require_folder(Path("results/runs"))
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("below", ["", "x", "x/y"])
def test_a_file_in_the_way_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    for name in ("file", "broken"):
        with pytest.raises(UsageError, match=f"--out must be a folder: .*{name} is not one"):
            require_folder(tmp_path / name / below)
        with pytest.raises(UsageError, match="--out must be a folder"):
            FolderLock(tmp_path / name / below, tmp_path / name / below / ".lock")


@pytest.mark.parametrize("command", ["run", "profile"])
@pytest.mark.parametrize("out", ["file", "file/below"])
def test_the_command_line_says_which_option_is_wrong(
    tiny: Any, tmp_path: Path, cli: Any, command: str, out: str
) -> None:
    (tmp_path / "file").write_text("x")
    where = ("--suite", tiny.card_path, "--data-root", tiny.data_root, "--model", "full", "--out", out)
    result = cli(command, *where, cwd=tmp_path)
    assert result.returncode == 2 and "--out must be a folder: file is not one" in result.stderr, result.stderr
    assert "hint" in result.stderr
