"""Check our LENS against arrays that the released code produced, on weights filled from their own names.

    python tests/golden/check.py lens CONFIG.json KEYS.json.gz ARRAYS.npz

prints the relative error ||a - b|| / ||b|| of every array and exits with 1 where one is above 1e-3. The file layout is
that of ``golden/lens/README.md``; any variant in that layout works. The inputs' generator and the weight rule are
described there: every tensor is drawn from a generator seeded by its name.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lens_bench.lens.checkpoint import assign
from lens_bench.lens.config import released_config
from lens_bench.lens.layouts import RELEASED, read_layout
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.recipe import Recipe

LIMIT = 1e-3
Floats = NDArray[np.float32]


def named_weight(name: str, shape: tuple[int, ...]) -> Floats:
    """The golden rule: noise seeded by the name; vectors near one (weights) or zero, others scaled by their fan-in."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
    noise = rng.standard_normal(shape).astype(np.float32)
    if len(shape) < 2:
        return (np.float32(name.endswith(".weight")) + np.float32(0.05) * noise).astype(np.float32)
    return (noise / np.float32(math.sqrt(math.prod(shape[1:])))).astype(np.float32)


def golden_model(config: Mapping[str, object], keys: Mapping[str, list[int]]) -> LensModel:
    """Build the model of a golden configuration with its named weights."""
    golden = config["golden"]
    assert isinstance(golden, dict)
    lens = released_config(config, sam=str(golden["sam"]), recipe=Recipe())
    tensors = {k: torch.from_numpy(named_weight(k, tuple(s))) for k, s in keys.items() if k != "lm_head.weight"}
    if "lm_head.weight" in keys and not config.get("tie_word_embeddings", False):
        tensors["lm_head.weight"] = torch.from_numpy(named_weight("lm_head.weight", tuple(keys["lm_head.weight"])))
    with torch.device("meta"):
        model = LensModel(lens)
    assign(model, read_layout(RELEASED, model, tensors, "golden weights"), device="cpu")
    return model.eval()


def golden_inputs(config: Mapping[str, object]) -> tuple[Floats, Floats, tuple[int, int, int]]:
    """Patches of both rows' images, the SAM image, the grid."""
    golden = config["golden"]
    assert isinstance(golden, dict)
    t, h, w = (int(v) for v in golden["grid_thw"])
    tail = int(golden["text_tail"])
    rng = np.random.default_rng(int(golden["seed"]))
    rng.integers(0, 299, tail)
    rng.integers(0, 299, tail - 4)
    patches = rng.standard_normal((2 * t * h * w, 1176)).astype(np.float32)
    return patches, rng.standard_normal((1, 3, 1024, 1024)).astype(np.float32), (t, h, w)


@torch.no_grad()
def compute(
    model: LensModel, config: Mapping[str, object], arrays: Mapping[str, NDArray[np.generic]]
) -> dict[str, Floats]:
    """All arrays of the golden file from our model."""
    patches, sam_image, grid = golden_inputs(config)
    ids = torch.from_numpy(np.asarray(arrays["input_ids"], dtype=np.int64))
    mask = torch.from_numpy(np.asarray(arrays["attention_mask"], dtype=np.int64))
    images = model.see(torch.from_numpy(patches), [grid, grid])
    joint = model.joint(ids, mask, images, [grid, grid], positions="lens-1d")
    plain = model.joint(ids[:1], mask[:1], images[:1], [grid], positions="mrope")
    prompts = model.prompts(joint.queries)
    features = model.sam.features(torch.from_numpy(sam_image))
    low = model.sam.masks(features.rows(torch.zeros(len(ids), dtype=torch.long)), prompts)
    return {
        "visual": images[0].numpy(),
        "plain_logits": model.logits(plain.text[0, -4:]).numpy(),
        "joint_logits": model.logits(joint.text)[:, ::7, :64].numpy(),
        "query_hidden": joint.queries.numpy(),
        "sam_embedding": prompts.numpy(),
        "low_res_masks": low[:, ::2, ::2].numpy(),
    }


def relative_errors(config_path: Path, keys_path: Path, arrays_path: Path) -> dict[str, float]:
    """Relative error of every expected array."""
    config = json.loads(config_path.read_text(encoding="utf-8"))
    keys = json.loads(gzip.decompress(keys_path.read_bytes()))
    with np.load(arrays_path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    ours = compute(golden_model(config, keys), config, arrays)
    errors = {}
    for name, value in ours.items():
        expected = np.asarray(arrays[name], dtype=np.float64)
        if expected.shape != value.shape:
            raise SystemExit(f"{name}: shape {value.shape}, expected {expected.shape}")
        errors[name] = float(np.linalg.norm(value - expected) / np.linalg.norm(expected))
    return errors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["lens"])
    parser.add_argument("config", type=Path)
    parser.add_argument("keys", type=Path)
    parser.add_argument("arrays", type=Path)
    args = parser.parse_args()
    errors = relative_errors(args.config, args.keys, args.arrays)
    for name, error in errors.items():
        print(f"{name:16s} {error:.3e}{'' if error <= LIMIT else '   above the limit'}")
    return int(any(not error <= LIMIT for error in errors.values()))


if __name__ == "__main__":
    sys.exit(main())
