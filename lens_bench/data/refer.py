"""REFER's format: ``refs(<splitBy>).p`` beside ``instances.json`` (RefCOCO, RefCOCO+, RefCOCOg, RRSIS-D).

Format: lichengunc/refer, ``refer.py`` and README. A ref is one annotated object and all sentences about it; every
sentence is one expression. A ref's own ``file_name`` carries a suffix and is not the image's file, so the image is
looked up by ``image_id``. Papers differ in the text they use: ``sent`` is cleaned, ``raw`` is as typed; a sample has
both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lens_bench.data.images import ImageFile
from lens_bench.data.instances import Instances, load_instances, truth_of
from lens_bench.data.jsonio import RENUMBER, Record, as_record, clean_text, get_int, get_list, get_str, shown
from lens_bench.data.paths import image_file
from lens_bench.data.safe_pickle import load_pickle
from lens_bench.data.split import Source
from lens_bench.errors import DataError
from lens_bench.records import GroundTruth, Sample


@dataclass(frozen=True, slots=True)
class Ref:
    """One ref of the wanted split. ``where`` names it in messages."""

    ref_id: int
    image_id: int
    record: Record
    where: str


def read(source: Source) -> Iterable[Sample]:
    """Read one split.

    Options: ``split_by`` (``unc``, ``google``, ``umd``); ``split``, the name inside the file; ``tag_field``, a field of
    sentences whose value becomes a tag.

    Splits are matched exactly. (``refer.py`` matches ``testA`` and ``testB`` by their last letter and ``test`` by
    substring, which gives the same on the published files.)

    Raises:
        DataError: A file is missing, unsafe or malformed, or the two files do not belong together.
    """
    path = source.file("refs")
    refs = select_refs(load_pickle(path), source, path)
    ann_ids = {get_int(ref.record, "ann_id", ref.where) for ref in refs}
    instances = load_instances(source.file("instances"), {ref.image_id for ref in refs}, ann_ids)
    truths: dict[tuple[int, int], GroundTruth] = {}
    images: dict[int, ImageFile] = {}
    for ref in refs:
        ann_id = get_int(ref.record, "ann_id", ref.where)
        truth = truths.get((ref.image_id, ann_id))
        if truth is None:
            truth = truths.setdefault((ref.image_id, ann_id), _truth(ref, ann_id, instances))
        yield from sentences(source, ref, truth, ref_image(source, ref, instances, images))


def _truth(ref: Ref, ann_id: int, instances: Instances) -> GroundTruth:
    record = annotation_of(ref, ann_id, instances)
    return truth_of(record, instances.image(ref.image_id, ref.where).size, f"annotation {ann_id} of {instances.path}")


# ---------------------------------------------------------------------------------------------- shared by the family


def annotation_of(ref: Ref, ann_id: int, instances: Instances) -> Record:
    """The annotation of an id that a ref names. Raises ``DataError`` where it is missing, or on another image."""
    record = instances.annotation(ann_id, ref.where)
    owner = record.get("image_id", ref.image_id)
    if owner != ref.image_id:
        raise DataError(
            f"{ref.where} is about image {ref.image_id}, but its annotation {ann_id} is on image {shown(owner)}",
            "the two files must be of one version: get both again",
        )
    return record


def select_refs(content: object, source: Source, path: Path) -> list[Ref]:
    """The refs of the wanted split, in the order of the file they were read from.

    Raises:
        DataError: The content is not a list of refs, or no ref belongs to the split.
    """
    split = str(source.options["split"])
    if not isinstance(content, list):
        raise DataError(f"{path} does not hold a list of refs, but {type(content).__name__}")
    refs: list[Ref] = []
    found: set[str] = set()
    ids: set[int] = set()
    for entry in content:
        record = as_record(entry, f"a ref of {path}")
        name = record.get("split")
        if isinstance(name, str):
            found.add(name)
        if name == split:
            ref_id = get_int(record, "ref_id", f"a ref of {path}")
            where = f"ref {ref_id} of {path}"
            if ref_id in ids:
                raise DataError(f"{path} has two refs with the ref_id {ref_id}", RENUMBER)
            ids.add(ref_id)
            refs.append(Ref(ref_id, get_int(record, "image_id", where), record, where))
    if not refs:
        raise DataError(f"{path} has no ref of split {split!r}", f"it has: {', '.join(sorted(found)) or 'none'}")
    return refs


def ref_image(source: Source, ref: Ref, instances: Instances, known: dict[int, ImageFile]) -> ImageFile:
    """The image of a ref, by ``image_id`` through ``instances.json``; one object an image."""
    image = known.get(ref.image_id)
    if image is None:
        name = instances.image(ref.image_id, ref.where).file_name
        image = known.setdefault(ref.image_id, image_file(source, name))
    return image


def sentences(
    source: Source, ref: Ref, truth: GroundTruth, image: ImageFile, tags: tuple[str, ...] = ()
) -> Iterator[Sample]:
    """One sample for every sentence of a ref; all share its ground truth."""
    prefix = f"{source.suite}/{source.option('split_by')}/{source.options['split']}/ref{ref.ref_id}"
    for entry in get_list(ref.record, "sentences", ref.where):
        sentence = as_record(entry, f"a sentence of {ref.where}")
        sent_id = get_int(sentence, "sent_id", f"a sentence of {ref.where}")
        sent = get_str(sentence, "sent", f"sentence {sent_id} of {ref.where}")
        raw = sentence.get("raw")
        tag = sentence.get(str(source.options.get("tag_field", "")))
        yield Sample(
            id=f"{prefix}/sent{sent_id}",
            image_id=str(ref.image_id),
            image=image,
            expression=sent,
            raw=clean_text(raw) if isinstance(raw, str) else sent,
            truth=truth,
            ref_id=str(ref.ref_id),
            key=str(sent_id),
            tags=(*tags, clean_text(tag)) if isinstance(tag, str) else tags,
        )
