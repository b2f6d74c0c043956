"""From the image name in an annotation file to the file in a user's folder.

Annotation files name images in several ways (bare, with their year's folder, with an address), and people keep COCO in
one folder a year or merged. The suite card finds the folder; this joins the two.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from lens_bench.data.images import ImageFile
from lens_bench.data.jsonio import shown
from lens_bench.data.split import Source
from lens_bench.errors import DataError, UsageError

_LONGEST = 255  # bytes of a file's name; folders before it are short
_YEAR = re.compile(r"COCO_((?:train|val|test)\d{4})_\d{12}\.\w+")


def image_file(source: Source, name: str) -> ImageFile:
    """The image that an annotation file calls ``name``, under the suite's image folder.

    Raises:
        UsageError: The suite's card names no image folder.
    """
    if source.images is None:
        raise UsageError(f"suite {source.suite} names no folder of images", "add `images: {roots: [...]}` to its card")
    return ImageFile(join(source.images, name), source.exif)


def join(root: Path, name: str) -> Path:
    """Join an image folder and a name that may repeat the folder's last component or need the folder of its year.

    ``unlabeled2017/1.jpg`` is found in a root that is called ``unlabeled2017`` as well as beside it, and
    ``COCO_val2014_000000000001.jpg`` in a root that holds ``train2014`` and ``val2014``.

    Raises:
        DataError: No file can have the name.
    """
    if "\0" in name or len(name.encode("utf-8", "replace")) > _LONGEST:
        raise DataError(f"no file can have the name {shown(name)}", "the annotations are damaged: get them again")
    relative = PurePosixPath(name.replace("\\", "/").lstrip("/"))
    parts = tuple(p for p in relative.parts if p not in ("..", "."))
    if len(parts) > 1 and parts[0] == root.name and not (root / parts[0]).is_dir():
        parts = parts[1:]
    year = _YEAR.fullmatch(parts[-1]) if len(parts) == 1 else None
    if year is not None and root.name != year.group(1) and (root / year.group(1)).is_dir():
        parts = (year.group(1), *parts)
    return root.joinpath(*parts)


def listed(folder: Path) -> list[Path]:
    """What lies in a folder, sorted; hidden files, such as the ``._*`` that macOS leaves, are passed by.

    Raises:
        DataError: It cannot be listed.
    """
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"folder {folder} cannot be listed: {error.strerror}") from None


def coco_url_name(url: str) -> str:
    """``train2017/000000123456.jpg`` from a COCO address: its last two components."""
    return "/".join(url.rstrip("/").split("/")[-2:])
