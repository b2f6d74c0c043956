"""`data verify`: decode every image, rasterise every annotation, compare every size and count."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from lens_bench import masks
from lens_bench.cards import Expected
from lens_bench.data.empty import covers_nothing, too_many
from lens_bench.data.split import Counts, Split
from lens_bench.data.tasks import group_by_image, missing_images
from lens_bench.errors import DataError
from lens_bench.records import GroundTruth, Sample

Kind: TypeAlias = Literal["missing image", "broken image", "size mismatch", "broken annotation", "empty annotation"]
Progress: TypeAlias = Callable[[int, int], None]  # images done, images in all

KINDS: tuple[Kind, ...] = ("missing image", "broken image", "size mismatch", "broken annotation")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with one image or annotation, named by the first sample it costs."""

    kind: Kind
    sample_id: str
    detail: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What is on disk, beside what the card promises.

    Attributes:
        files: The files of the layout that was found.
        images: The folder of the images, or an empty string for a suite without one.
        expected: The card's counts; ``found`` are those of the files.
        decoded: Whether images were decoded or only looked for.
        findings: Everything wrong, images in order.
        overlapping: Annotations whose parts overlap: on these, protocols that sum parts differ from those that unite.
        empty: Annotations without a pixel that do not say ``no_target``; findings where they are more than the card
            allows.
        no_target: Annotations that say that nothing is meant.
    """

    suite: str
    split: str
    files: tuple[str, ...]
    images: str
    expected: Expected
    found: Counts
    content_hash: str
    decoded: bool
    findings: tuple[Finding, ...]
    overlapping: int
    empty: int
    no_target: int
    wrong_counts: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether a run on this split would give the suite's full result."""
        return not self.findings and not self.wrong_counts

    def _allowed(self) -> str:
        return f" ({self.expected.empty} expected)" if self.expected.empty else ""

    def rows(self) -> list[tuple[str, str]]:
        """The report as a table of two columns."""
        rows = [("layout", ", ".join(self.files) or "-"), ("images in", self.images or "-")]
        for noun in ("images", "refs", "expressions"):
            wanted, found = getattr(self.expected, noun), getattr(self.found, noun)
            doubt = " (not verified)" if noun in self.expected.unverified else ""
            rows.append((noun, f"{found}" if wanted is None else f"{found} of {wanted} expected{doubt}"))
        for kind in KINDS:
            count = sum(finding.kind == kind for finding in self.findings)
            checked = self.decoded or kind not in ("broken image", "size mismatch")
            rows.append((_plural(kind), str(count) if checked else "not checked"))
        rows += [
            ("annotations with overlapping parts", str(self.overlapping)),
            ("annotations without a pixel", f"{self.empty}{self._allowed()}"),
            ("annotations without a target", str(self.no_target)),
            ("content hash", self.content_hash),
        ]
        return rows


@dataclass(frozen=True, slots=True)
class Checked:
    """What checking one image with its annotations gave; see ``VerifyReport`` for the fields."""

    findings: tuple[Finding, ...]
    empty: tuple[Finding, ...] = ()
    overlapping: int = 0
    no_target: int = 0


def verify_split(
    split: Split,
    *,
    decode: bool = True,
    workers: int = 2,
    progress: Progress | None = None,
    known: MutableMapping[str, Checked] | None = None,
) -> VerifyReport:
    """Check one split completely. Open it with ``allow_partial=True`` to get a report on wrong counts too.

    Args:
        split: The split.
        decode: Decode every image. Without it, images are only looked for.
        workers: Threads; decoding and rasterising release the interpreter's lock for the most part.
        progress: Called after every image with (done, all). Where it raises, images that wait are not checked any more.
        known: What earlier checks gave, by the id of the image, which is not checked again; the others are added.
    """
    known = {} if known is None else known
    gone = {sample.image_id: sample for sample in missing_images(split.samples)}
    groups = group_by_image(split.samples)
    waiting = [(image_id, samples) for image_id, samples in groups if image_id not in known]
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        jobs = [pool.submit(_check, samples, decode=decode and image_id not in gone) for image_id, samples in waiting]
        try:
            for done, job in enumerate(jobs, len(groups) - len(waiting) + 1):
                job.result()
                if progress is not None:
                    progress(done, len(groups))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            for (image_id, _), job in zip(waiting, jobs, strict=True):
                if not job.cancelled() and job.exception() is None:
                    known[image_id] = job.result()
    results = [known[image_id] for image_id, _ in groups]
    missing = [Finding("missing image", sample.id, sample.image.name) for sample in gone.values()]
    empty = [finding for result in results for finding in result.empty]
    source, card = split.source, split.suite.splits[split.name]
    return VerifyReport(
        suite=split.suite.name,
        split=split.name,
        files=tuple(str(path) for path in source.files.values()),
        images=str(source.images) if source.images is not None else "",
        expected=card.expected,
        found=split.counts,
        content_hash=split.content_hash,
        decoded=decode,
        findings=(
            *missing,
            *(f for result in results for f in result.findings),
            *(empty if too_many(split, len(empty)) else ()),
        ),
        overlapping=sum(result.overlapping for result in results),
        empty=len(empty),
        no_target=sum(result.no_target for result in results),
        wrong_counts=_wrong_counts(card.expected, split.counts),
    )


def _plural(kind: Kind) -> str:
    return f"{kind}es" if kind.endswith("ch") else f"{kind}s"


def _wrong_counts(expected: Expected, found: Counts) -> tuple[str, ...]:
    nouns = ("images", "refs", "expressions")
    return tuple(n for n in nouns if getattr(expected, n) not in (None, getattr(found, n)))


def _check(samples: Sequence[Sample], *, decode: bool) -> Checked:
    findings: list[Finding] = []
    if decode:
        findings += _check_image(samples)
    empty: list[Finding] = []
    overlapping = no_target = 0
    for sample, truth in _distinct(samples):
        try:
            union, once, _ = masks.merge_truth(truth)
        except DataError as error:
            findings.append(Finding("broken annotation", sample.id, error.message))
            continue
        overlapping += union != once
        no_target += truth.no_target
        if covers_nothing(truth):
            size = f"{truth.size[1]}x{truth.size[0]}"
            empty.append(Finding("empty annotation", sample.id, f"it covers no pixel of its image of {size}"))
    return Checked(tuple(findings), tuple(empty), overlapping, no_target)


def _check_image(samples: Sequence[Sample]) -> list[Finding]:
    try:
        height, width, _ = samples[0].image.read().shape
    except DataError as error:
        return [Finding("broken image", samples[0].id, error.message)]
    return [
        Finding(
            "size mismatch",
            sample.id,
            f"{sample.image.name} is {width}x{height}, its annotation {truth.size[1]}x{truth.size[0]}",
        )
        for sample, truth in _distinct(samples)
        if truth.size != (height, width)
    ]


def _distinct(samples: Iterable[Sample]) -> list[tuple[Sample, GroundTruth]]:
    """Each ground truth once, with the first sample that has it."""
    seen: dict[int, tuple[Sample, GroundTruth]] = {}
    for sample in samples:
        seen.setdefault(id(sample.truth), (sample, sample.truth))
    return list(seen.values())
