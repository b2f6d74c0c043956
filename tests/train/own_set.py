"""A person's own COCO set: a coloured rectangle on each image, and the faults that such sets have."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

_COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220)}
BROKEN, LONG, NO_BOX, OUTSIDE = 1, 2, 3, 4


def write_own_set(root: Path, split: str, images: int, *, faults: bool = False) -> Path:
    """Write ``images`` images of 64x48 in the layout of card ``coco-json``; returns the folder.

    With ``faults``, image 1 is truncated, image 2 is 900x4, the box of image 3 is ``[0, 0, 0, 0]``, and the polygon of
    image 4 lies outside.
    """
    folder = root / "my_suite" / split
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(images)
    entries, annotations, expressions = [], [], []
    for number in range(images):
        width, height = (900, 4) if faults and number == LONG else (64, 48)
        name, colour = f"{number:04d}.png", list(_COLOURS)[number % 3]
        x, y = (10, 0) if height == 4 else (int(rng.integers(0, 40)), int(rng.integers(0, 28)))
        w, h = (20, 4) if height == 4 else (int(rng.integers(8, 20)), int(rng.integers(8, 20)))
        pixels = np.full((height, width, 3), 230, np.uint8)
        pixels[y : y + h, x : x + w] = _COLOURS[colour]
        Image.fromarray(pixels).save(folder / "images" / name)
        box = [0, 0, 0, 0] if faults and number == NO_BOX else [x, y, w, h]
        left = x + 10_000 if faults and number == OUTSIDE else x
        outline = [left, y, left + w, y, left + w, y + h, left, y + h]
        entries.append({"id": number, "file_name": name, "width": width, "height": height})
        annotations.append({"id": number, "image_id": number, "category_id": 1, "bbox": box, "segmentation": [outline]})
        expressions.append({"expression": f"the {colour} square", "ann_ids": [number]})
    if faults:
        whole = (folder / "images" / f"{BROKEN:04d}.png").read_bytes()
        (folder / "images" / f"{BROKEN:04d}.png").write_bytes(whole[: len(whole) // 2])
    content = {"images": entries, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "expressions.json").write_text(json.dumps(expressions), encoding="utf-8")
    return folder
