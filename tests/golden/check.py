"""Check our models against arrays that the authors' code produced, on weights filled from their own names.

    python tests/golden/check.py lens|lisa|glamm CONFIG.json KEYS.json.gz ARRAYS.npz

prints the relative error of every array and exits with 1 where one is above 1e-3: ||a - b|| / ||b||, and for areas
the largest |a - b| / b. The file layout is that of ``golden/README.md`` and ``golden/lens/README.md``; any variant in
that layout works (for lisa and glamm with its ``clip_keys.json.gz`` beside the keys). The inputs' generators and the
weight rule are described there: every tensor is drawn from a generator seeded by its name.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lens_bench.lens.config import released_config
from lens_bench.lens.layouts import RELEASED, read_layout
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.placing import assign
from lens_bench.lens.recipe import Recipe
from lens_bench.lens.sources import MemorySource
from lens_bench.llava_sam.checkpoint import fill, plan
from lens_bench.llava_sam.config import GLAMM, LISA, Family
from lens_bench.llava_sam.config import released_config as llava_config
from lens_bench.llava_sam.modeling import LlavaSam
from lens_bench.sam.images import SamImage, inside_size
from lens_bench.sam.model import upsample

LIMIT = 1e-3
IMAGE_PLACEHOLDER = -200
Floats = NDArray[np.float32]
Arrays = Mapping[str, NDArray[np.generic]]


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
def compute(model: LensModel, config: Mapping[str, object], arrays: Arrays) -> dict[str, Floats]:
    """All arrays of the golden file from our LENS."""
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


# ---------------------------------------------------------------------------------------------- LISA and GLaMM


def llava_model(
    family: Family, config: Mapping[str, object], keys: Mapping[str, list[int]], clip_keys: Mapping[str, list[int]]
) -> LlavaSam:
    """Build LISA or GLaMM with named weights; those of the vision tower are named with ``clip.`` in front."""
    clip = config["clip"]
    assert isinstance(clip, dict)
    own = {k: torch.from_numpy(named_weight(k, tuple(s))) for k, s in keys.items()}
    tower = {k: torch.from_numpy(named_weight(f"clip.{k}", tuple(s))) for k, s in clip_keys.items()}
    with torch.device("meta"):
        model = LlavaSam(llava_config(family, config, clip))
    plans = plan(model, MemorySource(own, "golden weights"), MemorySource(tower, "golden CLIP weights"))
    fill(model, plans, ["cpu"], torch.float32)
    return model


def llava_inputs(family: Family, config: Mapping[str, object]) -> tuple[Floats, SamImage]:
    """Pixels of the vision tower, one image for both rows, and SAM's padded pixels."""
    golden, size, clip = config["golden"], config["image_size"], config["clip"]
    assert isinstance(golden, dict) and isinstance(size, list) and isinstance(clip, dict)
    rng = np.random.default_rng(int(golden["seed"]))
    for tail in golden["text_tails"]:
        for count in (tail, 3) if family is LISA else (4, tail):
            rng.integers(3, 300, count)
    side = int(clip["image_size"])
    clip_pixels = rng.standard_normal((1, 3, side, side)).astype(np.float32)
    original = (int(size[0]), int(size[1]))
    inside = inside_size(original, 1024)
    square = np.zeros((1, 3, 1024, 1024), dtype=np.float32)
    square[:, :, : inside[0], : inside[1]] = rng.standard_normal((1, 3, *inside)).astype(np.float32)
    return clip_pixels, SamImage(torch.from_numpy(square)[0], inside, original)


