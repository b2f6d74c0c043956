"""COCO's ``instances.json`` and the forms an annotation's ``segmentation`` takes in it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lens_bench.data.jsonio import (
    REFETCH,
    RENUMBER,
    Record,
    as_list,
    as_number,
    as_record,
    get_int,
    get_list,
    get_str,
    load_json,
    shown,
)
from lens_bench.errors import DataError
from lens_bench.masks import check_size, rle_from_json
from lens_bench.records import Box, GroundTruth, Part, Polygon, Rle, Size

# Coordinates may leave the image; pycocotools allocates memory in proportion to them, so nonsense is refused.
_FARTHEST = 1e6
_TRIANGLE = 6  # numbers


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """One entry of ``images``."""

    file_name: str
    size: Size


@dataclass(frozen=True, slots=True)
class Instances:
    """The part of an ``instances.json`` that a split needs. ``annotations`` are raw records, by id."""

    path: Path
    images: Mapping[int, ImageInfo]
    annotations: Mapping[int, Record]

    def image(self, image_id: int, where: str) -> ImageInfo:
        """The image of an id. Raises ``DataError`` naming ``where`` it is asked for."""
        if image_id not in self.images:
            raise DataError(f"{where} names image {image_id}, which {self.path} does not have", _PAIR)
        return self.images[image_id]

    def annotation(self, ann_id: int, where: str) -> Record:
        """The annotation of an id. Raises ``DataError`` naming ``where`` it is asked for."""
        if ann_id not in self.annotations:
            raise DataError(f"{where} names annotation {ann_id}, which {self.path} does not have", _PAIR)
        return self.annotations[ann_id]


_PAIR = "the two files must be of one version: get both again"


def load_instances(path: Path, image_ids: Collection[int] | None, ann_ids: Collection[int] | None) -> Instances:
    """Read the wanted images and annotations (None: all) and let go of the rest.

    Raises:
        DataError: The file is missing or malformed.
    """
    content = as_record(load_json(path), str(path))
    images = _wanted(content, "images", image_ids, path)
    annotations = _wanted(content, "annotations", ann_ids, path)
    return Instances(path, {i: _image(r, f"image {i} of {path}") for i, r in images.items()}, annotations)


def _wanted(content: Record, table: str, ids: Collection[int] | None, path: Path) -> dict[int, Record]:
    wanted: dict[int, Record] = {}
    for record in get_list(content, table, str(path)):  # hundreds of thousands: nothing is built for the unwanted
        if not isinstance(record, dict) or not isinstance(record.get("id"), int):
            raise DataError(f"{path} has an entry without an integer id under {table!r}", REFETCH)
        number: int = record["id"]
        if ids is None or number in ids:
            if number in wanted:
                raise DataError(f"{path} has two entries with the id {number} under {table!r}", RENUMBER)
            wanted[number] = record
    return wanted


def _image(record: Record, where: str) -> ImageInfo:
    return ImageInfo(get_str(record, "file_name", where), get_size(record, where))


def get_size(record: Record, where: str, height: str = "height", width: str = "width") -> Size:
    """Two fields as the (height, width) of an image."""
    size = (get_int(record, height, where), get_int(record, width, where))
    check_size(size, where)
    return size


# ---------------------------------------------------------------------------------------------- annotations


def truth_of(record: Record, size: Size, where: str) -> GroundTruth:
    """One annotation as ground truth: parts from ``segmentation``, box from ``bbox`` (x, y, width, height).

    Raises:
        DataError: The segmentation is in no known form or does not fit the image; ``where`` names it.
    """
    return GroundTruth(
        size=size,
        parts=parts_of(record.get("segmentation"), size, where),
        box=box_of_xywh(record.get("bbox"), where),
    )


def parts_of(segmentation: object, size: Size, where: str, *, drop_short: bool = False) -> tuple[Part, ...]:
    """Read a ``segmentation``: polygons, run lengths (compressed or not), a list of either, or nothing.

    Args:
        segmentation: A list of flat polygons ``[[x1, y1, ...], ...]``; a list of RLE objects; one RLE object
            (``iscrowd``: uncompressed); an empty list or None.
        size: (height, width) of the image. An RLE must have it; polygons may leave the image.
        where: Names the annotation in a message.
        drop_short: Leave out polygons of fewer than three points, where a suite's authors do.

    Raises:
        DataError: Anything else, and polygons that are not in pixels of the image: all coordinates between 0 and 1.
    """
    if segmentation is None:
        return ()
    if isinstance(segmentation, dict):
        return (_rle(segmentation, size, where),)
    parts = [
        _rle(item, size, where) if isinstance(item, dict) else Polygon(coordinates_of(item, where))
        for item in as_list(segmentation, f"segmentation of {where}")
    ]
    if drop_short:
        parts = [p for p in parts if not isinstance(p, Polygon) or len(p.points) >= _TRIANGLE]
    check_polygons([p for p in parts if isinstance(p, Polygon)], size, where)
    return tuple(parts)


def check_polygons(polygons: Sequence[Polygon], size: Size, where: str) -> None:
    """Raise ``DataError`` where polygons of one annotation cannot be meant as pixels of an image of ``size``."""
    for polygon in polygons:
        if len(polygon.points) < _TRIANGLE:
            raise DataError(
                f"{where} has a polygon of {len(polygon.points)} numbers, which covers nothing",
                "a polygon is [x1, y1, x2, y2, x3, y3, ...]: not a box, and not a list of points",
            )
    require_pixels([p.points for p in polygons], size, where)


def require_pixels(outlines: Sequence[Sequence[float]], size: Size, where: str) -> None:
    """Raise ``DataError`` where all coordinates of an annotation are fractions of an image of ``size``, not pixels."""
    known = [points for points in outlines if points]
    if known and size != (1, 1) and all(0 <= min(points) and max(points) <= 1 for points in known):
        raise DataError(
            f"{where} has polygons whose coordinates are all between 0 and 1",
            "coordinates are in pixels: multiply x by the width of the image and y by its height",
        )


def coordinates_of(values: object, where: str) -> tuple[float, ...]:
    """A flat list of coordinates in pixels, x and y by turns."""
    if not isinstance(values, list | tuple):
        raise DataError(f"{where} has a polygon that is not a list of numbers", REFETCH)
    points: list[float] = []
    for value in values:
        if not isinstance(value, int | float) or not -_FARTHEST <= value <= _FARTHEST:
            raise DataError(f"{where} has a polygon with the coordinate {shown(value)}", REFETCH)
        points.append(float(value))
    if len(points) % 2:
        raise DataError(f"{where} has a polygon with an odd number of coordinates ({len(points)})", REFETCH)
    return tuple(points)


def _rle(value: Record, size: Size, where: str) -> Rle:
    rle = rle_from_json(value, f"segmentation of {where}")
    if rle.size != size:
        raise DataError(
            f"{where} has an RLE of {rle.size[1]}x{rle.size[0]} on an image of {size[1]}x{size[0]}", REFETCH
        )
    return rle


def box_of_xywh(value: object, where: str) -> Box | None:
    """COCO's ``[x, y, width, height]`` as corners; None where there is no box."""
    numbers = _four(value, where)
    if numbers is None:
        return None
    x, y, width, height = numbers
    return (x, y, x + width, y + height)


def box_of_xyxy(value: object, where: str) -> Box | None:
    """Corners ``[x1, y1, x2, y2]``; None where there is no box."""
    return _four(value, where)


def _four(value: object, where: str) -> Box | None:
    if value is None or value == []:
        return None
    if not isinstance(value, list | tuple) or len(value) != 4:
        raise DataError(f"the box of {where} does not have four numbers: {shown(value)}", REFETCH)
    x, y, right, low = (as_number(v, f"a number of the box of {where}") for v in value)
    return (x, y, right, low)
