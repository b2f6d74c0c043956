"""The reference file of a gate: what a run is held against, complete in itself.

It keeps the integers of every expression as columns, one line of JSON a column, so that a gate needs no second run and
a change of the file can be read in a diff.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError, field_validator, model_validator

from lens_bench.atomic import write_text
from lens_bench.errors import DataError, UsageError
from lens_bench.records import Score, Status
from lens_bench.report.gate_speed import SpeedFigures, check_tolerances
from lens_bench.report.runset import ScoredRun
from lens_bench.run.files import JsonObject, read_json
from lens_bench.scoring.metrics import Metrics, same_figures, summarise
from lens_bench.scoring.protocols import PROTOCOLS
from lens_bench.scoring.ratios import ratios
from lens_bench.scoring.score_json import MOST_PIXELS
from lens_bench.scoring.table import ScoreTable
from lens_bench.scoring.verify import check_scores

DEFAULT_MARGIN = 0.005  # half a point of cIoU

Area = Annotated[int, Field(ge=0, le=MOST_PIXELS)]
Flags = str  # one character an expression
T = TypeVar("T")
_LETTER: Mapping[Status, str] = {"ok": "o", "no_mask": "n", "error": "e"}
_STATUS: Mapping[str, Status] = {letter: status for status, letter in _LETTER.items()}
_FLAGS = ("no_target", "has_mask", "predicted_empty", "counted")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Columns(_Strict):
    """The scores, one entry an expression, in the order of sample ids.

    ``image`` and ``tags`` are numbers into ``images`` and ``tag_sets``; ``status`` is a letter (o, n, e) and the flags
    a 0 or 1 an expression. Fractions keep all their digits, so that the same run gives exactly no difference.
    """

    sample_id: list[str]
    images: list[str]
    image: list[NonNegativeInt]
    status: str = Field(pattern="^[one]*$")
    intersection: list[Area]
    union: list[Area]
    pred_area: list[Area]
    gt_area: list[Area]
    iou: list[float | None]
    box_iou: list[float | None]
    boundary_iou: list[float | None]
    no_target: Flags = Field(pattern="^[01]*$")
    has_mask: Flags = Field(pattern="^[01]*$")
    predicted_empty: Flags = Field(pattern="^[01]*$")
    counted: Flags = Field(pattern="^[01]*$")
    tag_sets: list[list[str]]
    tags: list[NonNegativeInt]

    @field_validator("iou", "box_iou", "boundary_iou")
    @classmethod
    def _fractions(cls, values: list[float | None]) -> list[float | None]:
        if any(v is not None and not 0.0 <= v <= 1.0 for v in values):
            raise ValueError("an IoU lies between 0 and 1")
        return values

    @model_validator(mode="after")
    def _same_length(self) -> Columns:
        rows = len(self.sample_id)
        for name in type(self).model_fields:
            if name not in ("images", "tag_sets") and len(getattr(self, name)) != rows:
                raise ValueError(f"column {name} has {len(getattr(self, name))} entries, sample_id has {rows}")
        if max(self.image, default=-1) >= len(self.images) or max(self.tags, default=-1) >= len(self.tag_sets):
            raise ValueError("a number of an image or of a set of tags is out of range")
        return self

    @classmethod
    def of(cls, scores: Sequence[Score]) -> Columns:
        """Scores as columns."""
        rows = sorted(scores, key=lambda s: s.sample_id)
        images, image = _numbered([s.image_id for s in rows])
        tag_sets, tags = _numbered([s.tags for s in rows])
        return cls(
            sample_id=[s.sample_id for s in rows],
            images=images,
            image=image,
            status="".join(_LETTER[s.status] for s in rows),
            intersection=[s.intersection for s in rows],
            union=[s.union for s in rows],
            pred_area=[s.pred_area for s in rows],
            gt_area=[s.gt_area for s in rows],
            iou=[s.iou for s in rows],
            box_iou=[s.box_iou for s in rows],
            boundary_iou=[s.boundary_iou for s in rows],
            **{name: "".join("01"[getattr(s, name)] for s in rows) for name in _FLAGS},
            tag_sets=[list(t) for t in tag_sets],
            tags=tags,
        )

    def scores(self) -> list[Score]:
        """The scores that the columns were made of."""
        return [
            Score(
                sample_id=sample_id,
                image_id=self.images[self.image[row]],
                status=_STATUS[self.status[row]],
                intersection=self.intersection[row],
                union=self.union[row],
                pred_area=self.pred_area[row],
                gt_area=self.gt_area[row],
                iou=self.iou[row],
                box_iou=self.box_iou[row],
                boundary_iou=self.boundary_iou[row],
                no_target=self.no_target[row] == "1",
                has_mask=self.has_mask[row] == "1",
                predicted_empty=self.predicted_empty[row] == "1",
                counted=self.counted[row] == "1",
                tags=tuple(self.tag_sets[self.tags[row]]),
            )
            for row, sample_id in enumerate(self.sample_id)
        ]


class Reference(_Strict):
    """Content of ``results/gates/*.json``.

    Attributes:
        metric: Which metric is judged, by its flat name.
        coverage: How much of the split the run covered (``Manifest.coverage``); empty for all of it.
        margin: Largest loss of it, as a fraction, that is still accepted.
        tolerances: By name of a speed figure, how far new / old may be on its bad side of 1; see ``gate_speed``.
        speed: The reference run's own figures; None where it has none.
    """

    schema_version: Literal[1] = 1
    suite: str
    split: str
    suite_hash: str
    protocol: str
    model: str
    weight_digest: str
    digest: str
    limit: int | None = None
    coverage: str = ""
    created: str
    metric: str = "ciou"
    margin: float = Field(default=DEFAULT_MARGIN, ge=0, lt=1)
    tolerances: dict[str, float] = {}
    metrics: dict[str, object]
    speed: SpeedFigures | None = None
    samples: Columns

    @model_validator(mode="after")
    def _tolerances(self) -> Reference:
        check_tolerances(self.tolerances)
        return self

    @property
    def value(self) -> float | None:
        """The judged metric of the reference, as a fraction."""
        ratio = ratios(ScoreTable.of(self.samples.scores()), PROTOCOLS[self.protocol]).get(self.metric)
        return None if ratio is None else ratio.value


def make_reference(
    run: ScoredRun, margin: float = DEFAULT_MARGIN, tolerances: Mapping[str, float] | None = None, metric: str = "ciou"
) -> Reference:
    """A reference of a complete run.

    Args:
        run: Whose scores become the reference.
        margin: Largest accepted loss of the metric, as a fraction.
        tolerances: Of speed figures; none are judged without.
        metric: Flat name of the metric that is judged.

    Raises:
        DataError: The run is not complete.
        UsageError: No such metric, or one that does not apply to the run; a margin or tolerance out of range; a
            tolerance for a figure that the run did not measure.
    """
    check_complete(run)
    known = ratios(run.table, run.protocol)
    if metric not in known or known[metric] is None:
        usable = ", ".join(name for name, ratio in known.items() if ratio is not None)
        raise UsageError(f"{metric} does not apply to {run.label} on {run.where}", f"these do: {usable}")
    if not (math.isfinite(margin) and 0 <= margin < 1):
        raise UsageError(f"a margin of {margin} is not a fraction", "half a point is 0.005")
    wanted = dict(tolerances or {})
    try:
        check_tolerances(wanted)
    except ValueError as error:
        raise UsageError(str(error)) from None
    speed = SpeedFigures.of(run.perf)
    lacking = [name for name in wanted if speed is None or getattr(speed, name) is None]
    if lacking:
        raise UsageError(f"{run.label} did not measure {', '.join(lacking)}", "a tolerance needs a figure to refer to")
    samples = Columns.of(run.scores)
    return Reference(
        suite=run.manifest.suite,
        split=run.manifest.split,
        suite_hash=run.manifest.suite_hash,
        protocol=run.protocol.name,
        model=run.manifest.model,
        weight_digest=run.manifest.weight_digest,
        digest=run.manifest.digest,
        limit=run.manifest.settings.limit,
        coverage=run.coverage,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        metric=metric,
        margin=margin,
        tolerances=wanted,
        metrics=summarise(samples.scores(), run.protocol).to_json(),
        speed=speed,
        samples=samples,
    )


def read_reference(path: Path) -> Reference:
    """Read a reference file.

    Raises:
        DataError: It is missing or malformed, its samples are not what its protocol gives, or its metrics are not
            those of its samples.
    """
    if not path.is_file():
        raise DataError(f"there is no gate reference {path}", "`lens-bench gate RUN --against FILE --update` writes it")
    content = read_json(path)
    try:
        reference = Reference.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"]) or "the file"
        raise DataError(f"{path} is not a gate reference: {where}: {first['msg']}", "write it with --update") from None
    if reference.protocol not in PROTOCOLS:
        raise DataError(f"{path}: this version of lens-bench has no protocol {reference.protocol!r}")
    try:
        check_scores(reference.samples.scores(), PROTOCOLS[reference.protocol], whole=True)
    except DataError as error:
        raise DataError(f"{path}: {error.message}", "it was edited; write it with --update") from None
    if not same_figures(_metrics(reference).to_json(), reference.metrics):
        raise DataError(f"{path}: its metrics are not those of its samples", "it was edited; write it with --update")
    return reference


def write_reference(path: Path, reference: Reference) -> None:
    """Write a reference file atomically, one line a field and a column; folders are made."""
    content = reference.model_dump(mode="json")
    columns = cast("JsonObject", content.pop("samples"))
    fields = [f"  {json.dumps(k)}: {_line(v)}" for k, v in content.items()]
    rows = ",\n".join(f"    {json.dumps(k)}: {_line(v)}" for k, v in columns.items())
    fields.append(f'  "samples": {{\n{rows}\n  }}')
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "{\n" + ",\n".join(fields) + "\n}\n")


def check_complete(run: ScoredRun) -> None:
    """Raise ``DataError`` where expressions of the run were not answered."""
    if not run.complete or len(run.scores) != run.manifest.n_samples:
        raise DataError(
            f"{run.label} on {run.where} is not complete: {len(run.scores)} of {run.manifest.n_samples} expressions",
            "the same `lens-bench run` command goes on where it stopped",
        )


def _metrics(reference: Reference) -> Metrics:
    return summarise(reference.samples.scores(), PROTOCOLS[reference.protocol])


def _line(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _numbered(values: Sequence[T]) -> tuple[list[T], list[int]]:
    """Distinct values in the order of their first appearance, and the number of each entry's value."""
    numbers: dict[T, int] = {}
    entries = [numbers.setdefault(value, len(numbers)) for value in values]
    return list(numbers), entries
