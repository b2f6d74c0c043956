"""Image files of generated suites: encoding, decoding, and the digest of their pixels."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from lens_bench.errors import DataError
from lens_bench.records import Pixels

# On noise the filters of PNG cost time and bytes.
_PNG: Final = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE)


def write_png(path: Path, pixels: Pixels) -> bytes:
    """Write RGB [H, W, 3] without loss; returns the digest of the pixels."""
    _, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), _PNG)
    path.write_bytes(data.tobytes())
    return digest(pixels)


def write_jpeg(path: Path, pixels: Pixels, quality: int) -> bytes:
    """Write RGB [H, W, 3] at a quality of 0 to 100; returns the digest of the pixels as they decode again."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, quality))
    path.write_bytes(data.tobytes())
    return file_digest(path)


def file_digest(path: Path) -> bytes:
    """Digest of the pixels of an image file. Raises ``DataError`` where it cannot be read or decoded."""
    try:
        bgr = cv2.imdecode(np.frombuffer(path.read_bytes(), dtype=np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error):
        bgr = None
    if bgr is None:
        raise DataError(f"{path} cannot be decoded")
    return digest(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False))


def digest(pixels: Pixels) -> bytes:
    """SHA-256 of an image's size and RGB values."""
    return hashlib.sha256(f"{pixels.shape}".encode() + np.ascontiguousarray(pixels).tobytes()).digest()
