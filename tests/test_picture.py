"""One picture: the same answer as in a run, an overlay that marks what was found, errors that name the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lens_bench import masks
from lens_bench.errors import DataError, UsageError
from lens_bench.picture import OpenModel, overlay, read_picture, write_picture
from lens_bench.records import Prediction


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "p.png"
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def test_a_tiny_checkpoint_answers_a_file_and_an_array_alike(tmp_path: Path, picture: Path) -> None:
    from lens_bench.lens.save import Story, save
    from lens_bench.lens.tiny import byte_tokenizer, tiny_model

    save(tiny_model(), tmp_path / "tiny", byte_tokenizer(), Story("tiny"))
    with OpenModel(str(tmp_path / "tiny")) as model:
        from_file = model.ask(picture, ["left", "right"])
        from_array = model.ask(read_picture(picture), ["left", "right"])
    assert [(p.mask, p.text) for p in from_file] == [(p.mask, p.text) for p in from_array]
    assert [p.sample_id for p in from_file] == ["0", "1"] and all(p.status == "ok" for p in from_file)


def test_overlay_changes_the_mask_and_the_frame_only(picture: Path) -> None:
    pixels = read_picture(picture)
    inside = np.zeros((60, 90), dtype=bool)
    inside[10:20, 10:30] = True
    drawn = overlay(pixels, Prediction("a", "ok", mask=masks.encode(inside), box=(50, 5, 80, 40)))
    changed = (drawn != pixels).any(axis=2)
    assert changed[10:20, 10:30].mean() > 0.95 and changed[5, 50:80].all() and changed[39, 50:80].all()
    far = np.ones((60, 90), dtype=bool)
    far[8:22, 8:32] = far[4:41, 49:81] = False
    assert not changed[far].any()
    assert not (overlay(pixels, Prediction("a", "no_mask")) != pixels).any()


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "r.jpg", exif=exif)
    assert read_picture(tmp_path / "r.jpg").shape == (40, 20, 3)


def test_errors_name_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.png"):
        read_picture(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(DataError, match=r"text\.png"):
        read_picture(tmp_path / "text.png")
    with pytest.raises(UsageError, match="cannot write"):
        write_picture(tmp_path / "x.unknown", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(UsageError, match="no model"):
        OpenModel("lens-3bb")
