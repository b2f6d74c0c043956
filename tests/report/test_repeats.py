from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lens_bench.errors import DataError, UsageError
from lens_bench.report.repeats import compare_repeats
from lens_bench.report.repeats_text import repeats_markdown, repeats_renderable

from .made_runs import score, write_run

SEEDS = {"a": (0.50, 0.52), "b": (0.60, 0.61, 0.65)}


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    for side, values in SEEDS.items():
        for n, value in enumerate(values):
            scores = [score(i, value) for i in range(20)]
            write_run(tmp_path / side / str(n), scores, model=f"m{side}", weight_digest=f"{side}{n}" * 32)
    return tmp_path / "a", tmp_path / "b"


def test_means_over_trainings_are_compared(sides: tuple[Path, Path]) -> None:
    (found,) = compare_repeats(*sides)
    change = {c.metric: c for c in found.changes}["giou"]
    assert sorted(change.a) == pytest.approx(SEEDS["a"])
    assert change.delta == pytest.approx(0.62 - 0.51)
    assert change.image_error == pytest.approx(0)
    assert change.ci95[0] < change.delta < change.ci95[1]
    assert (found.n_samples, len(found.a), len(found.b)) == (20, 2, 3)


def test_every_training_is_shown(sides: tuple[Path, Path]) -> None:
    found = compare_repeats(*sides)
    console = Console(width=160, record=True)
    console.print(repeats_renderable(found))
    for text in (console.export_text(), repeats_markdown(found)):
        for shown in ("60.00 61.00 65.00", "2 trainings", "3 trainings", "+11.00", "10 images"):
            assert shown in text


def test_one_training_on_a_side_is_said(sides: tuple[Path, Path]) -> None:
    one = next((sides[0] / "0").rglob("manifest.json")).parent
    assert "A is one training" in repeats_markdown(compare_repeats(one, sides[1]))


def test_the_same_weights_twice_are_no_repetition(sides: tuple[Path, Path]) -> None:
    write_run(sides[0] / "again", [score(i, 0.5) for i in range(20)], model="other", weight_digest="a0" * 32)
    with pytest.raises(UsageError, match="same weights"):
        compare_repeats(*sides)


def test_unfinished_runs_and_other_data_are_refused(sides: tuple[Path, Path], tmp_path: Path) -> None:
    write_run(tmp_path / "c", [score(i, 0.5) for i in range(20)], n_samples=25)
    with pytest.raises(UsageError, match="not complete"):
        compare_repeats(sides[0], tmp_path / "c")
    write_run(tmp_path / "d", [score(i, 0.5) for i in range(20)], suite_hash="b" * 64)
    with pytest.raises(DataError, match="different ground truth"):
        compare_repeats(sides[0], tmp_path / "d")
    write_run(tmp_path / "e", [score(i, 0.5) for i in range(20)], split="test")
    with pytest.raises(UsageError, match="no split in common"):
        compare_repeats(sides[0], tmp_path / "e")


def test_the_command(cli: Any, sides: tuple[Path, Path], tmp_path: Path) -> None:
    result = cli("compare", "--repeats", *map(str, sides), "--json", "--markdown", str(tmp_path / "x.md"))
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["repeats"][0]["changes"][0]["metric"] == "ciou"
    assert "3 trainings" in (tmp_path / "x.md").read_text(encoding="utf-8")
    assert cli("compare", *map(str, sides)).returncode == 2
