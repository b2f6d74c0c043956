"""The weights that come with lens-bench: small, told of, found by name, and held by their gate."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lens_bench.registry import find_model, find_suite

ROOT = Path(__file__).parents[2]
GATE = ROOT / "results" / "gates" / "lens-nano.json"
NAMES = ("lens-nano", "sft-nano")

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def _weights(folder: Path) -> Path:
    (path,) = folder.glob("*.safetensors")
    return path


@pytest.mark.parametrize("name", NAMES)
def test_found_by_name_small_and_told_of(name: str) -> None:
    folder = Path(find_model(name).folder)
    assert _weights(folder).stat().st_size < 10_000_000
    story = (folder / "README.md").read_text(encoding="utf-8")
    assert find_suite("shapes").splits["train"].content_hash in story
    assert (folder / "train_log.jsonl").is_file()


@pytest.mark.slow
def test_the_gate_holds_the_weights_and_catches_two_percent_of_noise(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "data").mkdir()
    where = ("run", "--suite", "shapes", "--split", "val", "--data-root", tmp_path / "data")
    shipped = cli(*where, "--model", "lens-nano", "--out", tmp_path / "shipped", timeout=1800)
    assert shipped.returncode == 0, shipped.stderr
    held = cli("gate", tmp_path / "shipped", "--against", GATE, "--strict", "--json")
    assert held.returncode == 0, held.stderr

    noisy = shutil.copytree(find_model("lens-nano").folder, tmp_path / "noisy")
    path = _weights(noisy)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: (t.float() * (1 + 0.02 * torch.randn(t.shape, generator=generator))).to(t.dtype)
        for name, t in load_file(path).items()
    }
    save_file(tensors, path, metadata={"format": "pt"})
    worse = cli(*where, "--model", noisy, "--out", tmp_path / "worse", timeout=1800)
    assert worse.returncode == 0, worse.stderr
    # Strict, as above: a loss of the margin need not be shown to fail, it must be ruled out to pass.
    caught = cli("gate", tmp_path / "worse", "--against", GATE, "--strict", "--json")
    assert caught.returncode == 3, caught.stderr
    found = json.loads(caught.stdout)["quality"]
    assert found["ci95"][0] < -found["margin"]
