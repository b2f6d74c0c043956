"""Ordinary JPEG files, decoded by OpenCV in four fifths of the time of Pillow and, unlike there, all of it off the GIL.

Both are libjpeg-turbo with its exact transforms and give the same pixels (tested over samplings, qualities, progressive
and grey files). They differ in what they do with the rest: OpenCV returns something for files that Pillow refuses. So
every marker of a file is looked at first, and a file with anything unusual in it is left to Pillow.
"""

from __future__ import annotations

import re
from typing import Final, cast

import cv2
import numpy as np

from lens_bench.records import Pixels

_START, _SCAN, _END, _EXIF, _ADOBE = 0xD8, 0xDA, 0xD9, 0xE1, 0xEE
_FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive; Huffman-coded all three
_TABLES: Final = frozenset({0xC4, 0xDB, 0xDD, 0xFE})  # Huffman, quantisation, restart interval, comment
_APPLICATION: Final = frozenset(range(0xE0, 0xF0)) - {_ADOBE}  # Adobe's says that colours are other than usual
# In coded data a byte 255 is followed by 0, or is a restart marker.
_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7]")
_MOST_PIXELS = 80_000_000  # Pillow warns from 89 million on, and refuses twice that


def decode_jpeg(data: bytes, *, exif: bool) -> Pixels | None:
    """RGB uint8 [H, W, 3], or None where the bytes are not a JPEG file of which Pillow is sure to say the same.

    Args:
        data: Content of a file of any kind.
        exif: The orientation that a file may name is to be applied: then one that might name it is left to Pillow.
    """
    if not _is_ordinary(data, exif=exif):
        return None
    try:
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        return cast("Pixels | None", cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags))
    except cv2.error:
        return None


def _is_ordinary(data: bytes, *, exif: bool) -> bool:
    """Whether the file is a whole chain of known markers, from the first byte to the last."""
    if data[:3] != bytes((0xFF, _START, 0xFF)):
        return False
    at, framed, scanned = 2, False, False
    while at + 4 <= len(data):
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at] != 0xFF or length < 2:
            return False
        if marker in _FRAMES:
            if framed or not _is_ordinary_frame(data[at + 4 : at + 2 + length]):
                return False
            framed = True
        elif marker == _SCAN and framed:
            scanned = True
        elif marker not in _TABLES and not (marker in _APPLICATION and not (exif and marker == _EXIF)):
            return False
        at += 2 + length
        if marker == _SCAN:
            found = _MARKER.search(data, at)
            if found is None:
                return False
            at = found.start()
    return scanned and data[at:] == bytes((0xFF, _END))


def _is_ordinary_frame(frame: bytes) -> bool:
    """Eight bits, a height, a width, one colour or three."""
    if len(frame) < 6 or frame[0] != 8 or frame[5] not in (1, 3):
        return False
    pixels = int.from_bytes(frame[1:3], "big") * int.from_bytes(frame[3:5], "big")
    return 0 < pixels <= _MOST_PIXELS
