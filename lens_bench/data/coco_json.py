"""A user's own suite: COCO annotations and a list of expressions about them.

``annotations.json`` is COCO's format. The list is JSON, JSON Lines or CSV; an expression has the fields

=============== ==============================================================================================
``expression``  the text; required
``ann_ids``     the annotations it means: a list, or in CSV numbers with spaces between (also ``ann_id``,
                ``annotation_ids``, ``annotation_id``); an empty list says that nothing in the image is meant
``image_id``    the image; may be left out where there are annotations
``id``          a name of the row, unique in the file; otherwise its number from 0
``raw``         the text as typed, where it differs
``tags``        groups to report apart: a list, or in CSV words with spaces between
=============== ==============================================================================================
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lens_bench.data.images import ImageFile
from lens_bench.data.instances import Instances, box_of_xywh, load_instances, parts_of
from lens_bench.data.jsonio import (
    Record,
    as_int,
    as_list,
    as_name,
    as_record,
    clean_text,
    get_int,
    get_str,
    load_json,
    load_jsonl,
)
from lens_bench.data.paths import image_file
from lens_bench.data.split import Source
from lens_bench.errors import DataError
from lens_bench.records import GroundTruth, Part, Sample

_ANN_FIELDS: Final = ("ann_ids", "ann_id", "annotation_ids", "annotation_id")
_FIELDS: Final = (*_ANN_FIELDS, "expression", "image_id", "id", "raw", "tags")
_LISTS: Final = ("expressions_json", "expressions_jsonl", "expressions_csv")


@dataclass(frozen=True, slots=True)
class Row:
    """One expression of the list, checked."""

    name: str
    expression: str
    raw: str
    ann_ids: tuple[int, ...]
    image_id: int | None
    tags: tuple[str, ...]
    where: str


def read(source: Source) -> Iterable[Sample]:
    """Read one split.

    Raises:
        DataError: There is not exactly one list of expressions, a field is wrong or unknown, or an annotation or image
            does not exist.
    """
    rows = list(_rows(source))
    instances = load_instances(source.file("annotations"), None, {a for row in rows for a in row.ann_ids})
    truths: dict[tuple[int, tuple[int, ...]], GroundTruth] = {}
    images: dict[int, ImageFile] = {}
    for row in rows:
        image_id = _image_id(row, instances)
        truth = truths.get((image_id, row.ann_ids))
        if truth is None:
            truth = truths.setdefault((image_id, row.ann_ids), _truth(row, image_id, instances))
        if image_id not in images:
            images[image_id] = image_file(source, instances.image(image_id, row.where).file_name)
        yield Sample(
            id=f"{source.suite}/{source.split}/{row.name}",
            image_id=str(image_id),
            image=images[image_id],
            expression=row.expression,
            raw=row.raw,
            truth=truth,
            ref_id="+".join(map(str, row.ann_ids)) or None,
            key=row.name,
            tags=row.tags,
        )


def _image_id(row: Row, instances: Instances) -> int:
    owners = {get_int(instances.annotation(a, row.where), "image_id", f"annotation {a}") for a in row.ann_ids}
    if row.image_id is not None:
        owners.add(row.image_id)
    if len(owners) != 1:
        what = f"images {', '.join(map(str, sorted(owners)))}" if owners else "no image"
        raise DataError(f"{row.where} is about {what}", "an expression is about one image: give image_id or ann_ids")
    return owners.pop()


def _truth(row: Row, image_id: int, instances: Instances) -> GroundTruth:
    size = instances.image(image_id, row.where).size
    if len(set(row.ann_ids)) < len(row.ann_ids):  # protocols that sum parts would take both for background
        raise DataError(f"{row.where} names an annotation twice: {', '.join(map(str, row.ann_ids))}")
    parts: list[Part] = []
    for ann_id in row.ann_ids:
        record = instances.annotation(ann_id, row.where)
        parts += parts_of(record.get("segmentation"), size, f"annotation {ann_id} of {instances.path}")
    box = None
    if len(row.ann_ids) == 1:
        box = box_of_xywh(instances.annotation(row.ann_ids[0], row.where).get("bbox"), row.where)
    return GroundTruth(size=size, parts=tuple(parts), box=box, no_target=not row.ann_ids)


# ---------------------------------------------------------------------------------------------- the list


def _rows(source: Source) -> Iterator[Row]:
    found = [source.files[name] for name in _LISTS if name in source.files]
    if len(found) != 1:
        folder = source.file("annotations").parent
        names = ", ".join(p.name for p in found) or "none"
        raise DataError(
            f"{folder} must hold one list of expressions, it has: {names}",
            "write expressions.json, expressions.jsonl or expressions.csv: see lens_bench/data/coco_json.py",
        )
    for index, (where, record) in enumerate(_records(found[0])):
        yield _row(record, index, where)


def _records(path: Path) -> Iterator[tuple[str, Record]]:
    if path.suffix == ".csv":
        yield from _csv_records(path)
    elif path.suffix == ".jsonl":
        for number, record in load_jsonl(path):
            yield f"{path} line {number}", record
    else:
        for index, entry in enumerate(as_list(load_json(path), str(path))):
            yield f"entry {index} of {path}", as_record(entry, f"entry {index} of {path}")


def _csv_records(path: Path) -> Iterator[tuple[str, Record]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            header = list(reader.fieldnames or ())
            if len(set(header)) != len(header):
                raise DataError(f"{path} has two columns of one name", f"its header is: {', '.join(header)}")
            for values in reader:
                where = f"{path} line {reader.line_num}"
                if None in values or None in values.values():
                    raise DataError(f"{where} does not have as many fields as the header")
                yield (
                    where,
                    {
                        k: v.split() if k in (*_ANN_FIELDS, "tags") else v
                        for k, v in values.items()
                        if v or k in _ANN_FIELDS
                    },
                )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as UTF-8 CSV: {error}") from None


def _row(record: Record, index: int, where: str) -> Row:
    unknown = [key for key in record if key not in _FIELDS]
    if unknown:
        raise DataError(f"{where} has the unknown field {unknown[0]!r}", f"known are: {', '.join(_FIELDS)}")
    given = [key for key in _ANN_FIELDS if key in record]
    if len(given) > 1:
        raise DataError(f"{where} has both {given[0]!r} and {given[1]!r}", "give one")
    expression = get_str(record, "expression", where)
    raw = record.get("raw", expression)
    image_id = record.get("image_id")
    tags = as_list(record.get("tags", []), f"tags of {where}")
    return Row(
        name=as_name(record.get("id", index), f"id of {where}"),
        expression=expression,
        raw=clean_text(raw) if isinstance(raw, str) else expression,
        ann_ids=_ids(record[given[0]], where) if given else (),
        image_id=None if image_id is None else as_int(image_id, f"image_id of {where}"),
        tags=tuple(as_name(tag, f"a tag of {where}") for tag in tags),
        where=where,
    )


def _ids(value: object, where: str) -> tuple[int, ...]:
    values: Sequence[object] = value if isinstance(value, list | tuple) else [value]
    return tuple(as_int(v, f"an annotation id of {where}") for v in values)
