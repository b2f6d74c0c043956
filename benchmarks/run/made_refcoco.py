"""Make a folder in RefCOCO's layout, of RefCOCO val's size: 1,500 JPEG images of 640x480 and 10,834 expressions.

    python benchmarks/run/made_refcoco.py made
    python benchmarks/run/made_refcoco.py made --images 150

Nothing in it is a photograph, but what costs time is like one: files of about 140 KB (COCO train2014 is 13 GB for
82,783 images), ragged polygons of some ten to eighty points, one annotation in eight of two or three polygons, a few
crowds as run lengths. The whole set has the counts that the card of ``refcoco`` expects of ``val``; a smaller one is a
share of it, which ``lens-bench run`` takes with ``--allow-partial``.
"""

from __future__ import annotations

import argparse
import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

HEIGHT, WIDTH = 480, 640
IMAGES, REFS, SENTENCES = 1_500, 3_811, 10_834
QUALITY = 95
PICTURES = "images/train2014"
CROWDS = 100  # one annotation in so many is a crowd


def make(root: Path, images: int = IMAGES, seed: int = 0) -> Path:
    """Write the set below ``root`` unless it is there; returns ``root``. A killed call leaves nothing that counts."""
    done = root / f"made-{images}-{seed}"
    if done.exists():
        return root
    (root / "refcoco").mkdir(parents=True, exist_ok=True)
    (root / PICTURES).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    refs, sentences = REFS * images // IMAGES, SENTENCES * images // IMAGES
    names = [f"COCO_train2014_{29 * n + 9:012d}.jpg" for n in range(images)]
    annotations = [_annotation(rng, n, n % images) for n in range(refs)]
    drawn: list[list[NDArray[np.int32]]] = [[] for _ in range(images)]
    for record in annotations:
        polygons = [] if record["iscrowd"] else record["segmentation"]
        drawn[record["image_id"]] += [np.asarray(p).reshape(-1, 2).round().astype(np.int32) for p in polygons]
    fields = [_texture(rng) for _ in range(12)]
    for name, polygons in zip(names, drawn, strict=True):
        Image.fromarray(_picture(rng, fields, polygons)).save(root / PICTURES / name, "JPEG", quality=QUALITY)
    listed = [{"id": n, "file_name": name, "height": HEIGHT, "width": WIDTH} for n, name in enumerate(names)]
    content = {"images": listed, "annotations": annotations, "categories": []}
    (root / "refcoco" / "instances.json").write_text(json.dumps(content))
    (root / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(_refs(refs, sentences, images), 2))
    done.touch()
    return root


def _annotation(rng: np.random.Generator, number: int, image: int) -> dict[str, Any]:
    centre, radius = rng.uniform((80, 80), (WIDTH - 80, HEIGHT - 80)), float(rng.lognormal(4.3, 0.5))
    parts = 1 if rng.random() < 7 / 8 else int(rng.integers(2, 4))
    outlines = [_outline(rng, centre + rng.normal(0, radius, 2) * bool(p), radius / (1 + p)) for p in range(parts)]
    corners = np.concatenate(outlines)
    (x1, y1), (x2, y2) = corners.min(axis=0), corners.max(axis=0)
    crowd = number % CROWDS == CROWDS - 1
    shape: object = [np.round(o, 2).ravel().tolist() for o in outlines]
    return {
        "id": number, "image_id": image, "category_id": 1, "iscrowd": int(crowd), "area": 0.0,
        "bbox": [round(float(v), 2) for v in (x1, y1, x2 - x1, y2 - y1)],
        "segmentation": _runs(outlines) if crowd else shape,
    }  # fmt: skip


def _outline(rng: np.random.Generator, centre: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    """A closed outline [N, 2] whose radius wanders, inside the image."""
    count = int(rng.integers(10, 80))
    angles = np.sort(rng.uniform(0, 2 * np.pi, count))
    waves = sum(rng.uniform(0, 0.3) / k * np.sin(k * angles + rng.uniform(0, 6.3)) for k in range(1, 8))
    reach = radius * np.clip(1 + waves + rng.normal(0, 0.05, count), 0.1, None)
    points = centre + np.column_stack([np.cos(angles), np.sin(angles)]) * reach[:, None]
    return np.clip(points, 0, (WIDTH, HEIGHT))


def _runs(outlines: list[NDArray[np.float64]]) -> dict[str, object]:
    canvas = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    cv2.fillPoly(canvas, [o.round().astype(np.int32) for o in outlines], 1)
    flat = canvas.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=0))
    return {"size": [HEIGHT, WIDTH], "counts": np.diff(np.concatenate(([0], edges, [flat.size]))).tolist()}


def _texture(rng: np.random.Generator) -> NDArray[np.float32]:
    """Noise [2H, 2W, 3] whose amplitude falls with frequency, as that of photographs does."""
    total = np.zeros((2 * HEIGHT, 2 * WIDTH, 3), dtype=np.float32)
    for step, amplitude in ((128, 45), (32, 25), (8, 12), (3, 8), (1, 5.5)):
        coarse = rng.standard_normal((2 * HEIGHT // step + 1, 2 * WIDTH // step + 1, 3)).astype(np.float32)
        total += amplitude * cv2.resize(coarse, (2 * WIDTH, 2 * HEIGHT), interpolation=cv2.INTER_CUBIC)
    return total


def _picture(
    rng: np.random.Generator, fields: list[NDArray[np.float32]], polygons: list[NDArray[np.int32]]
) -> NDArray[np.uint8]:
    def cut() -> NDArray[np.float32]:
        field = fields[int(rng.integers(len(fields)))]
        y, x = int(rng.integers(HEIGHT)), int(rng.integers(WIDTH))
        return field[y : y + HEIGHT, x : x + WIDTH]

    picture, inside = cut() + rng.uniform(90, 160, 3).astype(np.float32), np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    cv2.fillPoly(inside, polygons, 1)
    thing = cut() + rng.uniform(60, 200, 3).astype(np.float32)
    return np.where(inside[..., None] > 0, thing, picture).clip(0, 255).astype(np.uint8)


def _refs(refs: int, sentences: int, images: int) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    sent_id = 0
    for number in range(refs):
        count = sentences * (number + 1) // refs - sentences * number // refs
        texts = [f"the thing number {sent_id + k} left of the other" for k in range(count)]
        entries = [{"sent_id": sent_id + k, "raw": t, "sent": t, "tokens": t.split()} for k, t in enumerate(texts)]
        sent_id += count
        image = number % images
        found.append({
            "ref_id": number, "ann_id": number, "image_id": image, "category_id": 1, "split": "val",
            "file_name": f"COCO_train2014_{29 * image + 9:012d}_{number}.jpg",
            "sent_ids": [e["sent_id"] for e in entries], "sentences": entries,
        })  # fmt: skip
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    print(make(asked.root, asked.images, asked.seed))
