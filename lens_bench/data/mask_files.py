"""Masks that are image files of their own, read when they are needed."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lens_bench.data.images import opened
from lens_bench.errors import DataError
from lens_bench.masks import encode
from lens_bench.records import BoolMask, Rle, Size


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A mask in an image file; every pixel that is not zero is foreground. Implements ``records.MaskSource``."""

    path: Path

    def rle(self, size: Size) -> Rle:
        """The mask at ``size``. Raises ``DataError`` where it cannot be read or has another size."""
        with opened(self.path, str(self.path)) as image:
            return encode_sized(foreground(image), size, str(self.path))

    def fingerprint(self) -> bytes:
        """SHA-256 of the file. Raises ``DataError`` where it cannot be read."""
        try:
            return hashlib.sha256(self.path.read_bytes()).digest()
        except OSError as error:
            raise DataError(f"mask {self.path} cannot be read: {error.strerror}") from None


def foreground(image: Image.Image) -> BoolMask:
    """Pixels of a mask image that are not zero, bool [H, W]; of palettes the index counts, alpha never."""
    bands = [b for b in image.getbands() if b not in ("A", "a")]
    channels = [np.asarray(image.getchannel(b)) if len(image.getbands()) > 1 else np.asarray(image) for b in bands]
    mask: BoolMask = np.any(np.stack(channels), axis=0)
    return mask


def decode_mask(data: bytes, name: str) -> BoolMask:
    """Decode the bytes of a mask image to bool [H, W]; ``name`` is used in the ``DataError``."""
    with opened(io.BytesIO(data), name) as image:
        return foreground(image)


def encode_sized(mask: BoolMask, size: Size, name: str) -> Rle:
    """Encode a mask that must have ``size``."""
    if mask.shape != size:
        raise DataError(
            f"mask {name} is {mask.shape[1]}x{mask.shape[0]}, its image {size[1]}x{size[0]}",
            "mask and image must be of one version: get both again",
        )
    return encode(mask)
