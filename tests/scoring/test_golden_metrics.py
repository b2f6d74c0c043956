"""The figures that the authors' own accumulator gave for a made gRefCOCO, from files to numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from lens_bench import masks
from lens_bench.data.split import open_split
from lens_bench.records import ImageTask, Polygon, Prediction, Query, Sample
from lens_bench.registry import find_suite
from lens_bench.run.predictions_file import join, read_predictions
from lens_bench.scoring.counts import Scorer
from lens_bench.scoring.metrics import Metrics, summarise
from lens_bench.scoring.protocols import GRES, RELA, Protocol

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "metrics" / "grefcoco"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="../shared/golden/metrics/grefcoco is absent")


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Sample, Prediction]]:
    samples = open_split(find_suite("grefcoco"), "val", GOLDEN, allow_partial=True).samples
    tasks = [ImageTask(s.image_id, s.truth.size, (Query(s.id, s.expression),)) for s in samples]
    predictions = join(read_predictions(GOLDEN / "predictions.jsonl"), tasks).predictions
    return [(s, predictions[s.id]) for s in samples]


def measured(protocol: Protocol, pairs: list[tuple[Sample, Prediction]]) -> Metrics:
    return summarise(Scorer(protocol, [s for s, _ in pairs]).score_all(pairs), protocol)


def test_gres_gives_the_figures_of_the_authors_accumulator(pairs: list[tuple[Sample, Prediction]]) -> None:
    """Their flag "nothing" was set here where no pixel is predicted."""
    expected = json.loads((GOLDEN / "expected.json").read_text())
    found = measured(replace(GRES, min_pixels=1), pairs)
    assert found.giou is not None and found.ciou is not None
    assert 100 * found.giou == pytest.approx(expected["gIoU"], abs=1e-10)
    assert 100 * found.ciou == pytest.approx(expected["cIoU"], abs=1e-10)
    assert (found.t_acc, found.n_acc) == (expected["T_acc"], expected["N_acc"])
    for threshold in (0.7, 0.8, 0.9):
        assert 100 * (found.precision[threshold] or 0) == pytest.approx(expected[f"Pr@{threshold}"], abs=1e-10)


def test_rela_gives_the_same_accumulator_over_squares(pairs: list[tuple[Sample, Prediction]]) -> None:
    """The same sums written densely: polygons scaled and drawn at 480x480, answers sampled to it."""
    ious, total_i, total_u = [], 0, 0
    for sample, answer in pairs:
        height, width = sample.truth.size
        truth = np.zeros((480, 480), bool)
        for part in sample.truth.parts:
            assert isinstance(part, Polygon)
            scaled = np.array(part.points).reshape(-1, 2) * (480 / width, 480 / height)
            truth |= coco.decode(coco.frPyObjects([scaled.ravel().tolist()], 480, 480))[..., 0] > 0
        predicted = _square(answer)
        nothing = answer.status == "no_mask" or not predicted.any()
        inter, union = int((truth & predicted).sum()), int((truth | predicted).sum())
        if sample.truth.no_target:
            ious.append(1.0 if nothing else 0.0)
            inter, union = 0, 0 if nothing else union
        else:
            inter = 0 if nothing else inter
            ious.append(inter / union)
        total_i, total_u = total_i + inter, total_u + union
    found = measured(replace(RELA, min_pixels=1), pairs)
    assert found.giou == pytest.approx(float(np.mean(ious)), abs=1e-12)
    assert found.ciou == total_i / total_u
    assert found.ciou != measured(replace(GRES, min_pixels=1), pairs).ciou


def _square(answer: Prediction) -> np.ndarray:
    if answer.mask is None:
        return np.zeros((480, 480), bool)
    image = Image.fromarray(masks.decode(answer.mask).astype(np.uint8))
    return np.asarray(image.resize((480, 480), Image.Resampling.NEAREST)) == 1
