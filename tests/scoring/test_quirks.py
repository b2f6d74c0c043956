"""One row per quirk of a paper's script: which choice, on which masks, gives which number.

Every expectation is worked out by hand beside its row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from lens_bench.records import Box, Prediction, Sample, Status
from lens_bench.scoring.counts import Scorer
from lens_bench.scoring.metrics import Metrics, summarise
from lens_bench.scoring.protocols import GRES, GSEVAL, PROTOCOLS, Protocol, get_protocol

Bools = NDArray[np.bool_]
SIZE = (10, 20)
NOTHING: Bools = np.zeros(SIZE, dtype=bool)


def region(x1: int, x2: int, y1: int = 0, y2: int = 10, size: tuple[int, int] = SIZE) -> Bools:
    mask = np.zeros(size, dtype=bool)
    mask[y1:y2, x1:x2] = True
    return mask


@dataclass(frozen=True)
class Row:
    """One expression: truth and answer."""

    parts: tuple[Bools, ...]
    mask: Bools | None = None
    ignore: tuple[Bools, ...] = ()
    status: Status = "ok"
    box: Box | None = None
    truth_box: Box | None = None
    no_target: bool = False
    missing: bool = False
    tags: tuple[str, ...] = ()
    ref: str | None = None


def measure(protocol: Protocol, rows: tuple[Row, ...], make_sample: Callable[..., Sample]) -> Metrics:
    samples = [
        make_sample(
            r.parts,
            size=SIZE if not r.parts else None,
            ignore=r.ignore,
            box=r.truth_box,
            no_target=r.no_target,
            name=f"s{i}",
            image=f"i{i}",
            ref=r.ref,
            tags=r.tags,
        )
        for i, r in enumerate(rows)
    ]
    scorer = Scorer(protocol, samples)
    scores = []
    for sample, row in zip(samples, rows, strict=True):
        mask = None if row.mask is None else make_sample([row.mask]).truth.parts[0]
        answer = Prediction(sample.id, row.status, mask=mask, box=row.box)  # type: ignore[arg-type]
        scores.append(scorer.score(sample, None if row.missing else answer))
    return summarise(scores, protocol)


# Two rectangles of 6x6 that share 2x2: 68 pixels, 4 of them twice.
OVERLAPPING = (region(0, 6, 0, 6), region(4, 10, 4, 10))
UNION68: Bools = OVERLAPPING[0] | OVERLAPPING[1]

LEFT, RIGHT = region(0, 10), region(10, 20)  # 100 pixels each
IGNORE = region(8, 12)  # 40 pixels, half of them in LEFT


@dataclass(frozen=True)
class Quirk:
    """What a protocol gives for some rows; only the named metrics are compared."""

    name: str
    protocol: str
    rows: tuple[Row, ...]
    expected: dict[str, float | None]
    changes: dict[str, object] = field(default_factory=dict)


def perfect_over_overlap(protocol: str, iou: float) -> Quirk:
    return Quirk(f"{protocol}: overlap", protocol, (Row(OVERLAPPING, UNION68),), {"ciou": iou, "giou": iou})


def with_ignore(protocol: str, name: str, mask: Bools, intersection: int, union: int) -> Quirk:
    value = intersection / union if union else None
    rows = (Row((LEFT,), mask, ignore=(IGNORE,)),)
    return Quirk(f"{protocol}: ignore, {name}", protocol, rows, {"ciou": value, "giou": value})


def both_empty(protocol: str, giou: float | None, ciou: float | None = None) -> Quirk:
    return Quirk(f"{protocol}: both empty", protocol, (Row((NOTHING,), NOTHING),), {"giou": giou, "ciou": ciou})


RAISED_AND_RIGHT = (Row((LEFT,), LEFT), Row((LEFT,), LEFT, status="error"))
SILENT_AND_RIGHT = (Row((LEFT,), LEFT), Row((RIGHT,), None, status="no_mask"))
MISSING_AND_RIGHT = (Row((LEFT,), LEFT), Row((RIGHT,), missing=True))
DROPPED = {"ciou": 1.0, "giou": 1.0}
HALVED = {"ciou": 0.5, "giou": 0.5}
HALF_BOX = Row((LEFT,), LEFT, box=(0, 0, 5, 10), truth_box=(0, 0, 10, 10))

QUIRKS = [
    # Parts are summed and compared with 1: overlap pixels are background, a perfect mask gets 64 / 68 = 0.941.
    perfect_over_overlap("strict", 1.0),
    perfect_over_overlap("gseval", 1.0),
    perfect_over_overlap("gres", 1.0),
    perfect_over_overlap("seg-zero", 1.0),
    perfect_over_overlap("visionreasoner", 1.0),
    perfect_over_overlap("rela", 1.0),
    perfect_over_overlap("lisa", 64 / 68),
    perfect_over_overlap("lens", 64 / 68),
    perfect_over_overlap("glamm", 64 / 68),
    Quirk(
        "lisa: leaving the overlap out costs nothing",
        "lisa",
        (Row(OVERLAPPING, OVERLAPPING[0] ^ OVERLAPPING[1]),),
        {"ciou": 1.0},
    ),
    # Ignore excluded: 80 target pixels are left. Background: the same 80, but 20 pixels beyond are false. Foreground:
    # 120 target pixels.
    with_ignore("strict", "whole target", LEFT, 80, 80),
    with_ignore("lisa", "whole target", LEFT, 80, 80),
    with_ignore("glamm", "whole target", LEFT, 80, 80),
    with_ignore("gres", "whole target", LEFT, 80, 80),
    with_ignore("lens", "whole target", LEFT, 80, 100),
    with_ignore("seg-zero", "whole target", LEFT, 100, 120),
    with_ignore("visionreasoner", "whole target", LEFT, 100, 120),
    with_ignore("strict", "target and ignore", LEFT | IGNORE, 80, 80),
    with_ignore("lisa", "target and ignore", LEFT | IGNORE, 80, 80),
    with_ignore("lens", "target and ignore", LEFT | IGNORE, 80, 120),
    with_ignore("seg-zero", "target and ignore", LEFT | IGNORE, 120, 120),
    with_ignore("strict", "ignore alone", IGNORE, 0, 80),
    with_ignore("lens", "ignore alone", IGNORE, 0, 120),
    with_ignore("seg-zero", "ignore alone", IGNORE, 40, 120),
    # A truth of nothing but ignore and an empty answer: right where ignore is excluded or background.
    Quirk("lisa: only ignore", "lisa", (Row((NOTHING,), NOTHING, ignore=(IGNORE,)),), {"giou": 1.0}),
    Quirk("lens: only ignore", "lens", (Row((NOTHING,), NOTHING, ignore=(IGNORE,)),), {"giou": 1.0}),
    Quirk("lisa: inside only ignore", "lisa", (Row((NOTHING,), IGNORE, ignore=(IGNORE,)),), {"giou": 1.0}),
    Quirk("lens: inside only ignore", "lens", (Row((NOTHING,), IGNORE, ignore=(IGNORE,)),), {"giou": 0.0}),
    # Empty union. LISA divides a sum of 0 by 1e-10; a ratio 0 / 0 does not apply.
    both_empty("strict", 1.0),
    both_empty("lisa", 1.0, 0.0),
    both_empty("lens", 1.0, 0.0),
    both_empty("glamm", 1.0, 0.0),
    both_empty("lavt", 0.0),
    both_empty("gseval", 0.0),
    both_empty("seg-zero", None),
    both_empty("visionreasoner", None),
    # A failed row on an empty truth: right by the pixels of nothing, but Seg-Zero keeps it with an IoU of 0.
    *[
        Quirk(f"{n}: {s} on an empty truth", n, (Row((NOTHING,), None, status=s), Row((LEFT,), LEFT)), {"giou": giou})
        for n, s, giou in (
            ("strict", "error", 1.0), ("strict", "no_mask", 1.0), ("seg-zero", "error", 0.5),
            ("seg-zero", "no_mask", 0.5), ("visionreasoner", "error", 1.0), ("visionreasoner", "no_mask", 0.5),
        )
    ],
    Quirk("seg-zero: missing on an empty truth", "seg-zero", (Row((NOTHING,), missing=True),), {"giou": 0.0}),
    # Empty on one side only is 0 everywhere, and the area stays in the union.
    *[
        Quirk(f"{name}: empty target", name, (Row((NOTHING,), LEFT), Row((LEFT,), LEFT)), {"ciou": 0.5, "giou": 0.5})
        for name in ("strict", "lisa", "lens", "gseval", "seg-zero", "visionreasoner", "lavt")
    ],
    *[Quirk(f"{name}: empty answer", name, (Row((LEFT,), NOTHING),), {"ciou": 0.0, "giou": 0.0}) for name in PROTOCOLS],
    # Failures: VisionReasoner's `continue`; everybody else keeps the row with I = 0, U = area of the truth.
    Quirk("visionreasoner: error dropped", "visionreasoner", RAISED_AND_RIGHT, {**DROPPED, "error_rate": 0.5}),
    *[Quirk(f"{n}: error kept", n, RAISED_AND_RIGHT, HALVED) for n in PROTOCOLS if n != "visionreasoner"],
    *[Quirk(f"{n}: no mask kept", n, SILENT_AND_RIGHT, {**HALVED, "no_mask_rate": 0.5}) for n in PROTOCOLS],
    *[Quirk(f"{n}: missing kept", n, MISSING_AND_RIGHT, {**HALVED, "no_mask_rate": 0.5}) for n in PROTOCOLS],
    Quirk("official gseval: missing dropped", "gseval", MISSING_AND_RIGHT, DROPPED, {"on_no_mask": "drop"}),
    # Precision: at least, not more than.
    Quirk("strict: P@0.5 at 0.5", "strict", (Row((LEFT,), region(0, 5)),), {"p0.5": 1.0, "p0.6": 0.0}),
    Quirk("strict: P@0.7 at 0.7", "strict", (Row((LEFT,), region(0, 7)),), {"p0.7": 1.0, "p0.8": 0.0}),
    Quirk("lisa: its epsilon pushes 0.5 below", "lisa", (Row((LEFT,), region(0, 5)),), {"p0.5": 0.0}),
    # GRES: Pr@.7-.9 alone, on targeted expressions alone.
    Quirk(
        "gres: precision",
        "gres",
        (Row((LEFT,), region(0, 8)), Row((), None, status="no_mask", no_target=True)),
        {"p0.5": None, "p0.6": None, "p0.7": 1.0, "p0.8": 1.0, "p0.9": 0.0, "giou": 0.9},
    ),
    Quirk(
        "strict: precision on all",
        "strict",
        (Row((LEFT,), region(0, 6)), Row((), None, status="no_mask", no_target=True)),
        {"p0.7": 0.5, "giou": 0.8},
    ),
    # GRES, the four outcomes. Right "nothing": IoU 1, nothing in the sums.
    Quirk(
        "gres: true positive",
        "gres",
        (Row((), NOTHING, no_target=True), Row((LEFT,), LEFT)),
        {"giou": 1.0, "ciou": 1.0, "n_acc": 1.0, "t_acc": 1.0},
    ),
    # Below 50 pixels is "nothing" too, and its 49 pixels leave the sums.
    Quirk(
        "gres: 49 pixels are nothing",
        "gres",
        (Row((), region(0, 7, 0, 7), no_target=True), Row((LEFT,), LEFT)),
        {"giou": 1.0, "ciou": 1.0, "n_acc": 1.0},
    ),
    # 50 pixels are something: IoU 0, 50 in the union: 100 / 150.
    Quirk(
        "gres: false negative",
        "gres",
        (Row((), region(0, 5), no_target=True), Row((LEFT,), LEFT)),
        {"giou": 0.5, "ciou": 100 / 150, "n_acc": 0.0, "t_acc": 1.0},
    ),
    # "Nothing" for a target although the mask made meanwhile covers half of it and 20 beyond: I 0, U 100 + 20.
    Quirk(
        "gres: false positive with its mask",
        "gres",
        (Row((LEFT,), region(5, 12), status="no_mask"), Row((LEFT,), LEFT)),
        {"giou": 0.5, "ciou": 100 / 220, "t_acc": None},
    ),
    Quirk(
        "gres: a tiny mask of a tiny target is nothing",
        "gres",
        (Row((region(0, 4),), region(0, 4)), Row((), NOTHING, no_target=True)),
        {"giou": 0.5, "ciou": 0.0, "t_acc": 0.0, "n_acc": 1.0},
    ),
    # ReLA counts pixels of the square: 4 of 200 pixels are 4,608 of 230,400 there, no longer fewer than 50.
    Quirk("gres: 4 pixels are nothing", "gres", (Row((region(0, 2, 0, 2),), region(0, 2, 0, 2)),), {"giou": 0.0}),
    Quirk("rela: 4 pixels are something", "rela", (Row((region(0, 2, 0, 2),), region(0, 2, 0, 2)),), {"giou": 1.0}),
    Quirk(
        "rela: false negative",
        "rela",
        (Row((), region(0, 5), no_target=True), Row((LEFT,), LEFT)),
        {"giou": 0.5, "ciou": 100 / 150, "n_acc": 0.0, "t_acc": 1.0},
    ),
    # The same by pixels: strict gives the tiny mask its 1, and 49 stray pixels on no target 0.
    Quirk(
        "strict: tiny masks count",
        "strict",
        (Row((region(0, 4),), region(0, 4)), Row((), region(0, 7, 0, 7), no_target=True)),
        {"giou": 0.5, "ciou": 40 / 89, "n_acc": 0.0, "t_acc": 1.0},
    ),
    Quirk("strict: a refused mask is no mask", "strict", (Row((LEFT,), LEFT, status="no_mask"),), {"ciou": 0.0}),
    # Boxes. GSEval: the annotation's own box, a null box is wrong, IoU of exactly 0.5 is right.
    Quirk("gseval: box of exactly 0.5", "gseval", (HALF_BOX,), {"box_acc": 1.0, "mean_box_iou": 0.5}),
    Quirk("seg-zero: box must exceed 0.5", "seg-zero", (HALF_BOX,), {"box_acc": 0.0, "mean_box_iou": 0.5}),
    Quirk(
        "gseval: null box is wrong",
        "gseval",
        (HALF_BOX, Row((LEFT,), LEFT, truth_box=(0, 0, 10, 10))),
        {"box_acc": 0.5, "mean_box_iou": 0.25},
    ),
    Quirk(
        "strict: null box is the tight box of the mask",
        "strict",
        (Row((LEFT,), LEFT, truth_box=(0, 0, 10, 10)),),
        {"box_acc": 1.0, "mean_box_iou": 1.0},
    ),
    Quirk(
        "strict: the annotation's box stands before the tight one",
        "strict",
        (Row((LEFT,), LEFT, truth_box=(0, 0, 20, 10)),),
        {"mean_box_iou": 0.5},
    ),
    Quirk("strict: tight box of the truth", "strict", (Row((LEFT,), None, box=(0, 0, 10, 5)),), {"mean_box_iou": 0.5}),
    Quirk("gseval: no box in the truth", "gseval", (Row((LEFT,), None, box=(0, 0, 10, 5)),), {"box_acc": None}),
    Quirk("gseval: masks alone", "gseval", (Row((LEFT,), LEFT, truth_box=(0, 0, 9, 9)),), {"box_acc": None}),
    # Boxes alone have no mask metrics; an empty mask is a mask.
    Quirk("strict: boxes alone", "strict", (Row((LEFT,), None, box=(0, 0, 10, 10)),), {"ciou": None, "p0.5": None}),
    Quirk("strict: nothing answered", "strict", (Row((LEFT,), missing=True),), {"ciou": 0.0, "box_acc": None}),
    # One sentence per referent.
    Quirk(
        "seg-zero: one sentence per referent",
        "seg-zero",
        (Row((LEFT,), LEFT, ref="7"), Row((LEFT,), NOTHING, ref="8")),
        {"giou": 0.5},
    ),
    Quirk(
        "visionreasoner: one sentence per referent",
        "visionreasoner",
        (Row((LEFT,), LEFT, ref="7"), Row((LEFT,), NOTHING, ref="8")),
        {"giou": 0.5},
    ),
]  # fmt: skip


@pytest.mark.parametrize("quirk", QUIRKS, ids=[q.name for q in QUIRKS])
def test_quirk(quirk: Quirk, make_sample: Callable[..., Sample]) -> None:
    protocol = replace(get_protocol(quirk.protocol), **quirk.changes)  # type: ignore[arg-type]
    metrics = measure(protocol, quirk.rows, make_sample)
    # LISA's family adds 1e-5 to every union and to the count: off by less than 1e-4 on masks of 100 pixels.
    tolerance = 1e-4 if protocol.iou_epsilon else 1e-12
    for name, value in quirk.expected.items():
        found = metrics.precision[float(name[1:])] if name[0] == "p" else getattr(metrics, name)
        assert (found is None) == (value is None), name
        assert found is None or found == pytest.approx(value, abs=tolerance), name


def test_every_protocol_has_its_rows() -> None:
    assert {q.protocol for q in QUIRKS} == set(PROTOCOLS)


# ---------------------------------------------------------------------------------------------- epsilons


@pytest.mark.parametrize(
    ("name", "iou", "ciou", "giou"),
    [
        ("strict", 0.5, 100 / 200, 0.5),
        ("lisa", 50 / (100 + 1e-5), 100 / (200 + 1e-10), 2 * 50 / (100 + 1e-5) / (2 + 1e-5)),
        ("lens", 50 / (100 + 1e-5), 100 / (200 + 1e-8), 2 * 50 / (100 + 1e-5) / (2 + 1e-5)),
        ("lavt", 0.5, 0.5, 0.5),
    ],
)
def test_epsilons(name: str, iou: float, ciou: float, giou: float, make_sample: Callable[..., Sample]) -> None:
    protocol = get_protocol(name)
    samples = [make_sample([LEFT], name=f"s{i}") for i in range(2)]
    half = make_sample([region(0, 5)]).truth.parts[0]
    scorer = Scorer(protocol, samples)
    scores = [scorer.score(s, Prediction(s.id, "ok", mask=half)) for s in samples]  # type: ignore[arg-type]
    metrics = summarise(scores, protocol)
    assert scores[0].iou == pytest.approx(iou, rel=1e-15)
    assert metrics.ciou == pytest.approx(ciou, rel=1e-15)
    assert metrics.giou == pytest.approx(giou, rel=1e-15)


# ---------------------------------------------------------------------------------------------- lavt's resize


def test_lavt_weighs_images_alike_where_others_weigh_pixels(make_sample: Callable[..., Sample]) -> None:
    """A wrong large image and a right small one: 100 of 2,100 pixels, but half of what is left after squeezing."""
    large, small = region(0, 50, 0, 40, size=(40, 100)), region(0, 10)
    rows = (Row((large,), np.zeros((40, 100), dtype=bool)), Row((small,), small))
    assert measure(get_protocol("strict"), rows, make_sample).ciou == 100 / 2100
    assert measure(get_protocol("lavt"), rows, make_sample).ciou == 0.5


def test_lavt_counts_pixels_of_the_squeezed_image(make_sample: Callable[..., Sample]) -> None:
    sample = make_sample([LEFT])
    score = Scorer(get_protocol("lavt"), [sample]).score(
        sample,
        Prediction("s", "ok", mask=make_sample([region(0, 5)]).truth.parts[0]),  # type: ignore[arg-type]
    )
    assert (score.gt_area, score.pred_area) == (480 * 240, 480 * 120)
    assert score.box_iou == 0.5  # boxes stay at the size of the image


def test_lavt_loses_parts_thinner_than_its_grid(make_sample: Callable[..., Sample]) -> None:
    wide = region(3, 4, size=(4, 2000))  # one column of 2,000: nearest sampling takes every fourth
    assert measure(get_protocol("lavt"), (Row((wide,), wide),), make_sample).giou == 0.0
    assert measure(get_protocol("strict"), (Row((wide,), wide),), make_sample).giou == 1.0


# ---------------------------------------------------------------------------------------------- gseval's averages


def test_gseval_averages_over_rows_not_over_classes(make_sample: Callable[..., Sample]) -> None:
    rows = (
        *[Row((LEFT,), LEFT, tags=("stuff",)) for _ in range(3)],
        Row((RIGHT,), LEFT, tags=("part",)),
        Row((RIGHT,), missing=True, tags=("part",)),
    )
    assert measure(GSEVAL, rows, make_sample).giou == 3 / 5  # the mean of classes would be 1 / 2
    assert measure(replace(GSEVAL, on_no_mask="drop"), rows, make_sample).giou == 3 / 4


def test_a_failure_is_an_empty_mask_on_expressions_without_target_too(make_sample: Callable[..., Sample]) -> None:
    """So its IoU is right there, but N-acc and T-acc, which judge decisions, count a failure as wrong."""
    rows = (Row((), None, status="error", no_target=True),)
    metrics = measure(GRES, rows, make_sample)
    assert (metrics.giou, metrics.n_acc, metrics.error_rate) == (1.0, 0.0, 1.0)
