"""gRefCOCO: refs whose ``ann_id`` is a list, several targets or none (henghuiding/ReLA, ``grefer.py``).

As in the authors' loader, ``iscrowd`` annotations are skipped, polygons of fewer than three points are dropped (other
readers refuse them), and ``[-1]`` means that nothing in the image is meant. The file is ``grefs(unc).p`` or
``grefs(unc).json``; where both are there, the pickle is read, as the authors do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from lens_bench.data.images import ImageFile
from lens_bench.data.instances import Instances, box_of_xywh, load_instances, parts_of
from lens_bench.data.jsonio import as_int, field, load_json
from lens_bench.data.refer import Ref, annotation_of, ref_image, select_refs, sentences
from lens_bench.data.safe_pickle import load_pickle
from lens_bench.data.split import Source
from lens_bench.errors import DataError
from lens_bench.records import GroundTruth, Part, Sample

NO_TARGET: Final = -1


def read(source: Source) -> Iterable[Sample]:
    """Read one split. Tags: ``no-target``, ``single-target``, ``multi-target``, by the number of listed annotations.

    Raises:
        DataError: A file is missing, unsafe or malformed, or the two files do not belong together.
    """
    path = source.files.get("refs_pickle") or source.files.get("refs")
    if path is None:
        folder = source.file("instances").parent
        raise DataError(f"{folder} holds neither grefs(unc).p nor grefs(unc).json", "get one of the two")
    content = load_pickle(path) if path.suffix == ".p" else load_json(path)
    refs = select_refs(content, source, path)
    yield from read_refs(source, refs, tag_of=_tag, is_none=lambda ref: False, drop_short=True)


def _tag(ref: Ref, ann_ids: Sequence[int]) -> str:
    return {0: "no-target", 1: "single-target"}.get(len(ann_ids), "multi-target")


# ---------------------------------------------------------------------------------------------- several targets


def read_refs(
    source: Source,
    refs: Sequence[Ref],
    tag_of: Callable[[Ref, Sequence[int]], str],
    is_none: Callable[[Ref], bool],
    *,
    drop_short: bool = False,
) -> Iterable[Sample]:
    """Samples of refs that name any number of annotations.

    Args:
        source: Where the files are.
        refs: The refs of the split.
        tag_of: The tag of a ref and its annotations.
        is_none: Whether a ref has no target although it may list annotations.
        drop_short: Leave out polygons of fewer than three points instead of refusing them.

    Raises:
        DataError: An annotation or image is not in ``instances.json``, or is malformed.
    """
    targets = [() if is_none(ref) else targets_of(ref) for ref in refs]
    wanted = {ann_id for ids in targets for ann_id in ids}
    instances = load_instances(source.file("instances"), {ref.image_id for ref in refs}, wanted)
    truths: dict[tuple[int, tuple[int, ...]], GroundTruth] = {}
    images: dict[int, ImageFile] = {}
    for ref, ids in zip(refs, targets, strict=True):
        truth = truths.get((ref.image_id, ids))
        if truth is None:
            truth = truths.setdefault((ref.image_id, ids), joint_truth(ref, ids, instances, drop_short=drop_short))
        yield from sentences(source, ref, truth, ref_image(source, ref, instances, images), (tag_of(ref, ids),))


def targets_of(ref: Ref) -> tuple[int, ...]:
    """The annotations that a ref names: its ``ann_id``, a number or a list; -1 names none."""
    value = field(ref.record, "ann_id", ref.where)
    values = value if isinstance(value, list | tuple) else [value]
    numbers = (as_int(v, f"ann_id of {ref.where}") for v in values)
    return tuple(number for number in numbers if number != NO_TARGET)


def joint_truth(ref: Ref, ann_ids: Sequence[int], instances: Instances, *, drop_short: bool = False) -> GroundTruth:
    """All annotations of a ref as one ground truth; a box only where it names a single one."""
    size = instances.image(ref.image_id, ref.where).size
    parts: list[Part] = []
    boxes = []
    for ann_id in ann_ids:
        record = annotation_of(ref, ann_id, instances)
        where = f"annotation {ann_id} of {instances.path}"
        if not record.get("iscrowd"):
            parts += parts_of(record.get("segmentation"), size, where, drop_short=drop_short)
        boxes.append(box_of_xywh(record.get("bbox"), where))
    return GroundTruth(
        size=size,
        parts=tuple(parts),
        box=boxes[0] if len(boxes) == 1 else None,
        no_target=not ann_ids,
    )
