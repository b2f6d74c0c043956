"""GroundingSuite-Eval: made-up rows, and the real file where it is at hand."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lens_bench.data import gseval
from lens_bench.data.paths import join
from lens_bench.data.split import open_split
from lens_bench.errors import DataError
from lens_bench.masks import encode, rle_to_json
from lens_bench.records import Rle, Sample
from lens_bench.registry import find_suite

REAL = Path(__file__).parents[3] / "shared" / "data" / "gseval"
NAME = "GroundingSuite-Eval.jsonl"


def _row(idx: int, **more: Any) -> dict[str, Any]:
    mask = np.zeros((20, 30), dtype=bool)
    mask[idx : idx + 3, 4:9] = True
    return {
        "idx": idx, "image_path": "unlabeled2017/000000000267.jpg", "class_id": 1 + idx % 4, "label": "x",
        "caption": "A dog.", "box": [4.0, 1.0, 9.5, 6.25], "segmentation": rle_to_json(encode(mask)), **more,
    }  # fmt: skip


def _write(tiny: Any, rows: list[dict[str, Any]], folder: str = ".") -> Path:
    path = tiny.root / folder / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _read(tiny: Any, rows: list[dict[str, Any]], **changes: Any) -> list[Sample]:
    return list(gseval.read(tiny.source({"annotations": _write(tiny, rows)}, suite="gseval", **changes)))


def test_a_row_is_a_sample(tiny: Any) -> None:
    samples = _read(tiny, [_row(i) for i in range(4)])
    assert [s.id for s in samples] == ["gseval/0", "gseval/1", "gseval/2", "gseval/3"]
    assert [s.key for s in samples] == ["0", "1", "2", "3"]
    assert [s.tags for s in samples] == [("stuff",), ("part",), ("multi",), ("single",)]
    assert samples[0].truth.box == (4.0, 1.0, 9.5, 6.25)
    assert samples[0].truth.size == (20, 30)
    assert samples[0].image is samples[3].image
    assert isinstance(samples[0].truth.parts[0], Rle)


def test_repeated_captions_are_kept_apart_by_idx(tiny: Any) -> None:
    samples = _read(tiny, [_row(0), _row(4)])
    assert samples[0].expression == samples[1].expression
    assert samples[0].truth != samples[1].truth


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_id": 0}, "line 1 has class_id 0"),
        ({"segmentation": None}, "is not an RLE object"),
        ({"segmentation": {"size": [20, 30], "counts": "!"}}, "segmentation of"),
        ({"box": [1, 2, 3]}, "does not have four numbers"),
        ({"idx": None}, "idx of .* is not an integer"),
        ({"caption": 3}, "caption of .* is not a text"),
    ],
)
def test_a_malformed_row_is_named(tiny: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        _read(tiny, [_row(0) | change])
    assert f"{NAME} line 1" in caught.value.message


def test_a_torn_line_is_named(tiny: Any) -> None:
    path = _write(tiny, [_row(0), _row(1)])
    path.write_text(path.read_text()[:-30])
    with pytest.raises(DataError, match="line 2 is not valid JSON"):
        list(gseval.read(tiny.source({"annotations": path})))


@pytest.mark.parametrize("folder", [".", "gseval", "GroundingSuite", "datasets/GSEval"])
@pytest.mark.parametrize("images", ["unlabeled2017", "coco/unlabeled2017", "coco/unlabeled2017/unlabeled2017"])
def test_layouts_and_both_conventions_of_the_image_folder(tiny: Any, folder: str, images: str) -> None:
    _write(tiny, [_row(0)], folder)
    tiny.picture(f"{images}/000000000267.jpg")
    split = open_split(find_suite("gseval"), "eval", tiny.root, allow_partial=True)
    assert split.samples[0].image.exists()
    assert split.suite.protocol == "gseval"


def test_images_are_not_needed(tiny: Any) -> None:
    _write(tiny, [_row(0)])
    split = open_split(find_suite("gseval"), "eval", tiny.root, allow_partial=True)
    assert not split.samples[0].image.exists()


def test_a_name_cannot_leave_the_image_folder(tmp_path: Path) -> None:
    assert join(tmp_path, "../../etc/passwd") == tmp_path / "etc/passwd"
    assert join(tmp_path, "/etc/passwd") == tmp_path / "etc/passwd"


@pytest.mark.skipif(not (REAL / NAME).is_file(), reason="the real annotations are not beside the repository")
def test_the_real_file_has_the_published_counts() -> None:
    split = open_split(find_suite("gseval"), "eval", REAL)
    assert (split.counts.expressions, split.counts.images) == (3_715, 2_727)
    assert Counter(s.tags[0] for s in split.samples) == {"stuff": 1_011, "part": 455, "multi": 769, "single": 1_480}
    captions = Counter((s.image_id, s.expression) for s in split.samples)
    repeated = [n for n in captions.values() if n > 1]
    assert (len(repeated), sum(repeated)) == (58, 117)
