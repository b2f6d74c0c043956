"""Thumbnails and masks of the samples that a page shows, within a limit on the size of the file."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lens_bench.errors import DataError
from lens_bench.masks import area, decode
from lens_bench.records import Box, ImageSource, Pixels, Prediction, Rle, Sample, Size
from lens_bench.run.files import JsonObject
from lens_bench.scoring.counts import PreparedTruth, prepare_truth
from lens_bench.scoring.protocols import Protocol

JPEG_QUALITY = 82
_ENTRY_BYTES = 200  # of a sample's JSON beside its masks


@dataclass(slots=True)
class Album:
    """Pictures and overlays of chosen samples.

    Attributes:
        pictures: Data URIs; several samples may share one.
        items: By row, what the page draws: see ``_item``.
        left_out: Samples chosen but not drawn, because the limit was reached.
        without_picture: Pictures that are not there or broken.
        size: Bytes so far.
    """

    pictures: list[str] = field(default_factory=list)
    items: dict[int, JsonObject] = field(default_factory=dict)
    left_out: int = 0
    without_picture: list[ImageSource] = field(default_factory=list)
    size: int = 0


def make_album(
    rows: Iterable[int],
    samples: Mapping[int, Sample],
    predictions: Sequence[Mapping[str, Prediction]],
    protocol: Protocol,
    *,
    side: int,
    max_bytes: int,
) -> Album:
    """Draw the given rows, the most important first, until ``max_bytes`` are used.

    A picture that is not there or broken is left out and named; its masks are drawn on a plain ground.

    Args:
        rows: Numbers of the page's samples.
        samples: By row.
        predictions: For every run, by sample id.
        protocol: Says how an annotation's parts merge and what its ignore regions are.
        side: Longest side of a thumbnail in pixels.
        max_bytes: Limit of pictures and masks together, as they stand in the file.

    Raises:
        DataError: An annotation cannot be used.
    """
    album = Album()
    known: dict[str, int | None] = {}
    original = replace(protocol, resize=None)  # people look at the image as it is, whatever size is scored
    for row in dict.fromkeys(rows):
        sample = samples.get(row)
        if sample is None:
            continue
        if album.size >= max_bytes:
            album.left_out += 1
            continue
        thumb = _thumb_size(sample.truth.size, side)
        if sample.image_id not in known:
            known[sample.image_id] = _add_picture(album, sample.image, thumb)
        answers = [by_id.get(sample.id) for by_id in predictions]
        item = _item(sample, answers, prepare_truth(sample.truth, original), thumb)
        album.items[row] = {"picture": known[sample.image_id], **item}
        album.size += _ENTRY_BYTES + _digits(item)
    return album


def _add_picture(album: Album, source: ImageSource, thumb: Size) -> int | None:
    """Add a thumbnail to the album and give its number; None where the picture cannot be read."""
    try:
        uri = _data_uri(source.read(), thumb)
    except DataError:
        album.without_picture.append(source)
        return None
    album.pictures.append(uri)
    album.size += len(uri)
    return len(album.pictures) - 1


def _item(sample: Sample, answers: Sequence[Prediction | None], truth: PreparedTruth, thumb: Size) -> JsonObject:
    """What the page draws of one sample. Masks are run lengths, row by row, at the size of the thumbnail.

    Boxes are fractions of width and height.
    """
    size = sample.truth.size
    return {
        "size": list(size),
        "thumb": list(thumb),
        "truth": _runs(truth.target, thumb) if truth.area else [],
        "ignore": _runs(truth.ignore, thumb) if truth.ignore is not None else [],
        "truthBox": _fractions(truth.box, size),
        "runs": [
            {
                "mask": _runs(a.mask, thumb) if a and a.mask and area(a.mask) else [],
                "box": _fractions(a.box, size) if a else None,
            }
            for a in answers
        ],
    }


def _thumb_size(size: Size, side: int) -> Size:
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _data_uri(pixels: Pixels, thumb: Size) -> str:
    image = Image.fromarray(pixels).resize((thumb[1], thumb[0]), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _runs(rle: Rle, thumb: Size) -> list[int]:
    """Run lengths in row order, background first, of the mask shrunk to ``thumb``: a pixel is set where half of it is.

    A mask that vanishes on the way keeps its strongest pixel, so that nobody takes it for an empty one.
    """
    share = cv2.resize(
        np.ascontiguousarray(decode(rle), dtype=np.float32), (thumb[1], thumb[0]), interpolation=cv2.INTER_AREA
    )
    small: NDArray[np.bool_] = np.asarray(share) >= min(0.5, float(np.max(share)))
    flat = small.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff(np.concatenate(([0], edges, [flat.size]))).tolist()
    return [0, *lengths] if flat[0] else list(lengths)


def _fractions(box: Box | None, size: Size) -> list[float] | None:
    if box is None:
        return None
    height, width = size
    return [round(v / s, 4) for v, s in zip(box, (width, height, width, height), strict=True)]


def _digits(value: object) -> int:
    """About how many bytes the JSON of an item takes."""
    if isinstance(value, dict):
        return sum(_digits(v) for v in value.values())
    if isinstance(value, list):
        return sum(_digits(v) for v in value) + 1
    return len(str(value)) + 1
