"""GroundingSuite-Eval: one JSON object a line (hustvl/GroundingSuite, ``GroundingSuite-Eval.jsonl``).

58 pairs of image and caption occur more than once, 14 of them with different masks, so rows are told apart by ``idx``
and never by their text. ``box`` is [x1, y1, x2, y2] and not the tight box of the mask; neither is derived from the
other. What ``class_id`` means is not documented by the authors; the meaning used here reproduces their published table.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from lens_bench.data.images import ImageFile
from lens_bench.data.instances import box_of_xyxy
from lens_bench.data.jsonio import field, get_int, get_str, load_jsonl
from lens_bench.data.paths import image_file
from lens_bench.data.split import Source
from lens_bench.errors import DataError
from lens_bench.masks import rle_from_json
from lens_bench.records import GroundTruth, Sample

CLASSES: Final = {1: "stuff", 2: "part", 3: "multi", 4: "single"}


def read(source: Source) -> Iterable[Sample]:
    """Read all rows. The key of a row is its ``idx``; its tag is the name of its class.

    Raises:
        DataError: The file is missing or a row is malformed.
    """
    path = source.file("annotations")
    images: dict[str, ImageFile] = {}
    for number, row in load_jsonl(path):
        where = f"{path} line {number}"
        idx = get_int(row, "idx", where)
        class_id = get_int(row, "class_id", where)
        if class_id not in CLASSES:
            raise DataError(f"{where} has class_id {class_id}", "known are 1 stuff, 2 part, 3 multi, 4 single")
        name = get_str(row, "image_path", where)
        rle = rle_from_json(field(row, "segmentation", where), f"segmentation of {where}")
        caption = get_str(row, "caption", where)
        yield Sample(
            id=f"{source.suite}/{idx}",
            image_id=name.rsplit("/", 1)[-1],
            image=images.setdefault(name, image_file(source, name)),
            expression=caption,
            raw=caption,
            truth=GroundTruth(size=rle.size, parts=(rle,), box=box_of_xyxy(field(row, "box", where), where)),
            is_sentence=True,
            key=str(idx),
            tags=(CLASSES[class_id],),
        )
