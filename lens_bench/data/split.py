"""A split of a suite, opened: located on disk, read, counted, hashed.

``open_split`` is the one way from a suite card to samples. A reader is a function from a ``Source`` (where the files
are, and the options of the card) to samples; everything that all formats share is here.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from lens_bench.cards import Expected, SplitCard, SuiteCard
from lens_bench.data.content import content_hash
from lens_bench.data.images import ImageFile
from lens_bench.data.jsonio import RENUMBER
from lens_bench.errors import DataError, UsageError
from lens_bench.records import ArgValue, ImageSource, Sample
from lens_bench.registry import suggest


@dataclass(frozen=True, slots=True)
class Source:
    """What a reader is given.

    Attributes:
        suite: Name of the suite card; the first component of every sample id.
        split: Name of the split on the card.
        options: Reader options: the suite's, overridden by the split's. ``split`` is there too, by default the name.
        files: The files of the layout that fitted, by their name on the card.
        images: Folder of the images: the first known one that exists, else the first known one (then every image is
            missing and named by that path). None where the card names no folder.
        exif: Whether EXIF orientation is applied: see ``cards.Images``.
        columns: For table readers, which column holds what.
        data_root: For readers that need more than files.
    """

    suite: str
    split: str
    options: Mapping[str, ArgValue]
    files: Mapping[str, Path]
    images: Path | None
    exif: bool
    columns: Mapping[str, str]
    data_root: Path

    def file(self, name: str) -> Path:
        """The file of a name. Raises ``UsageError`` where the suite's card does not list it."""
        if name not in self.files:
            raise UsageError(
                f"suite {self.suite} names no file {name!r}", "its reader needs it under `files: required`"
            )
        return self.files[name]

    def option(self, name: str) -> ArgValue:
        """The reader option of a name. Raises ``UsageError`` where the suite's card does not have it."""
        if name not in self.options:
            raise UsageError(f"suite {self.suite} has no reader option {name!r}", "add it under `options` of its card")
        return self.options[name]


Reader = Callable[[Source], Iterable[Sample]]


@dataclass(frozen=True, slots=True)
class Counts:
    """How much there is in a split."""

    images: int
    refs: int
    expressions: int


@dataclass(frozen=True, slots=True)
class Split:
    """A split, read. ``samples`` are in the suite's order; those of one image need not be adjacent."""

    suite: SuiteCard
    name: str
    source: Source
    samples: tuple[Sample, ...]
    counts: Counts
    content_hash: str

    @property
    def expected(self) -> dict[str, object]:
        """Counts and content hash of the whole split as the card gives them; None or empty where it does not."""
        card = self.suite.splits[self.name]
        wanted = card.expected
        counts = {"images": wanted.images, "refs": wanted.refs, "expressions": wanted.expressions}
        return {**counts, "content_hash": card.content_hash}

    @property
    def shortfall(self) -> str:
        """In what the files differ from what the card expects, see ``shortfall``."""
        return shortfall(self.expected, asdict(self.counts), self.content_hash)

    @property
    def warning(self) -> str:
        """What a user of this split must know, or an empty string."""
        return self.suite.splits[self.name].warning


def default_data_root() -> Path:
    """``LENS_BENCH_DATA``, else ``~/.cache/lens-bench``."""
    return Path(os.environ.get("LENS_BENCH_DATA") or Path.home() / ".cache" / "lens-bench")


def shortfall(expected: Mapping[str, object], found: Mapping[str, object], digest: str) -> str:
    """In what a split differs from what its card expects, e.g. ``60 of 10,834 expressions``; empty where in nothing.

    Args:
        expected: ``Split.expected``, or what a file keeps of it.
        found: Counts of what was there, as ``Counts``.
        digest: Content hash of what was there.
    """
    for noun in ("expressions", "images", "refs"):
        count, wanted = found.get(noun), expected.get(noun)
        if isinstance(count, int) and isinstance(wanted, int) and count != wanted:
            return share(count, wanted, noun)
    if expected.get("content_hash") not in (None, "", digest):
        return f"content {digest[:12]}, not {str(expected['content_hash'])[:12]} as on the suite's card"
    return ""


def share(count: int, total: int, noun: str) -> str:
    """``60 of 10,834 expressions``."""
    middle = "of" if count <= total else "instead of"
    return f"{count:,} {middle} {total:,} {noun}"


def known_root(given: Path | None, hint: str = "") -> Path:
    """The data root to read from: the given one, else that of the run in question if it is still there, else default.

    Args:
        given: What ``--data-root`` says.
        hint: ``Manifest.data_root``.
    """
    if given is not None:
        return given
    return Path(hint) if hint and Path(hint).is_dir() else default_data_root().expanduser()


def require_root(given: Path) -> None:
    """Refuse a ``--data-root`` that is not there, so that a mistyped path is not filled with generated data.

    Raises:
        DataError: It is missing or no folder.
    """
    if not given.is_dir():
        problem = "is not a folder" if given.exists() else "does not exist"
        raise DataError(f"--data-root {given} {problem}", "correct the path, or make the folder first (mkdir -p)")


def open_split(suite: SuiteCard, split: str, data_root: Path, *, allow_partial: bool = False) -> Split:
    """Locate, read, count and hash one split.

    Args:
        suite: The card.
        split: Name of a split on it.
        data_root: Folder under which the card's layouts are looked for.
        allow_partial: Accept counts and a content hash other than the card's.

    Raises:
        UsageError: The card has no such split.
        DataError: Files are missing or invalid, ids repeat, or a count differs from the card's.
    """
    card = split_card(suite, split)
    source = locate(suite, split, data_root)
    samples = tuple(_reader(suite)(source))
    counts = count(samples)
    _check_ids(suite, split, samples)
    digest = content_hash(samples)
    if not allow_partial:
        _check_counts(suite, split, card.expected, counts)
        if card.content_hash and card.content_hash != digest:
            raise DataError(
                f"{suite.name} {split}: content hash {digest[:12]} differs from the card's {card.content_hash[:12]}",
                "the files were changed; get or make them again, or accept them with --allow-partial",
            )
    return Split(suite, split, source, samples, counts, digest)


