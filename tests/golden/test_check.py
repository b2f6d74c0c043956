"""Our LENS against the released code's arrays, and the checker itself: it must fail where the model is wrong."""

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

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT.parent / "shared" / "golden" / "lens"
FILES = [GOLDEN / f"lens_tiny_a{end}" for end in ("_config.json", "_keys.json.gz", ".npz")]

pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="golden arrays are not at hand (../shared/golden/lens)")


def checker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_check", ROOT / "tests" / "golden" / "check.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_array_agrees() -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "golden" / "check.py"), "lens", *map(str, FILES)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    names = {line.split()[0] for line in result.stdout.splitlines()}
    assert names == {"visual", "plain_logits", "joint_logits", "query_hidden", "sam_embedding", "low_res_masks"}


def test_padding_side_does_not_matter_and_positions_do() -> None:
    check = checker()
    config = json.loads(FILES[0].read_text())
    keys = json.loads(gzip.decompress(FILES[1].read_bytes()))
    with np.load(FILES[2]) as archive:
        arrays = dict(archive)
    model = check.golden_model(config, keys)
    patches, _, grid = check.golden_inputs(config)
    ids, mask = torch.from_numpy(arrays["input_ids"][1:]), torch.from_numpy(arrays["attention_mask"][1:])
    with torch.no_grad():
        image = model.see(torch.from_numpy(patches), [grid, grid])[1:]
        left = model.joint(ids.roll(4, 1), mask.roll(4, 1), image, [grid], "lens-1d").queries
        three = model.joint(ids, mask, image, [grid], "mrope").queries
    expected = torch.from_numpy(arrays["query_hidden"][1:])
    assert ((left - expected).norm() / expected.norm()) < 1e-5
    assert ((three - expected).norm() / expected.norm()) > 1e-2
