"""Any table with an image, a text and a mask in a row, read with ``datasets``: on disk, or from the hub if asked.

The suite's card says which column holds what (``columns``) and what the mask column looks like (option ``mask``):

=========== ========================================================================================================
``dense``   rows of booleans or numbers, [H][W] (the Seg-Zero mirrors)
``png``     an image, as ``datasets.Image`` stores it or as bytes; every pixel that is not zero is foreground
``rle``     COCO RLE, an object, a list of objects, or one of these as JSON text
``polygon`` a list of flat polygons, or one flat polygon, or one of these as JSON text
=========== ========================================================================================================

Options: ``mask``; ``table_split``, which split of the table; ``box`` (``xyxy`` or ``xywh``); and for the hub ``repo``,
``revision``, ``config`` and ``download: true``, without which nothing is ever fetched. Images and masks are read from
the table when they are needed. ``datasets`` is imported only when a table is opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from lens_bench.data.instances import box_of_xywh, box_of_xyxy, parts_of
from lens_bench.data.jsonio import as_int, as_list
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
    for row in range(len(table)):
        yield from _samples(source, table, row, columns, form)


def _samples(source: Source, table: Table, row: int, columns: dict[str, str], form: str) -> Iterator[Sample]:
    cells = {
        role: table.value(row, column)
        for role, column in columns.items()
        if role != "image" and not (role == "mask" and form in ("dense", "png"))
    }
    where = f"row {row} of {table.name}"
    image = CellImage(table, row, columns["image"], source.exif, source.images)
    image_id = str(cells["image_id"]) if "image_id" in cells else str(row)
    truth = _truth(source, table, row, columns["mask"], form, cells, image)
    texts = cells["text"]
    expressions = [texts] if isinstance(texts, str) else as_list(texts, f"{columns['text']} of {where}")
    sentence, tags = cells.get("is_sentence"), cells.get("tags")
    for index, text in enumerate(expressions):
        if not isinstance(text, str):
            raise DataError(f"{columns['text']} of {where} is not a text, but {type(text).__name__}")
        yield Sample(
            id=f"{source.suite}/{source.split}/{row}/{index}",
            image_id=image_id,
            image=image,
            expression=text,
            raw=text,
            truth=truth,
            is_sentence=None if sentence is None else bool(sentence),
            ref_id=str(row),
            key=str(cells["key"]) if "key" in cells and len(expressions) == 1 else f"{row}/{index}",
            tags=tuple(str(t) for t in ([tags] if isinstance(tags, str) else as_list(tags or [], where))),
        )


def _truth(
    source: Source, table: Table, row: int, column: str, form: str, cells: dict[str, object], image: CellImage
) -> GroundTruth:
    where = f"row {row} of {table.name}"
    size = _size(table, row, column, form, cells, image)
    parts: tuple[Part, ...]
    if form in ("dense", "png"):
        parts = (CellMask(table, row, column, dense=form == "dense"),)
    else:
        parts = parts_of(_segmentation(cells["mask"], form, f"the mask in {where}"), size, where)
    return GroundTruth(size=size, parts=parts, box=_box(source, cells.get("box"), where))


def _size(table: Table, row: int, column: str, form: str, cells: dict[str, object], image: CellImage) -> Size:
    """From the columns that say it, else from the mask, else from the image's header."""
    where = f"row {row} of {table.name}"
    if "height" in cells and "width" in cells:
        return (as_int(cells["height"], f"height of {where}"), as_int(cells["width"], f"width of {where}"))
    if form == "dense":
        return table.dense_size(row, column)
    return image.size()


def _segmentation(value: object, form: str, where: str) -> object:
    parsed = parse_cell(value, where)
    if form == "polygon" and isinstance(parsed, list) and parsed and isinstance(parsed[0], int | float):
        return [parsed]
    return parsed


def _box(source: Source, value: object, where: str) -> Box | None:
    return (box_of_xywh if source.options.get("box") == "xywh" else box_of_xyxy)(value, where)
