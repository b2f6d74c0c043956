"""RefCOCOm: expressions for parts and objects, one PNG a mask (Rubics-Xuan/MRES).

``annotations/`` holds one JSON file a split; ``masks/<segment_id>.png`` the masks. Repositories spell the folder
RefCOCOm or Refcocom, and files by the split's name with or without a prefix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from lens_bench.data.images import ImageFile, image_size
from lens_bench.data.jsonio import Record, as_list, as_record, clean_text, get_list, get_name, get_str, load_json
from lens_bench.data.mask_files import MaskFile, threshold_of
from lens_bench.data.paths import image_file, join, listed
from lens_bench.data.split import Source
from lens_bench.errors import DataError
from lens_bench.records import GroundTruth, Sample


def read(source: Source) -> Iterable[Sample]:
    """Read one split.

    Raises:
        DataError: No annotation file or several belong to the split, or one is malformed.
    """
    path = annotation_file(source.file("annotations"), str(source.options["split"]))
    images: dict[str, ImageFile] = {}
    for index, entry in enumerate(as_list(load_json(path), str(path))):
        where = f"entry {index} of {path}"
        record = as_record(entry, where)
        name = get_str(record, "img_name", where)
        image = images.setdefault(name, image_file(source, name))
        yield from _samples(source, record, image, where)


def annotation_file(folder: Path, split: str) -> Path:
    """The JSON file of a split: its name is the split's, or ends in it after a separator; case does not matter."""
    pattern = re.compile(rf"(.*[._-])?{re.escape(split)}\.json", re.IGNORECASE)
    files = [p for p in listed(folder) if p.suffix == ".json"]
    found = [p for p in files if pattern.fullmatch(p.name)]
    if len(found) != 1:
        names = ", ".join(p.name for p in files) or "no JSON file"
        raise DataError(f"{folder} has {len(found)} files for split {split!r}", f"it has: {names}")
    return found[0]


def _samples(source: Source, record: Record, image: ImageFile, where: str) -> Iterator[Sample]:
    segment = get_name(record, "segment_id", where)
    mask = MaskFile(join(source.file("masks"), f"{segment}.png"), threshold_of(source))
    truth = GroundTruth(size=image_size(mask.path, exif=False), parts=(mask,))
    for index, entry in enumerate(get_list(record, "sentences", where)):
        sentence = as_record(entry, f"a sentence of {where}")
        text = get_str(sentence, "sent", f"a sentence of {where}")
        raw = sentence.get("raw")
        yield Sample(
            id=f"{source.suite}/{source.options['split']}/seg{segment}/{index}",
            image_id=image.path.name,
            image=image,
            expression=text,
            raw=clean_text(raw) if isinstance(raw, str) else text,
            truth=truth,
            is_sentence=False,
            ref_id=segment,
            key=f"{segment}/{index}",
        )