def split_card(suite: SuiteCard, split: str) -> SplitCard:
    """The split's entry on the card. Raises ``UsageError`` with a suggestion where there is none."""
    if split not in suite.splits:
        hint = suggest(split, suite.splits) or f"{suite.name} has: {', '.join(suite.splits)}"
        raise UsageError(f"suite {suite.name} has no split {split!r}", hint)
    return suite.splits[split]


def locate(suite: SuiteCard, split: str, data_root: Path) -> Source:
    """Find the layout that a data root uses: the first root with every required file, the first image root that exists.

    Raises:
        DataError: No layout fits; the message names the first place that was looked in, the hint how to get the files.
    """
    card = split_card(suite, split)
    options: dict[str, ArgValue] = {"split": split, **suite.options, **card.options}

    def filled(text: str) -> str:
        return _filled(text, suite, options)

    files: dict[str, Path] = {}
    if suite.files is not None:
        roots = [data_root / filled(r) for r in (card.roots or suite.files.roots)]
        files = _first_layout(suite, split, roots, {k: filled(v) for k, v in suite.files.required.items()})
        root = files.pop("")
        optional = {k: root / filled(v) for k, v in suite.files.optional.items()}
        files |= {k: p for k, p in optional.items() if p.exists()}
    images = suite.images
    folders = [data_root / filled(r) for r in images.roots] if images else []
    return Source(
        suite=suite.name,
        split=split,
        options=options,
        files=files,
        images=next((f for f in folders if f.is_dir()), folders[0] if folders else None),
        exif=images is not None and images.exif == "apply",
        columns=suite.columns,
        data_root=data_root,
    )


def _filled(text: str, suite: SuiteCard, options: Mapping[str, ArgValue]) -> str:
    """Replace ``{name}`` by the option of that name, and nothing else: a card is data, not a format program."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in options:
            raise UsageError(
                f"suite {suite.name}: {text!r} names {{{name}}}, which is no option",
                suggest(name, options) or f"it has: {', '.join(options)}",
            )
        return str(options[name])

    return re.sub(r"\{([^{}]*)\}", value, text)


def count(samples: Iterable[Sample]) -> Counts:
    """Distinct images and referents, and expressions. A sample without ``ref_id`` counts as a referent of its own."""
    images: set[str] = set()
    refs: set[str] = set()
    total = 0
    for sample in samples:
        images.add(sample.image_id)
        refs.add(sample.ref_id if sample.ref_id is not None else sample.id)
        total += 1
    return Counts(len(images), len(refs), total)


def _first_layout(suite: SuiteCard, split: str, roots: list[Path], names: Mapping[str, str]) -> dict[str, Path]:
    for root in roots:
        files = {key: root / name for key, name in names.items()}
        if root.is_dir() and all(p.exists() for p in files.values()):
            return {"": root, **files}
    # Where most is there, something small is likely to be amiss: that place is the one to name.
    closest = max(roots, key=lambda root: sum((root / name).exists() for name in names.values()))
    missing = next((closest / name for name in names.values() if not (closest / name).exists()), closest)
    hint = f"`lens-bench show {suite.name}` lists the known layouts and where to get the files; see also --data-root"
    if suite.generated:
        hint = f"`lens-bench data make {suite.name} --split {split}` makes it"
    others = f" (nor in {len(roots) - 1} other places)" if len(roots) > 1 else ""
    raise DataError(f"{suite.name} {split} was not found: no {missing}{others}", hint)


def _reader(suite: SuiteCard) -> Reader:
    module, _, function = suite.reader.partition(":")
    if not function:
        module, function = f"lens_bench.data.{suite.reader.replace('-', '_')}", "read"
    try:
        return cast("Reader", getattr(importlib.import_module(module), function))
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UsageError(f"suite {suite.name}: its reader {suite.reader!r} cannot be imported: {error}") from error


def _check_ids(suite: SuiteCard, split: str, samples: tuple[Sample, ...]) -> None:
    seen: set[str] = set()
    images: dict[str, ImageSource] = {}
    for sample in samples:
        if sample.id in seen:
            raise DataError(f"{suite.name} {split}: two expressions have the id {sample.id}", RENUMBER)
        seen.add(sample.id)
        first, own = images.setdefault(sample.image_id, sample.image), sample.image
        if first is not own and isinstance(first, ImageFile) and isinstance(own, ImageFile) and first.path != own.path:
            raise DataError(
                f"{suite.name} {split}: two images have the id {sample.image_id}: {first.name} and {own.name}", RENUMBER
            )
    if not samples:
        raise DataError(f"{suite.name} {split} has no expression", "is this the right split and version of the files?")


def _check_counts(suite: SuiteCard, split: str, expected: Expected, found: Counts) -> None:
    wanted = {"images": expected.images, "refs": expected.refs, "expressions": expected.expressions}
    wrong = [
        f"{number} {noun} expected{_doubt(expected, noun)}, {getattr(found, noun)} found"
        for noun, number in wanted.items()
        if number is not None and number != getattr(found, noun)
    ]
    if wrong:
        raise DataError(
            f"{suite.name} {split}: {'; '.join(wrong)}",
            "the files are incomplete or of another version; --allow-partial runs on what is there",
        )


def _doubt(expected: Expected, noun: str) -> str:
    return " (a figure the card marks as not verified)" if noun in expected.unverified else ""