@torch.no_grad()
def llava_compute(
    model: LlavaSam, family: Family, config: Mapping[str, object], arrays: Arrays
) -> dict[str, NDArray[np.generic]]:
    """All arrays of the golden file from our LISA or GLaMM, on whole rows."""
    clip_pixels, image = llava_inputs(family, config)
    ids = torch.from_numpy(np.asarray(arrays["input_ids"], dtype=np.int64))
    real = torch.from_numpy(np.asarray(arrays["attention_mask"], dtype=np.bool_))
    seg = int(str(config["seg_token_idx"]))
    visual = model.see(torch.from_numpy(clip_pixels))[0]
    embeds, masks, places = [], [], []
    for row, mask in zip(ids, real, strict=True):
        at = int((row == IMAGE_PLACEHOLDER).nonzero())
        embeds.append(torch.cat([model.embedding(row[:at]), visual, model.embedding(row[at + 1 :])]))
        masks.append(torch.cat([mask[:at], mask.new_ones(len(visual)), mask[at + 1 :]]))
        places.append(int((row == seg).nonzero()) + len(visual) - 2)
    # Causal, padding seen by nobody, itself included: the mask of transformers 4.31, whose padded states are compared.
    causal = torch.ones(len(embeds[0]), len(embeds[0]), dtype=torch.bool).tril()
    positions = torch.arange(len(embeds[0])).expand(len(ids), -1)
    hidden = model.read(torch.stack(embeds), positions, causal & torch.stack(masks)[:, None, None, :])
    states = torch.stack([row[place] for row, place in zip(hidden, places, strict=True)])
    features = model.sam.features(image.pixels.unsqueeze(0))
    logits = upsample(model.sam.masks(features, model.prompts(states)), image)
    ours = {
        "image_embedding": features[:, ::8, ::4, ::4].numpy(),
        "last_hidden": hidden[:, ::8].numpy(),
        "mask_logits": logits[:, ::4, ::4].numpy(),
        "mask_area": (logits > 0).sum(dim=(1, 2)).numpy(),
    }
    return {name: value for name, value in ours.items() if name in arrays}


# ---------------------------------------------------------------------------------------------- errors


def _lens(config: Mapping[str, object], keys_path: Path, arrays: Arrays) -> Mapping[str, NDArray[np.generic]]:
    return compute(golden_model(config, _keys(keys_path)), config, arrays)


def _llava(family: Family) -> Callable[[Mapping[str, object], Path, Arrays], Mapping[str, NDArray[np.generic]]]:
    def run(config: Mapping[str, object], keys_path: Path, arrays: Arrays) -> Mapping[str, NDArray[np.generic]]:
        model = llava_model(family, config, _keys(keys_path), _keys(keys_path.with_name("clip_keys.json.gz")))
        return llava_compute(model, family, config, arrays)

    return run


MODELS = {"lens": _lens, "lisa": _llava(LISA), "glamm": _llava(GLAMM)}


def _keys(path: Path) -> dict[str, list[int]]:
    keys: dict[str, list[int]] = json.loads(gzip.decompress(path.read_bytes()))
    return keys


def relative_errors(what: str, config_path: Path, keys_path: Path, arrays_path: Path) -> dict[str, float]:
    """Relative error of every expected array."""
    config = json.loads(config_path.read_text(encoding="utf-8"))
    with np.load(arrays_path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    errors = {}
    for name, value in MODELS[what](config, keys_path, arrays).items():
        expected = np.asarray(arrays[name], dtype=np.float64)
        if expected.shape != value.shape:
            raise SystemExit(f"{name}: shape {value.shape}, expected {expected.shape}")
        if name.endswith("_area"):
            errors[name] = float(np.max(np.abs(value - expected) / np.maximum(expected, 1)))
        else:
            errors[name] = float(np.linalg.norm(value - expected) / np.linalg.norm(expected))
    return errors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(MODELS))
    parser.add_argument("config", type=Path)
    parser.add_argument("keys", type=Path)
    parser.add_argument("arrays", type=Path)
    args = parser.parse_args()
    errors = relative_errors(args.what, args.config, args.keys, args.arrays)
    for name, error in errors.items():
        print(f"{name:16s} {error:.3e}{'' if error <= LIMIT else '   above the limit'}")
    return int(any(not error <= LIMIT for error in errors.values()))


if __name__ == "__main__":
    sys.exit(main())
