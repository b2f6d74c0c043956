"""Ref-ZOM: expressions that mean no, one or many objects (toggle1995/RIS-DMMI).

REFER's files with one more field: ``source`` says ``zero`` where nothing is meant, whatever ``ann_id`` lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lens_bench.data.grefer import read_refs
from lens_bench.data.jsonio import get_str
from lens_bench.data.refer import Ref, select_refs
from lens_bench.data.safe_pickle import load_pickle
from lens_bench.data.split import Source
from lens_bench.records import Sample


def read(source: Source) -> Iterable[Sample]:
    """Read one split. Tags: ``zero``, ``one``, ``many``, by ``source`` and the number of annotations.

    Raises:
        DataError: A file is missing, unsafe or malformed, or the two files do not belong together.
    """
    path = source.file("refs")
    refs = select_refs(load_pickle(path), source, path)
    yield from read_refs(source, refs, tag_of=_tag, is_none=_is_zero)


def _is_zero(ref: Ref) -> bool:
    return get_str(ref.record, "source", ref.where) == "zero"


def _tag(ref: Ref, ann_ids: Sequence[int]) -> str:
    return {0: "zero", 1: "one"}.get(len(ann_ids), "many")
