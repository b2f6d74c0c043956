"""`data audit`: which images occur in several splits and sets, and what training must leave out.

RefCOCO, RefCOCO+ and RefCOCOg are annotations of the same COCO images, and the training split of one holds images (and
objects) of the evaluation splits of the others. Models trained on their union have therefore seen test images. Images
are told apart by what they are and not by where they lie: by COCO's image id, which is unique over all its years, where
the file's name says it, else by the file's name. Splits of one suite that keep their images in folders of their own may
number them alike: there equal names are the same image only where the files are equal.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lens_bench.data.images import ImageFile
from lens_bench.data.split import Split
from lens_bench.records import Sample

SCHEMA_VERSION = 1
# COCO_train2014_000000581857.jpg (2014) and 000000581857.jpg (2017 and unlabeled); a suffix _<n> is REFER's.
_COCO = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?(\d{12})(?:_\d+)?\.(?:jpg|jpeg|png)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Overlap:
    """Images that two splits share, and the share of the second split's images that they are."""

    first: str
    second: str
    images: int
    of_second: float


@dataclass(frozen=True, slots=True)
class AuditReport:
    """Overlap of every two splits, and what to leave out of the training splits.

    Attributes:
        images: Number of distinct images of every split, by ``suite/split``.
        overlaps: Every ordered pair of different splits.
        train: Names of the training splits; all others are held out.
        drop: For every training split, the suite's ``image_id`` of each image that occurs in a held-out split.
        drop_images: The same as identities (``coco:<id>``, ``file:<name>`` or ``file:<name>#<digest>``), over all
            training splits.
    """

    images: Mapping[str, int]
    overlaps: tuple[Overlap, ...]
    train: tuple[str, ...]
    drop: Mapping[str, tuple[str, ...]]
    drop_images: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """The report as it is written to disk."""
        return {
            "schema_version": SCHEMA_VERSION,
            "images": dict(self.images),
            "overlaps": [
                {"first": o.first, "second": o.second, "images": o.images, "of_second": o.of_second}
                for o in self.overlaps
            ],
            "train": list(self.train),
            "drop": {name: list(ids) for name, ids in self.drop.items()},
            "drop_images": list(self.drop_images),
        }

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def image_identity(sample: Sample) -> str:
    """What image a sample is about, across suites: ``coco:<id>`` or ``file:<name>``.

    The file's name is used, also where it is the suite's ``image_id`` (tables). A bare number is not: equal numbers
    mean different images in COCO and Visual Genome.
    """
    name = PurePosixPath(sample.image.name.replace("\\", "/")).name
    match = _COCO.fullmatch(name) or _COCO.fullmatch(sample.image_id)
    return f"coco:{int(match.group(1))}" if match else f"file:{name}"


def audit(splits: Sequence[Split], train: Sequence[str] | None = None) -> AuditReport:
    """Compare the images of splits.

    Args:
        splits: Open splits; ``allow_partial=True`` will do.
        train: Names (``suite/split``) of those that are trained on; by default every split called ``train`` or
            ``<something>-train``. All others count as held out.
    """
    alike = _numbered_alike(splits)
    identities = {_name(split): _images(split, alike) for split in splits}
    trained = tuple(n for n in identities if (n in train if train is not None else _is_train(n)))
    held_out = {i for name, images in identities.items() if name not in trained for i in images}
    drop = {
        name: tuple(image_id for identity, ids in identities[name].items() if identity in held_out for image_id in ids)
        for name in trained
    }
    return AuditReport(
        images={name: len(images) for name, images in identities.items()},
        overlaps=tuple(
            _overlap(first, second, identities) for first in identities for second in identities if first != second
        ),
        train=trained,
        drop=drop,
        drop_images=tuple(sorted({i for name in trained for i in identities[name] if i in held_out})),
    )


def _name(split: Split) -> str:
    return f"{split.suite.name}/{split.name}"


def _is_train(name: str) -> bool:
    return re.fullmatch(r".*[/-]train", name) is not None


def _numbered_alike(splits: Sequence[Split]) -> frozenset[tuple[str, str]]:
    """Suite and identity of files that have one name in several folders of the suite."""
    folders: dict[tuple[str, str], set[Path]] = {}
    for split in splits:
        for sample in split.samples:
            identity = image_identity(sample)
            if isinstance(sample.image, ImageFile) and identity.startswith("file:"):
                folders.setdefault((split.suite.name, identity), set()).add(sample.image.path.parent)
    return frozenset(key for key, found in folders.items() if len(found) > 1)


def _identity(split: Split, sample: Sample, alike: frozenset[tuple[str, str]]) -> str:
    identity = image_identity(sample)
    if (split.suite.name, identity) not in alike or not isinstance(sample.image, ImageFile):
        return identity
    try:
        return f"{identity}#{hashlib.sha256(sample.image.path.read_bytes()).hexdigest()[:12]}"
    except OSError:  # not there: nobody can train on it
        return f"{identity}#{sample.image.path.parent}"


def _images(split: Split, alike: frozenset[tuple[str, str]]) -> dict[str, list[str]]:
    """Identity of every image, with the ``image_id`` (or ids) that the suite gives it."""
    images: dict[str, dict[str, None]] = {}
    known: dict[str, str] = {}
    for sample in split.samples:
        identity = known.get(sample.image_id)
        if identity is None:
            identity = known.setdefault(sample.image_id, _identity(split, sample, alike))
        images.setdefault(identity, {})[sample.image_id] = None
    return {identity: list(ids) for identity, ids in images.items()}


def _overlap(first: str, second: str, identities: Mapping[str, Mapping[str, list[str]]]) -> Overlap:
    shared = len(identities[first].keys() & identities[second].keys())
    return Overlap(first, second, shared, shared / max(1, len(identities[second])))
