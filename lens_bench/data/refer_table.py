"""REFER sets as a table: a row an image, with its refs, their sentences and annotations (jxu124/refcoco-benchmark).

The only mirror of RefCOCO, RefCOCO+ and RefCOCOg in tables that keeps whole polygons; it has the evaluation splits, and
the images inside. Columns: ``image``; ``image_info`` (``file_name``, ``height``, ``width``); ``ref_list``, of
``ref_info`` and ``ann_info``, which have the fields of REFER's files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lens_bench.data.instances import get_size, truth_of
from lens_bench.data.jsonio import (
    RENUMBER,
    Record,
    as_list,
    as_record,
    clean_text,
    get_int,
    get_list,
    get_record,
    get_str,
    shown,
)
from lens_bench.data.split import Source
from lens_bench.data.tables import CellImage, Table, open_table
from lens_bench.errors import DataError
from lens_bench.records import GroundTruth, Sample


def read(source: Source) -> Iterable[Sample]:
    """Read one split; a sample is one sentence, as in ``refer``.

    Raises:
        DataError: The table is missing or has not the columns and fields of this format.
    """
    table = open_table(source)
    table.require(("image", "image_info", "ref_list"))
    rows: dict[str, int] = {}
    for row in range(len(table)):
        yield from _image(source, table, row, rows)


def _image(source: Source, table: Table, row: int, rows: dict[str, int]) -> Iterator[Sample]:
    where = f"row {row} of {table.name}"
    info = as_record(table.value(row, "image_info"), f"image_info of {where}")
    size = get_size(info, f"image_info of {where}")
    name = get_str(info, "file_name", where)
    if rows.setdefault(name, row) != row:
        raise DataError(f"rows {rows[name]} and {row} of {table.name} both are about image {shown(name)}", RENUMBER)
    image = CellImage(table, row, "image", source.exif)
    truths: dict[int, GroundTruth] = {}
    for entry in as_list(table.value(row, "ref_list"), f"ref_list of {where}"):
        record = as_record(entry, f"a ref of {where}")
        annotation = get_record(record, "ann_info", where)
        ann_id = get_int(annotation, "id", f"an annotation of {where}")
        if ann_id not in truths:
            truths[ann_id] = truth_of(annotation, size, f"annotation {ann_id} in {where}")
        elif truths[ann_id] != truth_of(annotation, size, where):
            raise DataError(f"{where} has two different annotations with the id {ann_id}", RENUMBER)
        yield from _sentences(source, get_record(record, "ref_info", where), truths[ann_id], image, name)


def _sentences(source: Source, ref: Record, truth: GroundTruth, image: CellImage, name: str) -> Iterator[Sample]:
    ref_id = get_int(ref, "ref_id", f"a ref of {image.name}")
    where = f"ref {ref_id} in {image.name}"
    for entry in get_list(ref, "sentences", where):
        sentence = as_record(entry, f"a sentence of {where}")
        sent_id = get_int(sentence, "sent_id", f"a sentence of {where}")
        sent = get_str(sentence, "sent", f"a sentence of {where}")
        raw = sentence.get("raw")
        yield Sample(
            id=f"{source.suite}/{source.split}/ref{ref_id}/sent{sent_id}",
            image_id=name,
            image=image,
            expression=sent,
            raw=clean_text(raw) if isinstance(raw, str) else sent,
            truth=truth,
            ref_id=str(ref_id),
            key=str(sent_id),
        )
