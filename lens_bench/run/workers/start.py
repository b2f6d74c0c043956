"""From what the user asked for to a session over workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lens_bench.errors import UsageError
from lens_bench.run.plan import Plan
from lens_bench.run.session import everything
from lens_bench.run.workers.crew import Crew
from lens_bench.run.workers.options import Workers
from lens_bench.run.workers.ray_pool import RayPool, Share
from lens_bench.run.workers.worker import Job
from lens_bench.segmenter import Segmenter, SupportsExpect


def make_crew(plans: Sequence[Plan], segmenter: Segmenter, workers: Workers) -> Crew:
    """Connect to Ray, or start it; workers are hired when the first split needs them.

    Args:
        plans: One for each split.
        segmenter: The model as constructed here, which is never loaded.
        workers: How many, and where.

    Raises:
        UsageError: There is no cluster, or the devices do not suffice.
    """
    first = plans[0]
    options, card = first.options, first.card
    if options.device.startswith("cuda:"):
        raise UsageError(f"--device {options.device} names one device for all workers", "say --device cuda")
    gpus = (card.gpus_per_worker if workers.gpus is None else workers.gpus) if options.device == "cuda" else 0.0
    request = replace(first.request, device=options.device, dtype=options.dtype, engine=options.engine)
    job = Job(card, request, Path.cwd(), first.files.log)
    expected = everything(plans) if isinstance(segmenter, SupportsExpect) else None
    return Crew(RayPool(job, workers, Share(1.0, gpus), expected), plans, workers.count)
