"""Masks that are images: files of their own, read when they are needed, and the bytes of such files.

A mask has two values, of which black is background. Anything else (soft edges, several objects, a lossy format, whose
edges are neither black nor white) would have to be guessed at, so it is refused, unless the suite's card says with the
reader option ``mask_threshold`` from which value on a pixel is foreground.
"""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lens_bench.data.images import opened, stored
from lens_bench.data.split import Source
from lens_bench.errors import DataError, UsageError
from lens_bench.masks import encode
from lens_bench.records import BoolMask, Rle, Size

_LOSSY: Final = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF")  # some can be lossless too, but do not say whether they are
_GREY: Final = ("1", "L", "I", "I;16", "I;16L", "I;16B", "I;16N", "F")
_COLOUR: Final = ("RGB", "RGBA", "RGBX", "LA", "P", "PA")
_GUESS = "save it with two values (PNG), or set the reader option `mask_threshold` on the suite's card"


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A mask in an image file. Implements ``records.MaskSource``."""

    path: Path
    threshold: float | None = None

    def rle(self, size: Size) -> Rle:
        """The mask at ``size``. Raises ``DataError`` where it cannot be read, is not a mask or has another size."""
        with opened(self.path, str(self.path)) as image:
            name = f"mask {self.path}"
            return encode_sized(foreground(image, name, self.threshold), size, name)

    def fingerprint(self) -> bytes:
        """SHA-256 of the file and the threshold. Raises ``DataError`` where it cannot be read."""
        try:
            return fingerprint(self.path.read_bytes(), self.threshold)
        except OSError as error:
            raise DataError(f"mask {self.path} cannot be read: {error.strerror}") from None


def threshold_of(source: Source) -> float | None:
    """The reader option ``mask_threshold``. Raises ``UsageError`` where it is not a number."""
    value = source.options.get("mask_threshold")
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)):
        return value
    raise UsageError(f"reader option mask_threshold={value!r} of suite {source.suite} is not a number")


def fingerprint(data: bytes, threshold: float | None) -> bytes:
    """SHA-256 of a mask as stored, and of what makes a mask of it."""
    return hashlib.sha256(data if threshold is None else data + f"\0{threshold}".encode()).digest()


def foreground(image: Image.Image, name: str, threshold: float | None = None) -> BoolMask:
    """The foreground of a mask image, bool [H, W], on the grid of its stored pixels; alpha never counts.

    Args:
        image: Of any mode.
        name: Of the mask, for a message.
        threshold: From which value on a pixel is foreground (of colours the largest); None where all but black is.

    Raises:
        DataError: Without a threshold, the image has more than two values, none of two is black, its format is lossy,
            or its palette or alpha channel contradicts it.
    """
    lossy = image.format in _LOSSY or "jpeg" in str(image.info.get("compression", ""))
    image = stored(image)
    if image.mode not in (*_GREY, *_COLOUR):
        raise DataError(f"{name} has the colour mode {image.mode}", "save it in black and white")
    values = _values(image)
    if threshold is not None:
        return at_least(values.max(axis=2) if values.ndim == 3 else values, threshold, name)
    if lossy:
        raise DataError(f"{name} is in a lossy format ({image.format or 'JPEG'})", _GUESS)
    codes = values @ np.array([1, 256, 65536], dtype=np.uint32) if values.ndim == 3 else values
    if image.mode in ("P", "PA") and bool(np.any((np.asarray(image.getchannel(0)) != 0) != (codes != 0))):
        raise DataError(f"{name} has a palette in which index 0 is not black or another one is", _GUESS)
    if "A" in image.getbands() and _says_more(np.asarray(image.getchannel("A")), codes):
        raise DataError(f"{name} is of one colour, and its alpha channel is not", "save the mask as grey values")
    return two_valued(codes, name)


def _values(image: Image.Image) -> NDArray[np.generic]:
    """Grey values [H, W], or colours uint32 [H, W, 3]."""
    if image.mode in _GREY:
        return np.asarray(image)
    return np.asarray(image.convert("RGBA").convert("RGB")).astype(np.uint32)


def _says_more(alpha: NDArray[np.uint8], codes: NDArray[np.generic]) -> bool:
    return bool(alpha.min() != alpha.max() and codes.min() == codes.max())


def two_valued(values: NDArray[np.generic], name: str) -> BoolMask:
    """Values [H, W] as a mask: all that is not 0. Raises ``DataError`` for more than two values, or two without a 0."""
    if not values.size:
        raise DataError(f"{name} has no pixel")
    low, high = values.min(), values.max()
    if values.dtype.kind == "f" and not bool(np.isin((low, high), (0, 1)).all()):
        raise DataError(f"{name} has values that are neither 0 nor 1, from {low} to {high}", _GUESS)
    mask: BoolMask = values != 0
    if low != high and (low != 0 or not bool(np.all(~mask | (values == high)))):
        raise DataError(f"{name} has more than one value beside 0, up to {high}", _GUESS)
    return mask


def at_least(values: NDArray[np.generic], threshold: float, name: str) -> BoolMask:
    """Values [H, W] from a threshold on. Raises ``DataError`` for values that are no numbers."""
    if values.dtype.kind == "f" and not bool(np.isfinite(values).all()):
        raise DataError(f"{name} has values that are not finite")
    return np.asarray(values >= np.float64(threshold), dtype=np.bool_)


def decode_mask(data: bytes, name: str, threshold: float | None = None) -> BoolMask:
    """Decode the bytes of a mask image to bool [H, W]: see ``foreground``."""
    with opened(io.BytesIO(data), name) as image:
        return foreground(image, name, threshold)


def encode_sized(mask: BoolMask, size: Size, name: str) -> Rle:
    """Encode a mask that must have ``size``."""
    if mask.shape != size:
        raise DataError(
            f"{name} is {mask.shape[1]}x{mask.shape[0]}, its image {size[1]}x{size[0]}",
            "mask and image must be of one version: get both again",
        )
    return encode(mask)
