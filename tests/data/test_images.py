"""Decoding: every mode a data set has been seen to hold, EXIF by policy, broken files by name."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lens_bench.data.images import ImageFile, encoded_size, image_size, read_encoded
from lens_bench.errors import DataError
from lens_bench.records import ImageSource

RGB = np.random.default_rng(0).integers(0, 255, (12, 17, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]


def _save(path: Path, image: Image.Image, **options: Any) -> ImageFile:
    image.save(path, **options)
    return ImageFile(path)


def test_an_image_file_is_an_image_source(tmp_path: Path) -> None:
    assert isinstance(ImageFile(tmp_path / "a.jpg"), ImageSource)


def test_rgb_is_read_as_it_is(tmp_path: Path) -> None:
    np.testing.assert_array_equal(_save(tmp_path / "a.png", Image.fromarray(RGB)).read(), RGB)


@pytest.mark.parametrize("most", [1, 7, 1000])
def test_a_file_that_comes_in_pieces_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    file = _save(tmp_path / "a.png", Image.fromarray(RGB))
    read = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, size: read(descriptor, min(size, most)))
    np.testing.assert_array_equal(file.read(), RGB)


def test_a_plain_jpeg_is_what_pillow_decodes(tmp_path: Path) -> None:
    file = _save(tmp_path / "a.jpg", Image.fromarray(RGB), quality=90)
    np.testing.assert_array_equal(file.read(), np.asarray(Image.open(file.path)))


def test_greyscale_has_three_equal_channels(tmp_path: Path) -> None:
    pixels = _save(tmp_path / "a.png", Image.fromarray(GREY)).read()
    np.testing.assert_array_equal(pixels, np.repeat(GREY[:, :, None], 3, axis=2))


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    deep = GREY.astype(np.uint16) * 257
    for suffix in ("png", "tif"):
        pixels = _save(tmp_path / f"a.{suffix}", Image.fromarray(deep)).read()
        np.testing.assert_array_equal(pixels[:, :, 1], GREY)


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    pixels = _save(tmp_path / "a.png", Image.fromarray(GREY > 127)).read()
    np.testing.assert_array_equal(pixels[:, :, 2], np.where(GREY > 127, 255, 0))


def test_a_palette_with_transparency_keeps_its_colours(tmp_path: Path) -> None:
    indices = (GREY % 4).astype(np.uint8)
    colours = [(250, 10, 20), (0, 200, 0), (1, 2, 3), (90, 90, 255)]
    image = Image.fromarray(indices).convert("P")
    image.putpalette([c for colour in colours for c in colour])
    image.putdata(indices.ravel().tolist())
    pixels = _save(tmp_path / "a.png", image, transparency=bytes([0, 128, 255, 255])).read()
    np.testing.assert_array_equal(pixels, np.asarray(colours, dtype=np.uint8)[indices])


def test_alpha_is_dropped_and_not_blended(tmp_path: Path) -> None:
    rgba = np.dstack([RGB, np.zeros_like(GREY)])
    np.testing.assert_array_equal(_save(tmp_path / "a.png", Image.fromarray(rgba)).read(), RGB)
    grey = np.dstack([GREY, np.full_like(GREY, 7)])
    np.testing.assert_array_equal(_save(tmp_path / "b.png", Image.fromarray(grey)).read()[:, :, 0], GREY)


def test_cmyk_is_neither_inverted_nor_refused(tmp_path: Path) -> None:
    smooth = np.zeros((16, 16, 3), dtype=np.uint8)
    smooth[:, :8], smooth[:, 8:] = (200, 30, 40), (10, 160, 250)
    pixels = _save(tmp_path / "a.jpg", Image.fromarray(smooth).convert("CMYK"), quality=100, subsampling=0).read()
    assert np.abs(pixels.astype(int) - smooth.astype(int)).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_is_applied_or_ignored_as_the_suite_says(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    Image.fromarray(RGB).save(path, exif=exif, quality=95)
    stored = np.asarray(Image.open(path))
    turned = {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1], 5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1), 7: stored[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(stored),
    }[orientation]  # fmt: skip
    np.testing.assert_array_equal(ImageFile(path, exif=False).read(), stored)
    np.testing.assert_array_equal(ImageFile(path, exif=True).read(), turned)
    assert image_size(path, exif=True) == turned.shape[:2]
    assert image_size(path, exif=False) == stored.shape[:2]


def test_exif_agrees_with_opencv_which_papers_read_images_with(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.jpg"
        Image.fromarray(RGB).save(path, exif=exif, quality=95)
        theirs = cv2.imread(str(path))[:, :, ::-1]
        ours = ImageFile(path, exif=True).read()
        assert ours.shape == theirs.shape
        assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 3


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(["L", "RGB", "RGBA", "P", "CMYK", "LA", "1"]), st.integers(1, 9), st.integers(1, 9))
def test_every_mode_gives_rgb_of_the_header_size(mode: str, height: int, width: int) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, "TIFF")
    pixels = read_encoded(buffer.getvalue(), "cell", exif=False)
    assert pixels.shape == (height, width, 3)
    assert pixels.dtype == np.uint8
    assert encoded_size(buffer.getvalue(), "cell", exif=False) == (height, width)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"\xff\xd8\xff\xe0"])
def test_a_file_that_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken (1).jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken \(1\)\.jpg cannot be decoded"):
        ImageFile(path).read()


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_truncated_file_is_named_and_its_header_still_gives_the_size(tmp_path: Path, suffix: str) -> None:
    whole = _save(tmp_path / f"a.{suffix}", Image.fromarray(np.tile(RGB, (20, 20, 1)))).path
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(DataError, match=f"a.{suffix} cannot be decoded"):
        ImageFile(whole).read()
    assert image_size(whole, exif=False) == (240, 340)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    image = ImageFile(tmp_path / "gone.jpg")
    assert not image.exists()
    with pytest.raises(DataError, match=r"gone\.jpg is missing") as caught:
        image.read()
    assert caught.value.exit_code == 4


def test_pixels_without_a_range_are_refused(tmp_path: Path) -> None:
    file = _save(tmp_path / "a.tif", Image.fromarray(GREY.astype(np.float32)))
    with pytest.raises(DataError, match="no fixed range"):
        file.read()


# ---------------------------------------------------------------------------------------------- TIFF


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once_where_the_card_says_so_and_never_otherwise(
    tmp_path: Path, orientation: int, compression: str | None
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / "a.tif", exif=exif, compression=compression)
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    for apply in (False, True):
        tiff, png = (ImageFile(tmp_path / f"a.{suffix}", apply) for suffix in ("tif", "png"))
        np.testing.assert_array_equal(tiff.read(), png.read())
        assert image_size(tiff.path, apply) == tiff.read().shape[:2] == image_size(png.path, apply)
    np.testing.assert_array_equal(ImageFile(tmp_path / "a.tif").read(), RGB)


def test_32_bits_hold_8_or_nothing_that_is_known(tmp_path: Path) -> None:
    file = _save(tmp_path / "a.tif", Image.fromarray(GREY.astype(np.int32)))
    np.testing.assert_array_equal(file.read(), np.repeat(GREY[:, :, None], 3, axis=2))
    for other in (GREY.astype(np.int32) * 256, GREY.astype(np.int32) - 1):
        with pytest.raises(DataError, match="32-bit pixels have no fixed range"):
            _save(tmp_path / "a.tif", Image.fromarray(other)).read()


def test_a_ppm_of_16_bits_is_not_of_32(tmp_path: Path) -> None:
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5\n2 1\n65535\n" + bytes((0x80, 0, 0xFF, 0xFF)))
    assert ImageFile(path).read()[0, :, 0].tolist() == [128, 255]
