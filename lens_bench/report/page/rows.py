"""The samples of a page as columns: what its table shows, filters and searches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lens_bench.records import Prediction, Score
from lens_bench.report.page.suite_view import SuiteView
from lens_bench.report.runset import ScoredRun
from lens_bench.run.files import JsonObject

T = TypeVar("T")
_LETTER = {"ok": "o", "no_mask": "n", "error": "e"}


@dataclass(frozen=True, slots=True)
class Rows:
    """Every sample that at least one run answered, in the suite's order.

    Attributes:
        measure: ``iou``, or ``box_iou`` where masks do not apply to any run.
        scores: For every run, the score of each row; None where the run has no answer.
    """

    sample_ids: tuple[str, ...]
    measure: str
    scores: tuple[tuple[Score | None, ...], ...]

    @property
    def values(self) -> tuple[tuple[float | None, ...], ...]:
        """For every run, what each row is ranked by; None for rows that the protocol leaves out."""
        return tuple(tuple(self._value(s) for s in column) for column in self.scores)

    def _value(self, score: Score | None) -> float | None:
        if score is None or not score.counted:
            return None
        return score.iou if self.measure == "iou" else score.box_iou


def collect_rows(runs: Sequence[ScoredRun]) -> Rows:
    """Rows of one or more runs of the same split."""
    by_id = [{s.sample_id: s for s in run.scores} for run in runs]
    ids = tuple(dict.fromkeys(sample_id for scores in by_id for sample_id in scores))
    every = [s for run in runs for s in run.scores]
    boxes = not any(s.has_mask for s in every) and any(s.box_iou is not None and s.status == "ok" for s in every)
    columns = tuple(tuple(scores.get(sample_id) for sample_id in ids) for scores in by_id)
    return Rows(ids, "box_iou" if boxes else "iou", columns)


def rows_json(
    rows: Rows, view: SuiteView, predictions: Sequence[Mapping[str, Prediction]], max_text_bytes: int
) -> tuple[JsonObject, int]:
    """Columns for the page, and how many of the models' texts were cut to keep the file small.

    Texts are kept whole, in the order of the rows, until ``max_text_bytes`` are used.
    """
    samples = [view.samples.get(sample_id) for sample_id in rows.sample_ids]
    first = [next(s for s in scores if s is not None) for scores in zip(*rows.scores, strict=True)]
    images, image = _numbered([s.image_id for s in first])
    tag_sets, tags = _numbered([s.tags for s in first])
    names = {s.image_id: view.image_name(s.image) for s in samples if s is not None}
    runs, cut = [], 0
    for scores, by_id in zip(rows.scores, predictions, strict=True):
        answers = [by_id.get(sample_id) for sample_id in rows.sample_ids]
        texts, left_out = _texts(answers, max_text_bytes)
        cut += left_out
        runs.append(_run_json(scores, answers) | {"text": texts})
    content: JsonObject = {
        "measure": rows.measure,
        "id": list(rows.sample_ids),
        "expression": [s.expression if s else None for s in samples],
        "images": [{"id": i, "file": names.get(i)} for i in images],
        "image": image,
        "tagSets": [list(t) for t in tag_sets],
        "tags": tags,
        "noTarget": "".join("01"[s.no_target] for s in first),
        "runs": runs,
    }
    return content, cut


def _run_json(scores: Sequence[Score | None], answers: Sequence[Prediction | None]) -> JsonObject:
    """One run's columns. Status: a letter a row, ``-`` where there is no answer."""
    return {
        "status": "".join(_LETTER[s.status] if s else "-" for s in scores),
        "counted": "".join("01"[s.counted] if s else "0" for s in scores),
        "iou": [_short(s.iou) if s else None for s in scores],
        "boxIou": [_short(s.box_iou) if s else None for s in scores],
        "intersection": [s.intersection if s else None for s in scores],
        "union": [s.union if s else None for s in scores],
        "error": {row: a.error for row, a in enumerate(answers) if a and a.error},
        "tokens": {row: a.tokens.completion for row, a in enumerate(answers) if a and a.tokens},
    }


def _texts(answers: Sequence[Prediction | None], max_bytes: int) -> tuple[dict[int, str], int]:
    kept: dict[int, str] = {}
    used, cut = 0, 0
    for row, answer in enumerate(answers):
        if answer is None or not answer.text:
            continue
        used += len(answer.text.encode("utf-8", "replace"))
        if used > max_bytes:
            cut += 1
        else:
            kept[row] = answer.text
    return kept, cut


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _numbered(values: Sequence[T]) -> tuple[list[T], list[int]]:
    numbers: dict[T, int] = {}
    entries = [numbers.setdefault(value, len(numbers)) for value in values]
    return list(numbers), entries
