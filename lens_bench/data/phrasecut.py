"""PhraseCut: phrases about regions of Visual Genome (ChenyunWu/PhraseCutDataset, ``VGPhraseCut_v0``).

``refer_<split>.json`` is a list of tasks; a task's ground truth is the union of all its instances. Sizes are in
``image_data_split3000.json``. The authors' ``val`` leaves out the 100 images of ``miniv``; the whole validation set is
both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from lens_bench.data.images import ImageFile
from lens_bench.data.instances import box_of_xywh, polygon_of
from lens_bench.data.jsonio import REFETCH, Record, as_list, as_record, field, get_int, get_list, get_str, load_json
from lens_bench.data.paths import image_file
from lens_bench.data.split import Source
from lens_bench.errors import DataError
from lens_bench.records import GroundTruth, Polygon, Sample, Size

_VG_FOLDERS = ("VG_100K", "VG_100K_2")  # Visual Genome comes in two archives


def read(source: Source) -> Iterable[Sample]:
    """Read one split. Option ``with_miniv`` adds the tasks of ``refer_miniv.json``.

    Tags: the type of the phrase's structure (``name``, ``attribute``, ``relation``, ``verbose``).

    Raises:
        DataError: A file is missing or malformed.
    """
    sizes = _sizes(source.files["images"])
    paths = [source.files["tasks"]]
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
        sizes[get_int(record, "image_id", where)] = (get_int(record, "height", where), get_int(record, "width", where))
    return sizes


def _sample(source: Source, task: Record, where: str, sizes: dict[int, Size], images: dict[int, ImageFile]) -> Sample:
    task_id = str(field(task, "task_id", where))
    image_id = get_int(task, "image_id", where)
    if image_id not in sizes:
        raise DataError(f"{where} names image {image_id}, which {source.files['images']} does not have", REFETCH)
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
            parts=tuple(_polygons(task, where)),
            box=box_of_xywh(boxes[0], where) if len(boxes) == 1 else None,
        ),
        is_sentence=False,
        key=task_id,
        tags=(kind,) if isinstance(kind, str) else (),
    )


def _polygons(task: Record, where: str) -> Iterator[Polygon]:
    for instance in get_list(task, "Polygons", where):
        for polygon in as_list(instance, f"an instance of {where}"):
            points = as_list(polygon, f"a polygon of {where}")
            yield polygon_of([c for point in points for c in as_list(point, f"a point of {where}")], where)


def _image(source: Source, name: str) -> ImageFile:
    if source.images is not None:
        for folder in _VG_FOLDERS:
            path = source.images / folder / name
            if path.is_file():
                return ImageFile(path, source.exif)
    return image_file(source, name)
