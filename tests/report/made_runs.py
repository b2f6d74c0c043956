"""Run directories made from scores, as `run` leaves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lens_bench.records import Prediction, Score
from lens_bench.run.files import RunFiles, prediction_to_line
from lens_bench.run.manifest import Manifest, Settings
from lens_bench.run.results import write_results
from lens_bench.scoring.counts import rule, says_nothing
from lens_bench.scoring.protocols import Protocol, get_protocol


def score(sample: int, iou: float, *, image: int | None = None, union: int = 1000, **changes: object) -> Score:
    """A scored expression with the given IoU (in thousandths of the union); two expressions share an image."""
    number = sample // 2 if image is None else image
    base = Score(
        sample_id=f"toy/val/{sample:05d}",
        image_id=f"img{number:05d}",
        status="ok",
        intersection=round(iou * union),
        union=union,
        pred_area=round(0.7 * union),
        gt_area=union,
        iou=round(iou * union) / union,
        box_iou=iou,
        boundary_iou=iou,
        no_target=False,
        has_mask=True,
        predicted_empty=False,
        counted=True,
        tags=("even",) if sample % 2 == 0 else ("odd",),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def settled(score: Score, protocol: Protocol) -> Score:
    """The score with everything that follows from its counts and its status under a protocol."""
    answers = score.status == "ok" and score.has_mask
    gt = score.gt_area
    shared = min(score.intersection, gt) if answers else 0
    pred = max(score.union, gt) + shared - gt if answers else 0
    silent = says_nothing(protocol, score.status, has_mask=answers, pred_area=pred)
    found = rule(
        protocol,
        score.status,
        no_target=score.no_target,
        silent=silent,
        intersection=shared,
        union=pred + gt - shared,
    )
    counted = found.kept and (score.counted or protocol.select == "all")
    return replace(
        score,
        intersection=found.intersection,
        union=found.union,
        pred_area=pred,
        gt_area=gt,
        iou=found.iou if counted else None,
        has_mask=answers,
        predicted_empty=silent,
        counted=counted,
    )


def manifest(**changes: object) -> Manifest:
    """A manifest of a toy run."""
    base = Manifest(
        suite="toy",
        split="val",
        suite_hash="a" * 64,
        model="model-a",
        model_card={"title": "Model A", "sees_ground_truth": False},
        weight_digest="w" * 64,
        settings=Settings(args={}, prompt={}, dtype="float32", engine=None, limit=None),
        seed=0,
        protocol="strict",
        n_samples=0,
        n_images=0,
        device="cpu",
        environment={"cpu": "test processor"},
        created="2026-01-01T00:00:00+00:00",
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def perf(**changes: object) -> dict[str, object]:
    """A `perf` block as `Speed.to_json` writes it."""
    block: dict[str, object] = {
        "comparable": True,
        "reasons": [],
        "device": "cpu",
        "hardware": "test processor, 2 cores",
        "expressions": 100,
        "images": 50,
        "calls": 10,
        "batch_images": 8,
        "load_s": 1.0,
        "wall_s": 10.0,
        "model_s": 8.0,
        "first_call_ms": 300.0,
        "expressions_per_s": 10.0,
        "images_per_s": 5.0,
        "latency_ms": {"p50": 100.0, "p90": 150.0, "p99": 200.0},
        "stages_ms": {"decode": 20.0, "encode": 80.0},
        "completion_tokens": None,
        "peak_rss_mb": 500.0,
        "peak_device_mb": None,
    }
    return block | changes


def write_run(
    root: Path,
    scores: Sequence[Score],
    *,
    protocol: str = "strict",
    also: Sequence[str] = (),
    speed: Mapping[str, object] | None = None,
    predictions: Sequence[Prediction] = (),
    **changes: object,
) -> RunFiles:
    """Write manifest, scores, summary and predictions of a run below ``root``; changes are the manifest's.

    Scores are written as ``settled`` makes them, under the protocol and under every one in ``also``.
    """
    changes.setdefault("n_samples", len(scores))
    changes.setdefault("n_images", len({s.image_id for s in scores}))
    made = manifest(protocol=protocol, **changes)
    files = RunFiles(root / made.suite / made.split / f"{made.model}-{made.digest}")
    files.root.mkdir(parents=True)
    made.write(files)
    found = {name: [settled(s, get_protocol(name)) for s in scores] for name in (protocol, *also)}
    files.predictions.write_bytes(b"".join(prediction_to_line(p) for p in predictions))
    write_results(files, made, found, speed)
    return files
