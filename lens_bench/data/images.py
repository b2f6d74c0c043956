"""Image files, decoded to RGB whatever their mode, with EXIF orientation by the suite's policy.

Alpha is dropped and not blended, as cv2.imread and PIL's ``convert("RGB")`` do in every published loader. EXIF: cv2
turns an image the way its orientation tag says, PIL does not, so papers differ; a suite card says which of the two its
annotations were drawn on (``exif: apply`` or ``ignore``). Pillow decides what a file holds; ordinary JPEG files are
decoded by OpenCV to the same pixels (``jpeg.py``).
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from lens_bench.data.jpeg import decode_jpeg
from lens_bench.errors import DataError
from lens_bench.records import Pixels, Size

DECODING = 1  # version of how a file becomes pixels here: raise it with every change to a pixel that models see
_ORIENTATION = 0x0112  # EXIF tag
_WIDTH, _HEIGHT, _BITS = 256, 257, 258  # TIFF tags
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BACK = {6: 8, 8: 6}  # the turns that do not undo themselves
_END = 2**16  # bytes of either end of a file that its fingerprint covers
_STEP = 2**24  # bytes that one system call is asked for
_SWAPS_SIDES = (5, 6, 7, 8)
# What Pillow raises on files that are cut off or not images; it has no common base for them.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image in a file. Implements ``records.EncodedImage``."""

    path: Path
    exif: bool = False

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    def exists(self) -> bool:
        """Whether the file is there."""
        return self.path.is_file()

    def read(self) -> Pixels:
        """Decode to RGB uint8 [H, W, 3]. Raises ``DataError`` naming the file where it is missing or broken."""
        return self.decode(self.encoded())

    def encoded(self) -> bytes:
        """The file's bytes. Raises ``DataError`` where it is missing."""
        with _naming(self.name):
            return _content(self.path)

    def decode(self, data: bytes) -> Pixels:
        """Decode the file's bytes. Raises ``DataError`` naming the file where they are no image."""
        return read_encoded(data, self.name, self.exif)

    def mark(self) -> str:
        """``fingerprint`` of the file, of which at most both ends are read; empty where it cannot be read."""
        return file_fingerprint(self.path)


def fingerprint(data: bytes) -> str:
    """Size and a digest of the first and last 64 KiB of an image file's bytes: ``163840:9f86d081884c7d65``.

    Two images that are not the same practically never agree in it; it is no protection against somebody who wants that.
    """
    ends = (data,) if len(data) <= 2 * _END else (data[:_END], data[-_END:])
    return _fingerprint(len(data), ends)


def file_fingerprint(path: Path) -> str:
    """``fingerprint`` of a file; empty where it cannot be read."""
    try:
        with path.open("rb", buffering=0) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size <= 2 * _END:
                return fingerprint(stream.read())
            first = os.pread(stream.fileno(), _END, 0)
            return _fingerprint(size, (first, os.pread(stream.fileno(), _END, size - _END)))
    except OSError:
        return ""


def _fingerprint(size: int, parts: Iterable[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part)
    return f"{size}:{digest.hexdigest()}"


def _content(path: Path) -> bytes:
    """``path.read_bytes()`` in half as many system calls: at each a thread hands on the GIL and waits for it again."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        size = os.fstat(descriptor).st_size
        data = os.read(descriptor, size)
        return data if len(data) == size else _rest(descriptor, data)
    finally:
        os.close(descriptor)


def _rest(descriptor: int, data: bytes) -> bytes:
    """What a system call read of a file, and all behind it."""
    parts = [data]
    while parts[-1]:
        parts.append(os.read(descriptor, _STEP))
    return b"".join(parts)


def read_encoded(data: bytes, name: str, exif: bool) -> Pixels:
    """Decode the bytes of an image file to RGB uint8 [H, W, 3]; ``name`` is used in the ``DataError``."""
    pixels = decode_jpeg(data, exif=exif)
    if pixels is not None:
        return pixels
    with opened(io.BytesIO(data), name) as image:
        return to_rgb(image, exif)


def image_size(path: Path, exif: bool) -> Size:
    """(height, width) from the header, nothing decoded; with ``exif``, of the image as the tag turns it.

    Raises:
        DataError: The file is missing or not an image.
    """
    with opened(path, str(path)) as image:
        return _size(image, exif)


def encoded_size(data: bytes, name: str, exif: bool) -> Size:
    """(height, width) of an image file's bytes, from its header."""
    with opened(io.BytesIO(data), name) as image:
        return _size(image, exif)


def to_rgb(image: Image.Image, exif: bool) -> Pixels:
    """A PIL image of any mode as RGB uint8 [H, W, 3], turned by its EXIF tag where ``exif``.

    Raises:
        ValueError: The mode has no fixed range (floating point) or no conversion.
    """
    turn = _TURN.get(_orientation(image)) if exif else None
    wide = image.mode == "I" and not _has_16_bits(image)
    image = stored(image)
    upright = image.transpose(turn) if turn is not None else image
    if upright.mode in ("I", "I;16", "I;16L", "I;16B", "I;16N"):
        values = np.asarray(upright)
        if values.min() < 0 or values.max() > (0xFF if wide else 0xFFFF):
            raise ValueError("32-bit pixels have no fixed range; save the image with 8 or 16 bits")
        grey = (values if wide else values >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if upright.mode == "F":
        raise ValueError("floating-point pixels have no fixed range")
    if upright.mode in ("P", "PA", "LA", "La", "RGBa"):  # by way of RGBA, which reads every kind of transparency
        upright = upright.convert("RGBA")
    return np.array(upright if upright.mode == "RGB" else upright.convert("RGB"), dtype=np.uint8)


def stored(image: Image.Image) -> Image.Image:
    """The image on the grid of its stored pixels, decoded. Pillow turns TIFFs by their orientation; this turns back."""
    if not isinstance(image, TiffImageFile):
        return image
    turned = _orientation(image)  # to be asked before Pillow decodes: it removes the tag
    image.load()
    back = _TURN.get(_BACK.get(turned, turned))
    if back is None:
        return image
    return image.transpose(back)


def _size(image: Image.Image, exif: bool) -> Size:
    width, height = image.size
    if isinstance(image, TiffImageFile):  # its `size` is that of the image as Pillow will turn it
        width, height = image.tag_v2[_WIDTH], image.tag_v2[_HEIGHT]
    return (width, height) if exif and _orientation(image) in _SWAPS_SIDES else (height, width)


def _has_16_bits(image: Image.Image) -> bool:
    """Whether an image that Pillow opened as 32-bit "I" has 16: a PPM, whose values it scales, or a signed TIFF."""
    if isinstance(image, TiffImageFile):
        return image.tag_v2.get(_BITS) in (16, (16,))
    return image.format in ("PNG", "PPM")


def _orientation(image: Image.Image) -> int:
    value = image.getexif().get(_ORIENTATION, 1)
    return value if isinstance(value, int) else 1


@contextmanager
def opened(source: Path | io.BytesIO, name: str) -> Iterator[Image.Image]:
    """Open an image; whatever goes wrong inside the block is a ``DataError`` that names it."""
    with _naming(name), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # damaged EXIF and large images; what matters is raised
        with Image.open(source) as image:
            yield cast("Image.Image", image)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"image {name} is missing", "`lens-bench data verify` lists every missing image") from None
    except _BROKEN as error:
        unknown = isinstance(error, UnidentifiedImageError)  # its text holds an address in memory
        reason = "it is in no known format" if unknown else " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"image {name} cannot be decoded: {reason}", "the file is cut off or not an image") from None
