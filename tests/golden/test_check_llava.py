"""Our LISA and GLaMM against the released code's arrays, whole rows and through the engine."""

from __future__ import annotations

import gzip
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from lens_bench import masks
from lens_bench.llava_sam import engine as engine_module
from lens_bench.llava_sam.config import GLAMM, LISA
from lens_bench.llava_sam.conversation import Prompt
from lens_bench.llava_sam.engine import Ask, Engine

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT.parent / "shared" / "golden"
FAMILIES = {"lisa": LISA, "glamm": GLAMM}
ARRAYS = {"lisa": {"image_embedding", "last_hidden", "mask_logits", "mask_area"}, "glamm": {"mask_logits", "mask_area"}}

pytestmark = pytest.mark.skipif(not (GOLDEN / "lisa").is_dir(), reason="golden arrays are not at hand (../shared)")


def files(name: str) -> list[Path]:
    return [GOLDEN / name / f"{name}_tiny_a{end}" for end in ("_config.json", "_keys.json.gz", ".npz")]


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_check_llava", ROOT / "tests" / "golden" / "check.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", list(FAMILIES))
def test_every_array_agrees(name: str) -> None:
    command = [sys.executable, str(ROOT / "tests" / "golden" / "check.py"), name, *map(str, files(name))]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert {line.split()[0] for line in result.stdout.splitlines()} == ARRAYS[name]


@pytest.mark.parametrize("name", list(FAMILIES))
def test_the_engine_paints_the_golden_masks(name: str, checker: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared prefix, cache and all: the areas are the authors', and no longer once the state is another one."""
    config, keys, arrays = files(name)
    fields = json.loads(config.read_text())
    model = checker.llava_model(
        FAMILIES[name],
        fields,
        json.loads(gzip.decompress(keys.read_bytes())),
        json.loads(gzip.decompress((GOLDEN / name / "clip_keys.json.gz").read_bytes())),
    )
    clip, image = checker.llava_inputs(FAMILIES[name], fields)
    monkeypatch.setattr(engine_module, "clip_pixels", lambda pixels, side: torch.from_numpy(clip)[0])
    monkeypatch.setattr(engine_module, "prepare", lambda pixels, side: image)
    engine = Engine(model, fields["seg_token_idx"], eos=2)
    blank = np.zeros((*fields["image_size"], 3), dtype=np.uint8)
    with np.load(arrays) as archive:
        expected, rows, real = (archive[key] for key in ("mask_area", "input_ids", "attention_mask"))
    for row, kept, area in zip(rows, real, expected, strict=True):
        ids = row[kept].tolist()
        at = ids.index(checker.IMAGE_PLACEHOLDER)
        before, after = tuple(ids[:at]), tuple(ids[at + 1 :])
        seg = after.index(fields["seg_token_idx"])
        asks = [Ask(0, Prompt(before, after, (place,))) for place in (seg, seg + 1)]
        right, wrong = (masks.area(answer.masks[0]) for answer in engine.answer([blank], asks))
        assert abs(right - area) <= 2
        assert abs(wrong - area) > 20  # a random decoder looks little at its prompt


def test_a_wrong_array_is_noticed(checker: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, keys, arrays = files("glamm")
    with np.load(arrays) as archive:
        content = dict(archive)
    content["mask_area"] = content["mask_area"] + [0, 200]
    np.savez(tmp_path / "changed.npz", **content)
    command = ["check.py", "glamm", str(config), str(keys), str(tmp_path / "changed.npz")]
    monkeypatch.setattr(sys, "argv", command)
    assert checker.main() == 1
