"""Any table with an image, a text and a mask in a row, read with ``datasets``: on disk, or from the hub if asked.

The suite's card says which column holds what (``columns``) and what the mask column looks like (option ``mask``):

=========== ========================================================================================================
``dense``   rows of booleans or numbers, [H][W] (the Seg-Zero mirrors), also [1][H][W] or ``datasets.Array2D``
``png``     an image in a lossless format, as ``datasets.Image`` stores it or as bytes
``rle``     COCO RLE, an object, a list of objects, or one of these as JSON text
``polygon`` a list of flat polygons, or one flat polygon, or one of these as JSON text
=========== ========================================================================================================

Dense masks and images have two values, of which 0 is background; with the option ``mask_threshold``, all from that
value on is foreground (see ``mask_files``). Rows of one ``image_id`` must hold one image.

Options: ``mask``; ``mask_threshold``; ``table_split``, which split of the table; ``box`` (``xyxy``, ``xywh``); and for
the hub ``repo``, ``revision``, ``config`` and ``download: true``, without which nothing is ever fetched. Images and
masks are read from the table when they are needed. ``datasets`` is imported only when a table is opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from lens_bench.data.dense import size_of
from lens_bench.data.instances import box_of_xywh, box_of_xyxy, get_size, parts_of
from lens_bench.data.jsonio import as_list, as_name, as_text, shown
from lens_bench.data.mask_files import threshold_of
from lens_bench.data.split import Source
from lens_bench.data.tables import CellImage, CellMask, Table, open_table, parse_cell
from lens_bench.errors import DataError, UsageError
from lens_bench.records import Box, GroundTruth, Part, Sample, Size

MASKS: Final = ("dense", "png", "rle", "polygon")
COLUMNS: Final = ("image", "text", "mask", "image_id", "key", "box", "height", "width", "is_sentence", "tags")


def read(source: Source) -> Iterable[Sample]:
    """Read one split: a sample a row, or several where the text column holds a list.

    Raises:
        DataError: The table is missing or malformed, or has not the columns that the card names.
        UsageError: The card names an unknown column role or an unknown form of mask.
    """
    columns = dict(source.columns)
    unknown = [role for role in columns if role not in COLUMNS]
    if unknown:
        raise UsageError(f"suite {source.suite} maps an unknown column {unknown[0]!r}", f"known: {', '.join(COLUMNS)}")
    missing = [role for role in ("image", "text", "mask") if role not in columns]
    if missing:
        raise UsageError(f"suite {source.suite} does not say which column holds the {missing[0]}")
    form = str(source.options.get("mask", "dense"))
    if form not in MASKS:
        raise UsageError(f"suite {source.suite} has mask form {form!r}", f"known: {', '.join(MASKS)}")
    table = open_table(source)
    table.require(columns.values())
    images: dict[str, CellImage] = {}
    for row in range(len(table)):
        yield from _samples(source, table, row, columns, form, images)


def _samples(
    source: Source, table: Table, row: int, columns: dict[str, str], form: str, images: dict[str, CellImage]
) -> Iterator[Sample]:
    cells = {
        role: table.value(row, column)
        for role, column in columns.items()
        if role != "image" and not (role == "mask" and form in ("dense", "png"))
    }
    where = f"row {row} of {table.name}"
    image = CellImage(table, row, columns["image"], source.exif, source.images)
    image_id = as_name(cells["image_id"], f"{columns['image_id']} of {where}") if "image_id" in cells else str(row)
    _check_image(images.setdefault(image_id, image), image, image_id)
    truth = _truth(source, table, row, columns["mask"], form, cells, image)
    texts = cells["text"]
    expressions = [texts] if isinstance(texts, str) else as_list(texts, f"{columns['text']} of {where}")
    key, tags = cells.get("key"), cells.get("tags")
    groups = [tags] if isinstance(tags, str) else as_list(tags or [], f"tags of {where}")
    for index, entry in enumerate(expressions):
        text = as_text(entry, f"{columns['text']} of {where}")
        yield Sample(
            id=f"{source.suite}/{source.split}/{row}/{index}",
            image_id=image_id,
            image=image,
            expression=text,
            raw=text,
            truth=truth,
            is_sentence=_flag(cells.get("is_sentence"), f"is_sentence of {where}"),
            ref_id=str(row),
            key=f"{row}/{index}" if key is None or len(expressions) > 1 else as_name(key, f"key of {where}"),
            tags=tuple(as_name(tag, f"a tag of {where}") for tag in groups),
        )


def _check_image(first: CellImage, image: CellImage, image_id: str) -> None:
    """One id is one image: a model is shown that of the first row for all of them."""
    if first is not image and first.exists() and image.exists() and first.fingerprint() != image.fingerprint():
        raise DataError(
            f"{first.name} and row {image.row} hold different images under the image_id {shown(image_id)}",
            "number the images of merged tables anew, or leave image_id out of the card's columns",
        )


def _flag(value: object, where: str) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    if value in (0, 1):
        return bool(value)
    raise DataError(f"{where} is not a boolean: {shown(value)}")


def _truth(
    source: Source, table: Table, row: int, column: str, form: str, cells: dict[str, object], image: CellImage
) -> GroundTruth:
    where = f"row {row} of {table.name}"
    size = _size(table, row, column, form, cells, image)
    parts: tuple[Part, ...]
    if form in ("dense", "png"):
        parts = (CellMask(table, row, column, dense=form == "dense", threshold=threshold_of(source)),)
    else:
        parts = parts_of(_segmentation(cells["mask"], form, f"the mask in {where}"), size, where)
    return GroundTruth(size=size, parts=parts, box=_box(source, cells.get("box"), where))


def _size(table: Table, row: int, column: str, form: str, cells: dict[str, object], image: CellImage) -> Size:
    """From the columns that say it, else from the mask, else from the image's header."""
    where = f"row {row} of {table.name}"
    if "height" in cells and "width" in cells:
        return get_size(cells, where)
    if form == "dense":
        return size_of(table.cell(row, column), f"{column} of {where}")
    return image.size()


def _segmentation(value: object, form: str, where: str) -> object:
    parsed = parse_cell(value, where)
    if form == "polygon" and isinstance(parsed, list) and parsed and isinstance(parsed[0], int | float):
        return [parsed]
    return parsed


def _box(source: Source, value: object, where: str) -> Box | None:
    return (box_of_xywh if source.options.get("box") == "xywh" else box_of_xyxy)(value, where)
