"""Samples grouped by image, and images that are not there: what a run needs before it loads a model."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from lens_bench.data.images import ImageFile
from lens_bench.errors import DataError
from lens_bench.records import Sample


def group_by_image(samples: Iterable[Sample]) -> list[tuple[str, tuple[Sample, ...]]]:
    """All samples of each image, images in order of first appearance, samples in their order."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.image_id, []).append(sample)
    return [(image_id, tuple(group)) for image_id, group in groups.items()]


def missing_images(samples: Iterable[Sample]) -> list[Sample]:
    """The first sample of every image whose file is not there, in order. Nothing is opened.

    Folders are listed once, since asking for each of thousands of files is slow on network drives.
    """
    listings: dict[Path, frozenset[str]] = {}
    missing: list[Sample] = []
    for _, group in group_by_image(samples):
        image = group[0].image
        if isinstance(image, ImageFile):
            folder = image.path.parent
            if folder not in listings:
                listings[folder] = _files(folder)
            there = image.path.name in listings[folder]
        else:
            there = image.exists()
        if not there:
            missing.append(group[0])
    return missing


def require_images(samples: Iterable[Sample]) -> None:
    """Raise ``DataError`` naming the first sample whose image is missing, and how many images are."""
    missing = missing_images(samples)
    if not missing:
        return
    first = missing[0]
    more = f" (and {len(missing) - 1} more images)" if len(missing) > 1 else ""
    raise DataError(
        f"the image of {first.id} is missing: {first.image.name}{more}",
        "`lens-bench data verify` lists every missing image; `lens-bench show SUITE` says where images are looked for",
    )


def _files(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    except OSError as error:
        raise DataError(f"folder {folder} cannot be listed: {error.strerror}") from None
