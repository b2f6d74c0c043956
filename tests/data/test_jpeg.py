"""OpenCV's pixels are Pillow's, and what Pillow would refuse or read otherwise is left to it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lens_bench.data.images import ImageFile, read_encoded
from lens_bench.data.jpeg import decode_jpeg
from lens_bench.errors import DataError


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Soft colours with noise on top."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (height // 6 + 2, width // 6 + 2, 3)).astype(np.float32)
    soft = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return (soft + rng.normal(0, 9, soft.shape)).clip(0, 255).astype(np.uint8)


def coded(pixels: np.ndarray, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def pillow(data: bytes) -> np.ndarray | None:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError):
        return None


@pytest.mark.parametrize("subsampling", [0, 1, 2, "4:1:1"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(96, 128), (37, 53), (1, 1), (8, 9), (17, 16)])
def test_pixels_are_those_of_pillow(subsampling: Any, progressive: bool, mode: str, size: tuple[int, int]) -> None:
    for quality in (10, 75, 95, 100):
        data = coded(picture(*size), mode, quality=quality, subsampling=subsampling, progressive=progressive)
        ours = decode_jpeg(data, exif=True)
        assert ours is not None
        assert ours.dtype == np.uint8
        assert ours.flags.c_contiguous
        assert ours.flags.writeable
        np.testing.assert_array_equal(ours, pillow(data))


@pytest.mark.parametrize("sampling", [0x411111, 0x221111, 0x211111, 0x121111, 0x111111])
def test_restart_markers_are_part_of_the_data(sampling: int) -> None:
    options = [cv2.IMWRITE_JPEG_RST_INTERVAL, 7, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    data = cv2.imencode(".jpg", picture(75, 101), options)[1].tobytes()
    np.testing.assert_array_equal(decode_jpeg(data, exif=False), pillow(data))


def test_what_is_not_ordinary_is_left_to_pillow() -> None:
    whole = coded(picture(40, 50))
    turned = coded(picture(40, 50), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0")
    png = io.BytesIO()
    Image.fromarray(picture(40, 50)).save(png, "PNG")
    assert decode_jpeg(turned, exif=False) is not None
    assert decode_jpeg(turned, exif=True) is None
    for data in (
        b"", b"\xff\xd8", b"\xff\xd8\xff", png.getvalue(), whole[:-1], whole[:-2], whole + b"\0", whole + whole,
        whole[: len(whole) // 2], coded(picture(40, 50), "CMYK"), whole[:2] + b"\xff\xee\0\x02" + whole[2:],
        whole.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), whole[:100] + whole[-2:],
    ):  # fmt: skip
        assert decode_jpeg(data, exif=False) is None


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["flip", "cut out", "overwrite", "cut off"]), st.booleans())
def test_a_damaged_file_is_what_pillow_makes_of_it(seed: int, kind: str, progressive: bool) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(coded(picture(60, 80, seed % 5), quality=90, progressive=progressive))
    at = int(rng.integers(data.index(b"\xff\xc4"), len(data) - 2))  # behind the size, which would be made huge
    if kind == "flip":
        data[at] ^= 1 << int(rng.integers(8))
    elif kind == "cut out":
        data[at : at + int(rng.integers(1, 400))] = b""
        data[-2:] = b"\xff\xd9"
    elif kind == "overwrite":
        data[at : at + 20] = rng.bytes(20)
    else:
        data[at:] = b""
    theirs = pillow(bytes(data))
    try:
        ours = read_encoded(bytes(data), "damaged", exif=False)
    except DataError:
        assert theirs is None
    else:
        np.testing.assert_array_equal(ours, theirs)


def test_files_are_read_that_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(coded(picture(40, 50)))
    expected = pillow(path.read_bytes())

    def refuse(*_: object) -> None:
        raise AssertionError("Pillow decoded an ordinary file")

    monkeypatch.setattr(Image, "open", refuse)
    np.testing.assert_array_equal(ImageFile(path).read(), expected)
