"""ReasonSeg: a folder a split, each image beside a labelme file (dvlab-research/LISA, ``utils/data_processing.py``).

Shapes are painted over one another from large to small (``masks.paint``). A shape labelled ``flag`` is skipped, one
whose label contains ``ignore`` is neither target nor background, every other one is target. ReasonSeg's own shapes are
all polygons, of one point or more, and its authors draw outlines too. Rectangles, circles and masks, which labelme
writes as well, are drawn as labelme draws them (``labelme.py``); other types are refused. Two test files have no
shapes; they are expressions with an empty ground truth. Files are UTF-8 or cp1252, so they are read as bytes: what a
bare ``open`` gives depends on the machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lens_bench.data.images import ImageFile, image_size
from lens_bench.data.instances import get_size, require_pixels
from lens_bench.data.jsonio import REFETCH, Record, as_list, as_record, as_text, field
from lens_bench.data.labelme import Shape, outline_of, shapes_of
from lens_bench.data.paths import listed
from lens_bench.data.split import Source
from lens_bench.errors import DataError, UsageError
from lens_bench.masks import check_size
from lens_bench.parsing import parse_json
from lens_bench.records import GroundTruth, Sample, Size

_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")


def read(source: Source) -> Iterable[Sample]:
    """Read one split, in the order of file names.

    Options: ``texts`` is ``first`` (what every paper evaluates) or ``all`` (train files have rephrasings). Tags:
    ``short`` for phrases, ``long`` for sentences, by ``is_sentence``.

    Raises:
        DataError: A file is malformed, its shapes are not in pixels, or the size of an image is known neither from it
            nor from its labelme file.
        UsageError: The option ``texts`` has another value.
    """
    texts = source.options.get("texts", "first")
    if texts not in ("first", "all"):
        raise UsageError(f"reader option texts={texts!r} of suite {source.suite} is not one of: first, all")
    folder = source.file("folder")
    names = {path.name for path in listed(folder)}
    for name in sorted(n for n in names if n.endswith(".json")):
        stem = name.removesuffix(".json")
        picture = next((stem + suffix for suffix in _SUFFIXES if stem + suffix in names), stem + _SUFFIXES[0])
        yield from _samples(source, folder / name, ImageFile(folder / picture, source.exif), texts == "all")


def _samples(source: Source, path: Path, image: ImageFile, every: bool) -> Iterator[Sample]:
    record = as_record(load_labelme(path), str(path))
    texts = field(record, "text", str(path))
    known = as_list([texts] if isinstance(texts, str) else texts, f"text of {path}")
    if not known:
        raise DataError(f"{path} has no text", REFETCH)
    is_sentence = bool(field(record, "is_sentence", str(path)))
    shapes = shapes_of(record, str(path))
    size = _size(record, path, image, shapes)
    require_pixels([shape.points for shape in shapes], size, str(path))
    truth = GroundTruth(size=size, outlines=tuple(outline_of(shape, size) for shape in shapes))
    for index, entry in enumerate(known if every else known[:1]):
        text = as_text(entry, f"text {index} of {path}")
        yield Sample(
            id=f"{source.suite}/{source.options['split']}/{path.stem}/{index}",
            image_id=path.stem,
            image=image,
            expression=text,
            raw=text,
            truth=truth,
            is_sentence=is_sentence,
            ref_id=path.stem,
            key=f"{path.stem}/{index}",
            tags=("long" if is_sentence else "short",),
        )


def load_labelme(path: Path) -> object:
    """Parse a labelme file that is UTF-8 (with or without mark) or else cp1252.

    Raises:
        DataError: It cannot be read, is neither, or is not JSON.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        try:
            parsed: object = parse_json(text)
        except ValueError as error:
            raise DataError(f"{path} is not valid JSON: {error}", REFETCH) from None
        return parsed
    raise DataError(f"{path} is neither UTF-8 nor cp1252", REFETCH)


def _size(record: Record, path: Path, image: ImageFile, shapes: Sequence[Shape]) -> Size:
    """Of the image as the annotator saw it; where it is absent or broken, as the labelme file says.

    An absent image is the run's business, which names every sample that it costs. A broken one costs its own samples
    alone: where nothing says its size, the smallest that holds all shapes stands for it; no model can read the image.
    """
    try:
        return image_size(image.path, image.exif)
    except DataError:
        if isinstance(record.get("imageHeight"), int) and isinstance(record.get("imageWidth"), int):
            return get_size(record, str(path), "imageHeight", "imageWidth")
        if not image.exists():
            raise
    points = [p for shape in shapes for p in shape.points] or [0.0, 0.0]
    size = (max(1, math.ceil(max(points[1::2])) + 1), max(1, math.ceil(max(points[::2])) + 1))
    check_size(size, f"the area that the shapes of {path} cover")
    return size
