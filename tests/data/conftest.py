"""Builders of tiny suites: every file is made up here, none is published data."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lens_bench.data.split import Source

SQUARE = (2.0, 2.0, 10.0, 2.0, 10.0, 8.0, 2.0, 8.0)


@dataclass(frozen=True)
class Tiny:
    """Writes small files in the formats of the suites below ``root``."""

    root: Path

    def picture(self, path: str, size: tuple[int, int] = (20, 30), seed: int = 0) -> Path:
        """An RGB image file of size (height, width)."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(target)
        return target

    def json(self, path: str, content: object, encoding: str = "utf-8") -> Path:
        """A JSON file."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))
        return target

    def source(self, files: Mapping[str, Path], **changes: Any) -> Source:
        """A ``Source`` without a card; ``options`` are added to the usual ones."""
        options = {"split": "val", "split_by": "unc", **changes.pop("options", {})}
        usual = {
            "suite": "tiny", "split": options["split"], "images": self.root / "images", "exif": False, "columns": {},
            "data_root": self.root,
        }  # fmt: skip
        return Source(**{**usual, **changes}, options=options, files=files)

    def image(self, image_id: int, size: tuple[int, int] = (20, 30), name: str = "") -> dict[str, Any]:
        """An entry of COCO's ``images``."""
        file_name = name or f"COCO_train2014_{image_id:012d}.jpg"
        return {"id": image_id, "file_name": file_name, "height": size[0], "width": size[1]}

    def annotation(self, ann_id: int, image_id: int, segmentation: object = None, **more: object) -> dict[str, Any]:
        """An entry of COCO's ``annotations``; a square where no segmentation is given."""
        return {
            "id": ann_id, "image_id": image_id, "category_id": 1, "bbox": [2.0, 2.0, 8.0, 6.0], "area": 48.0,
            "iscrowd": 0, "segmentation": [list(SQUARE)] if segmentation is None else segmentation, **more,
        }  # fmt: skip

    def ref(
        self, ref_id: int, image_id: int, ann_id: object, texts: Sequence[str], split: str = "val", **more: object
    ) -> dict[str, Any]:
        """One ref, with the misleading ``file_name`` that published refs have."""
        first = ref_id * 10
        return {
            "ref_id": ref_id, "image_id": image_id, "ann_id": ann_id, "category_id": 1, "split": split,
            "file_name": f"COCO_train2014_{image_id:012d}_{ref_id}.jpg",
            "sent_ids": [first + i for i in range(len(texts))],
            "sentences": [
                {"sent_id": first + i, "raw": f"{text.capitalize()}!", "sent": text, "tokens": text.split()}
                for i, text in enumerate(texts)
            ],
            **more,
        }  # fmt: skip

    def refer(
        self,
        refs: object,
        images: Sequence[object],
        annotations: Sequence[object],
        folder: str = "refer_seg/refcoco",
        name: str = "refs(unc).p",
        protocol: int = 2,
    ) -> dict[str, Path]:
        """A REFER folder; returns its files by their name on the card."""
        target = self.root / folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(json.dumps(refs).encode() if name.endswith(".json") else pickle.dumps(refs, protocol))
        content = {"info": {}, "images": images, "annotations": annotations, "categories": [{"id": 1, "name": "dog"}]}
        return {"refs": target, "instances": self.json(f"{folder}/instances.json", content)}


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    """A builder of tiny suites in this test's own folder."""
    return Tiny(tmp_path)
