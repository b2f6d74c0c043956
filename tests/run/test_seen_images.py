"""A run is continued on the images that it has answers about, and on no others."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lens_bench.data.images import ImageFile, file_fingerprint, fingerprint
from lens_bench.errors import DataError
from lens_bench.records import EncodedImage
from lens_bench.run.evaluate import run_splits
from lens_bench.run.files import JsonObject
from lens_bench.run.merge import find_shards, merge
from lens_bench.run.plan import Plan, make_model
from lens_bench.run.seen_images import SeenImages

MODEL = """
from lens_bench.masks import encode
from lens_bench.records import Prediction


class Bright:
    def __init__(self, options):
        pass

    def load(self):
        pass

    def close(self):
        pass

    def segment(self, tasks):
        return [Prediction(q.sample_id, "ok", mask=encode(t.rgb[..., 0] > 128)) for t in tasks for q in t.queries]
"""


@pytest.fixture
def bright(tmp_path: Path) -> str:
    """A model that reads images."""
    folder = tmp_path / "bright"
    folder.mkdir()
    (folder / "model.yaml").write_text(
        "name: bright\ntitle: Bright\nsummary: Bright pixels.\nadapter: adapter.py:Bright\ndevices: [cpu]\n"
    )
    (folder / "adapter.py").write_text(MODEL)
    return str(folder)


def finish(plan: Plan) -> JsonObject:
    _, segmenter = make_model(plan.card, plan.request)
    (outcome,) = run_splits([plan], segmenter)
    return outcome.summary


def killed_after(plan: Plan, answers: int) -> None:
    """Leave what a kill after so many answers would have left."""
    finish(plan)
    lines = plan.files.predictions.read_bytes().splitlines(keepends=True)
    plan.files.predictions.write_bytes(b"".join(lines[:answers]))


def replace_image(suite: Any, number: int, *, side: int = 0) -> Path:
    path: Path = suite.data_root / f"tiny/images/{number:06d}.png"
    Image.new("RGB", (64, 48), (200, number, side)).save(path)
    return path


def test_images_replaced_between_sessions_are_refused_by_name(own_tiny: Any, tmp_path: Path, bright: str) -> None:
    plan = own_tiny.plan(bright, tmp_path / "out")
    killed_after(plan, 30)  # five images
    before = plan.files.predictions.read_bytes()
    for number in (2, 4):
        path = replace_image(own_tiny, number)
    with pytest.raises(DataError, match=r"000002\.png was replaced .*\(and 1 more images\)") as caught:
        finish(own_tiny.plan(bright, tmp_path / "out"))
    assert "--fresh" in caught.value.hint
    assert plan.files.predictions.read_bytes() == before
    assert finish(own_tiny.plan(bright, tmp_path / "out", fresh=True))["complete"]
    assert path.exists()


def test_images_without_an_answer_may_be_replaced(own_tiny: Any, tmp_path: Path, bright: str) -> None:
    plan = own_tiny.plan(bright, tmp_path / "out")
    killed_after(plan, 30)
    replace_image(own_tiny, 9)  # it was read, and nothing is answered about it
    assert finish(own_tiny.plan(bright, tmp_path / "out"))["complete"]
    lines = [json.loads(line) for line in plan.files.images.read_text().splitlines()]
    last = {line["image_id"]: line["fingerprint"] for line in lines}
    marks = {s.image_id: s.image.mark() for s in plan.samples}
    assert last == marks


def test_a_torn_record_is_mended(own_tiny: Any, tmp_path: Path, bright: str) -> None:
    plan = own_tiny.plan(bright, tmp_path / "out")
    killed_after(plan, 30)
    content = plan.files.images.read_bytes()
    plan.files.images.write_bytes(content[:-7])
    assert finish(own_tiny.plan(bright, tmp_path / "out"))["complete"]
    plan.files.predictions.write_bytes(b"".join(plan.files.predictions.read_bytes().splitlines(keepends=True)[:6]))
    plan.files.images.write_bytes(b"{\n" + content)
    with pytest.raises(DataError, match=r"images\.jsonl, line 1"):
        finish(own_tiny.plan(bright, tmp_path / "out"))


def test_an_image_that_changes_while_the_run_goes_on_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(path)
    source = ImageFile(path)
    with SeenImages(tmp_path / "images.jsonl", {}) as images:
        images.see("a", source.name, source.mark())
        images.see("a", source.name, source.mark())
        Image.new("RGB", (4, 4), (1, 2, 3)).save(path)
        with pytest.raises(DataError, match=r"a\.png was replaced"):
            images.see("a", source.name, source.mark())


def test_a_model_that_reads_no_image_records_none(tiny: Any, tmp_path: Path) -> None:
    plan = tiny.plan("full", tmp_path)
    finish(plan)
    assert plan.manifest.pixels is None
    assert not plan.files.images.exists()


def test_the_exif_policy_is_part_of_a_runs_identity(own_tiny: Any, tmp_path: Path, bright: str) -> None:
    ignoring = own_tiny.plan(bright, tmp_path / "out")
    killed_after(ignoring, 30)
    card = own_tiny.card_path.read_text()
    own_tiny.card_path.write_text(card.replace("roots: [tiny/images]", "roots: [tiny/images], exif: apply"))
    applying = own_tiny.plan(bright, tmp_path / "out")
    assert (ignoring.manifest.pixels["exif"], applying.manifest.pixels["exif"]) == ("ignore", "apply")
    assert applying.files.root != ignoring.files.root
    assert finish(applying)["complete"]
    assert len(ignoring.files.predictions.read_bytes().splitlines()) == 30


def test_merged_shards_keep_what_was_read(own_tiny: Any, tmp_path: Path, bright: str) -> None:
    for index in (1, 2):
        finish(own_tiny.plan(bright, tmp_path / "out", shard=(index, 2)))
    ((files, _),) = [merge(shards) for shards in find_shards([tmp_path / "out"])]
    assert len(files.images.read_text().splitlines()) == 12


@pytest.mark.parametrize("size", [0, 1, 2**17, 2**17 + 1, 2**18 + 3])
def test_a_fingerprint_is_the_same_of_bytes_and_of_their_file(size: int, tmp_path: Path) -> None:
    data = bytes(n % 251 for n in range(size))
    (tmp_path / "f").write_bytes(data)
    mark = file_fingerprint(tmp_path / "f")
    assert mark == fingerprint(data)
    assert mark.startswith(f"{size}:")
    for place in {0, size - 1} if size else ():
        changed = bytearray(data)
        changed[place] ^= 1
        assert fingerprint(bytes(changed)) != mark
    assert fingerprint(data + b"x") != mark
    assert file_fingerprint(tmp_path / "none") == ""


def test_images_in_tables_have_fingerprints(tmp_path: Path) -> None:
    import datasets

    from lens_bench.data.tables import CellImage, Table

    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "PNG")
    rows = datasets.Dataset.from_dict({"image": [stream.getvalue(), b""]}).with_format("arrow")
    cell = CellImage(Table("rows", rows, tmp_path), 0, "image", exif=False)
    assert isinstance(cell, EncodedImage)
    assert cell.mark() == fingerprint(stream.getvalue())
