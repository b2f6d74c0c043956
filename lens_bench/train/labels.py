"""What the generated suites say beyond the referent: rationales, and every thing of a picture with its attributes.

Both are read from the split's own files: ``rationale`` stands beside each sentence of ``refs(lens).p``, ``attributes``
beside each annotation of ``instances.json``. Other sets have neither, and then there is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lens_bench.data.instances import load_instances, truth_of
from lens_bench.data.jsonio import as_list, as_record
from lens_bench.data.safe_pickle import load_pickle
from lens_bench.data.split import Split
from lens_bench.records import GroundTruth

ATTRIBUTES = ("size", "color", "shape")


@dataclass(frozen=True, slots=True)
class Thing:
    """One annotated thing: a word for each of ``ATTRIBUTES``, and its outline."""

    words: tuple[str, ...]
    truth: GroundTruth

    @property
    def name(self) -> str:
        """``small red circle``."""
        return " ".join(self.words)


def rationales(split: Split) -> dict[str, str]:
    """The rationale of each sentence by its key (``sent_id``); empty where the split's files hold none.

    Raises:
        DataError: A file is missing or malformed.
    """
    path = split.source.files.get("refs")
    if path is None or path.suffix != ".p":
        return {}
    found: dict[str, str] = {}
    for ref in as_list(load_pickle(path), str(path)):
        for entry in as_list(as_record(ref, f"a ref of {path}").get("sentences", []), f"a ref of {path}"):
            sentence = as_record(entry, f"a sentence of {path}")
            text = sentence.get("rationale")
            if isinstance(text, str):
                found[str(sentence.get("sent_id"))] = text
    return found


def things(split: Split) -> dict[str, tuple[Thing, ...]]:
    """The things of every image of a split by ``image_id``; empty where annotations have no attributes.

    Raises:
        DataError: A file is missing or malformed.
    """
    path = split.source.files.get("instances")
    if path is None:
        return {}
    instances = load_instances(path, None, None)
    found: dict[str, list[Thing]] = {}
    for number, record in instances.annotations.items():
        where = f"annotation {number} of {path}"
        attributes = record.get("attributes")
        if not isinstance(attributes, Mapping):
            return {}
        words = tuple(str(attributes.get(name, "")) for name in ATTRIBUTES)
        image_id = int(str(record["image_id"]))
        truth = truth_of(record, instances.image(image_id, where).size, where)
        found.setdefault(str(image_id), []).append(Thing(words, truth))
    return {image: tuple(list_) for image, list_ in found.items()}


def referents(split: Split) -> dict[str, str]:
    """Name of the thing that each sentence means (``small red circle``), by the sentence's key."""
    by_place = {(image, thing.truth.box): thing.name for image, found in things(split).items() for thing in found}
    names = ((s.key, by_place.get((s.image_id, s.truth.box))) for s in split.samples)
    return {key: name for key, name in names if key is not None and name is not None}
