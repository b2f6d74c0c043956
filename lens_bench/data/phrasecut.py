"""PhraseCut: phrases about regions of Visual Genome (ChenyunWu/PhraseCutDataset, ``VGPhraseCut_v0``).

``refer_<split>.json`` is a list of tasks; a task's ground truth is the union of all its instances. Sizes are in
``image_data_split3000.json``. The authors' ``val`` leaves out the 100 images of ``miniv``; the whole validation set is
both. Outlines of one or two points, which cover nothing, are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from lens_bench.data.images import ImageFile
from lens_bench.data.instances import box_of_xywh, get_size, parts_of
from lens_bench.data.jsonio import (
    REFETCH,
    RENUMBER,
    Record,
    as_list,
    as_record,
    clean_text,
    get_int,
    get_list,
    get_name,
    get_str,
    load_json,
)
from lens_bench.data.paths import image_file
from lens_bench.data.split import Source
from lens_bench.errors import DataError
from lens_bench.records import GroundTruth, Sample, Size

_VG_FOLDERS = ("VG_100K", "VG_100K_2")  # Visual Genome comes in two archives


def read(source: Source) -> Iterable[Sample]:
    """Read one split. Option ``with_miniv`` adds the tasks of ``refer_miniv.json``.

    Tags: the type of the phrase's structure (``name``, ``attribute``, ``relation``, ``verbose``).

    Raises:
        DataError: A file is missing or malformed.
    """
    sizes = _sizes(source.file("images"))
    paths = [source.file("tasks")]
    if source.options.get("with_miniv"):
        if "miniv" not in source.files:
            raise DataError(f"{paths[0].parent} has no refer_miniv.json, which split {source.split} needs too")
        paths.append(source.files["miniv"])
    images: dict[int, ImageFile] = {}
    for path in paths:
        for index, entry in enumerate(as_list(load_json(path), str(path))):
            task = as_record(entry, f"task {index} of {path}")
            yield _sample(source, task, f"task {index} of {path}", sizes, images)


def _sizes(path: Path) -> dict[int, Size]:
    sizes: dict[int, Size] = {}
    for entry in as_list(load_json(path), str(path)):
        record = as_record(entry, f"an image of {path}")
        where = f"an image of {path}"
        image_id = get_int(record, "image_id", where)
        if image_id in sizes:
            raise DataError(f"{path} has two images with the image_id {image_id}", RENUMBER)
        sizes[image_id] = get_size(record, f"image {image_id} of {path}")
    return sizes


def _sample(source: Source, task: Record, where: str, sizes: dict[int, Size], images: dict[int, ImageFile]) -> Sample:
    task_id = get_name(task, "task_id", where)
    image_id = get_int(task, "image_id", where)
    if image_id not in sizes:
        raise DataError(f"{where} names image {image_id}, which {source.file('images')} does not have", REFETCH)
    if image_id not in images:
        images[image_id] = _image(source, f"{image_id}.jpg")
    boxes = get_list(task, "instance_boxes", where)
    phrase = get_str(task, "phrase", where)
    structure = task.get("phrase_structure")
    kind = structure.get("type") if isinstance(structure, dict) else None
    return Sample(
        id=f"{source.suite}/{source.split}/{task_id}",
        image_id=str(image_id),
        image=images[image_id],
        expression=phrase,
        raw=phrase,
        truth=GroundTruth(
            size=sizes[image_id],
            parts=parts_of(list(_polygons(task, where)), sizes[image_id], where, drop_short=True),
            box=box_of_xywh(boxes[0], where) if len(boxes) == 1 else None,
        ),
        is_sentence=False,
        key=task_id,
        tags=(clean_text(kind),) if isinstance(kind, str) else (),
    )


def _polygons(task: Record, where: str) -> Iterator[list[object]]:
    """The outlines of all instances, each as a flat list."""
    for instance in get_list(task, "Polygons", where):
        for polygon in as_list(instance, f"an instance of {where}"):
            points = as_list(polygon, f"a polygon of {where}")
            yield [c for point in points for c in as_list(point, f"a point of {where}")]


def _image(source: Source, name: str) -> ImageFile:
    if source.images is not None:
        for folder in _VG_FOLDERS:
            path = source.images / folder / name
            if path.is_file():
                return ImageFile(path, source.exif)
    return image_file(source, name)
