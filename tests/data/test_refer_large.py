"""A set of RefCOCO's size is indexed and run within the memory of a small machine."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

IMAGES, ANNOTATIONS, REFS, SENTENCES = 19_994, 196_771, 50_000, 142_210
VAL_IMAGES, VAL_REFS, VAL_SENTENCES = 1_500, 3_811, 10_834
MEMORY_LIMIT = 1_500_000_000

# Runs in a process of its own, whose peak memory is then that of the reader and of nothing else.
MEASURE = """
import json, sys, time
from pathlib import Path
root = Path(sys.argv[1])
started = time.process_time()
if sys.argv[2] == "json":
    with (root / "refcoco" / "instances.json").open() as file:
        json.load(file)
    counts, seconds = None, time.process_time() - started
else:
    from lens_bench.commands import run
    from lens_bench.data.split import open_split
    from lens_bench.registry import find_suite
    started = time.process_time()
    split = open_split(find_suite("refcoco"), "val", root)
    seconds = time.process_time() - started
    counts = [split.counts.images, split.counts.refs, split.counts.expressions]
    del split
    run.run("refcoco", ["val"], "oracle", run.Request(data_root=root, out=root / "out"))
    (summary,) = root.glob("out/refcoco/val/*/summary.json")
    assert json.loads(summary.read_text())["metrics"]["ciou"] == 1.0
from lens_bench.perf.hardware import peak_rss_mb
print(json.dumps({"counts": counts, "seconds": seconds, "peak": peak_rss_mb() * 2**20}))
"""


def _write(root: Path) -> None:
    """Made-up refs and instances with RefCOCO's numbers of everything, and polygons of COCO's usual length."""
    rng = np.random.default_rng(0)
    folder = root / "refcoco"
    folder.mkdir(parents=True)
    ids = (np.arange(IMAGES) * 29 + 9).tolist()
    images = [
        {"id": i, "file_name": f"COCO_train2014_{i:012d}.jpg", "height": 480, "width": 640, "license": 3} for i in ids
    ]
    with (folder / "instances.json").open("w") as file:
        file.write('{"info": {}, "images": ' + json.dumps(images) + ', "annotations": [')
        for index in range(ANNOTATIONS):
            angles = np.linspace(0, 2 * np.pi, int(rng.integers(8, 45)), endpoint=False)
            centre, radius = rng.uniform(100, 380, 2), rng.uniform(10, 90)
            points = np.column_stack([np.cos(angles), np.sin(angles)]) * radius * rng.uniform(0.8, 1.2) + centre
            record = {
                "id": index + 1, "image_id": ids[index % IMAGES], "category_id": 1 + index % 90, "iscrowd": 0,
                "area": round(float(3 * radius**2), 4), "segmentation": [np.round(points, 2).ravel().tolist()],
                "bbox": [round(float(v), 2) for v in (*(centre - radius), 2 * radius, 2 * radius)],
            }  # fmt: skip
            file.write((", " if index else "") + json.dumps(record))
        file.write('], "categories": []}')
    (folder / "refs(unc).p").write_bytes(pickle.dumps(_refs(ids), 2))


def _refs(ids: list[int]) -> list[dict[str, object]]:
    refs: list[dict[str, object]] = []
    sent_id = 0
    for index in range(REFS):
        val = index < VAL_REFS
        first, count, total = (0, VAL_REFS, VAL_SENTENCES) if val else (VAL_REFS, REFS - VAL_REFS, 131_376)
        number = total * (index - first + 1) // count - total * (index - first) // count
        image = index % VAL_IMAGES if val else VAL_IMAGES + index % (IMAGES - VAL_IMAGES)
        sentences = []
        for _ in range(number):
            text = f"the thing number {sent_id} left of the other"
            sentences.append({"sent_id": sent_id, "raw": text.title(), "sent": text, "tokens": text.split()})
            sent_id += 1
        refs.append({
            "ref_id": index, "ann_id": image + 1 + IMAGES * (index % 9), "image_id": ids[image], "category_id": 1,
            "file_name": f"COCO_train2014_{ids[image]:012d}_{index}.jpg", "split": "val" if val else "train",
            "sent_ids": [s["sent_id"] for s in sentences], "sentences": sentences,
        })  # fmt: skip
    assert sent_id == SENTENCES
    return refs


@pytest.mark.slow
def test_a_set_of_refcocos_size_needs_little_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("resource")
    _write(tmp_path)

    def measure(what: str) -> dict[str, object]:
        command = [sys.executable, "-c", MEASURE, str(tmp_path), what]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        return dict(json.loads(answer.stdout.splitlines()[-1]))

    plain, ours = measure("json"), measure("index")
    with capsys.disabled():
        size = (tmp_path / "refcoco" / "instances.json").stat().st_size / 1e6
        print(f"\ninstances.json of {size:.0f} MB, CPU seconds:", end=" ")
        print(f"json.load alone {plain['seconds']:.2f}, index {ours['seconds']:.2f}")
        print(f"peak memory of a whole oracle run {float(str(ours['peak'])) / 1e6:.0f} MB")
    assert ours["counts"] == [VAL_IMAGES, VAL_REFS, VAL_SENTENCES]
    assert float(str(ours["peak"])) < MEMORY_LIMIT
