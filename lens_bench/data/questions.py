"""Several questions an image, each answered by any number of masks: MUSE (PixelLM) and MMR.

Format: a list of images, each with ``questions`` and, in parallel, ``answers``, a list of annotations a question. Their
authors match predicted to true masks one by one, with a language model's help for MUSE; here a question's ground truth
is the union of its answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lens_bench.data.images import ImageFile
from lens_bench.data.instances import box_of_xywh, get_size, parts_of
from lens_bench.data.jsonio import REFETCH, Record, as_list, as_record, as_text, get_list, get_str, load_json
from lens_bench.data.paths import coco_url_name, image_file
from lens_bench.data.split import Source
from lens_bench.errors import DataError
from lens_bench.records import GroundTruth, Part, Sample


def read(source: Source) -> Iterable[Sample]:
    """Read one split. Options: ``bare_folder`` is the COCO folder of names that come without one.

    Tags: ``few`` for one or two targets, ``many`` for three and more (MUSE's own division), ``no-target`` for none.

    Raises:
        DataError: The file is missing or malformed.
    """
    path = source.file("annotations")
    content = load_json(path)
    if isinstance(content, dict) and "data" in content:
        content = content["data"]
    for row, entry in enumerate(as_list(content, str(path))):
        where = f"entry {row} of {path}"
        yield from _samples(source, row, as_record(entry, where), where)


def _samples(source: Source, row: int, record: Record, where: str) -> Iterator[Sample]:
    size = get_size(record, where)
    questions = get_list(record, "questions", where)
    answers = get_list(record, "answers", where)
    if len(questions) != len(answers):
        raise DataError(f"{where} has {len(questions)} questions and {len(answers)} answers", REFETCH)
    image = _image(source, record, where)
    for index, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        text = as_text(question, f"question {index} of {where}")
        targets = [as_record(t, f"an answer of {where}") for t in as_list(answer, f"answer {index} of {where}")]
        parts: list[Part] = []
        for target in targets:
            parts += parts_of(target.get("segmentation"), size, f"answer {index} of {where}")
        yield Sample(
            id=f"{source.suite}/{source.split}/{row}/{index}",
            image_id=image.path.name,
            image=image,
            expression=text,
            raw=text,
            truth=GroundTruth(
                size=size,
                parts=tuple(parts),
                box=box_of_xywh(targets[0].get("bbox"), where) if len(targets) == 1 else None,
                no_target=not targets,
            ),
            is_sentence=True,
            key=f"{row}/{index}",
            tags=("no-target" if not targets else "few" if len(targets) < 3 else "many",),
        )


def _image(source: Source, record: Record, where: str) -> ImageFile:
    if "file_name" in record:
        name = get_str(record, "file_name", where)
        folder = source.options.get("bare_folder")
        return image_file(source, f"{folder}/{name}" if folder and "/" not in name else name)
    return image_file(source, coco_url_name(get_str(record, "coco_url", where)))
