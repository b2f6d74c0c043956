"""Measure what the driving process spends, and what travels, on this machine: the stage times of the simulation.

    python benchmarks/scale/measure.py made > benchmarks/scale/measured.json

Times of the driving process are processor time, so a busy machine changes them little; the trip is the shortest of many
calls. The set is ``benchmarks/run/made_refcoco.py``'s, in the sizes of RefCOCO; predictions are damaged ground truth.
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lens_bench.cards import ModelCard
from lens_bench.data.split import open_split
from lens_bench.perf.hardware import cpu_model
from lens_bench.records import Prediction
from lens_bench.registry import find_model, find_suite, import_file
from lens_bench.run.files import prediction_to_line
from lens_bench.run.journal import Journal
from lens_bench.run.plan import Plan, Request, make_model, make_plan
from lens_bench.run.workers.options import Workers
from lens_bench.run.workers.pool import Answered, Placed, Ready
from lens_bench.run.workers.ray_pool import RayPool, Share
from lens_bench.run.workers.worker import ImageAnswer, ImageParcel, Job
from lens_bench.scoring.counts import Scorer
from lens_bench.scoring.metrics import score_to_json
from lens_bench.scoring.protocols import get_protocol

IMAGES, BATCH, CALLS = 150, 8, 200


def plan_of(root: Path, model: str, args: dict[str, str]) -> Plan:
    card = find_model(model)
    request = Request(args, data_root=root, out=root / "runs", allow_partial=True, batch_size=BATCH)
    options, segmenter = make_model(card, request)
    return make_plan(find_suite("refcoco"), "val", card, options, segmenter, request)


def answers_of(plan: Plan) -> list[Prediction]:
    _, model = make_model(plan.card, plan.request)
    model.load()
    return model.segment([task for task, _ in plan.tasks(lambda _: True)])


def journal_s(predictions: Sequence[Prediction]) -> float:
    """Processor time for one expression, in appends of one call's."""
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "journal") as journal:
        start = time.process_time()
        for first in range(0, len(predictions), 3 * BATCH):
            journal.append(predictions[first : first + 3 * BATCH])
        return (time.process_time() - start) / len(predictions)


def score_s(plan: Plan, predictions: Sequence[Prediction]) -> float:
    """Processor time for one expression, annotation included."""
    scorer = Scorer(get_protocol("strict"), plan.samples, 0)
    start = time.process_time()
    for sample, prediction in zip(plan.samples, predictions, strict=True):
        scorer.score(sample, prediction)
    return (time.process_time() - start) / len(predictions)


def read_s(plan: Plan) -> float:
    """Processor time to read and decode one image."""
    sources = list({s.image_id: s.image for s in plan.samples}.values())
    start = time.process_time()
    for source in sources:
        source.read()
    return (time.process_time() - start) / len(sources)


def ray_s(card: ModelCard, plan: Plan, parcels: Sequence[ImageParcel]) -> tuple[float, float]:
    """Processor time of the driving process for a call, and a message's way, by a worker that has little to do."""
    request = replace(plan.request, device="cpu", dtype="float32")
    pool = RayPool(Job(card, request, Path.cwd(), plan.files.log), Workers(1), Share(1.0, 0.0), None)
    try:
        pool.start(1)
        ready = False
        while not ready:
            for event in pool.wait(1.0):
                if isinstance(event, Placed):
                    pool.load(1)
                ready = isinstance(event, Ready)
        batches = [parcels[i : i + BATCH] for i in range(0, len(parcels) - BATCH, BATCH)]
        cpu, waits = time.process_time(), []
        for number in range(CALLS):
            start = time.perf_counter()
            pool.submit(1, batches[number % len(batches)], [])
            while not (events := pool.wait(1.0)):
                pass
            (event,) = events
            if not isinstance(event, Answered):
                raise SystemExit(f"the worker did not answer: {event}")
            waits.append(time.perf_counter() - start - sum(c.seconds for c in event.answer.calls))
        return (time.process_time() - cpu) / CALLS, min(waits) / 2
    finally:
        pool.close()


def sizes(parcels: Sequence[ImageParcel], predictions: Sequence[Prediction]) -> dict[str, float]:
    """Bytes of what is sent for an image, and of what comes back for an expression."""
    sent = sum(len(pickle.dumps(parcels[i : i + BATCH])) for i in range(0, len(parcels), BATCH))
    answer = ImageAnswer((tuple(predictions),), ("",), {}, (), (), 0, 0.0, None)
    return {
        "image_bytes": round(sent / len(parcels)),
        "expression_bytes": round(len(pickle.dumps(answer)) / len(predictions)),
    }


def stored(plan: Plan, predictions: Sequence[Prediction]) -> dict[str, float]:
    """Bytes of the files for an expression, and of the driving process's memory."""
    scorer = Scorer(get_protocol("strict"), plan.samples, 0)
    rows = [score_to_json(scorer.score(s, p)) for s, p in zip(plan.samples, predictions, strict=True)]
    tracemalloc.start()
    kept = open_split(find_suite("refcoco"), "val", plan.request.data_root, allow_partial=True)
    memory, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {
        "prediction_line_bytes": round(sum(len(prediction_to_line(p)) for p in predictions) / len(predictions)),
        "score_line_bytes": round(sum(len(json.dumps(r, separators=(",", ":"))) + 1 for r in rows) / len(rows)),
        "sample_bytes": round(memory / len(kept.samples)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="Folder for the made set.")
    root = parser.parse_args().root
    import_file(Path(__file__).parents[1] / "run" / "made_refcoco.py").make(root, IMAGES)
    oracle = plan_of(root, "noisy-oracle", {"shift": "8", "erode": "4"})
    order = {p.sample_id: p for p in answers_of(oracle)}
    predictions = [order[s.id] for s in oracle.samples]
    center = plan_of(root, "center", {})
    parcels = [ImageParcel(task, samples[0].image) for task, samples in center.tasks(lambda _: True)]
    unread = [replace(p, source=None) for p in parcels]
    driver, trip = ray_s(center.card, center, unread)
    found = {
        "cpu": cpu_model(),
        "expressions_per_image": round(len(predictions) / len(parcels), 2),
        "journal_ms": round(1e3 * journal_s(predictions), 4),
        "score_ms": round(1e3 * score_s(oracle, predictions), 4),
        "driver_ms_per_call": round(1e3 * driver, 3),
        "trip_ms": round(1e3 * trip, 3),
        "read_image_ms": round(1e3 * read_s(center), 3),
        **sizes(parcels, predictions),
        **stored(oracle, predictions),
    }
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
