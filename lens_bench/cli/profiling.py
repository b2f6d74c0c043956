"""Options of `profile`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lens_bench.cli.options import (
    AllowPartial,
    AsJson,
    DataRoot,
    Device,
    Dtype,
    Engine,
    Model,
    ModelArgs,
    Out,
    Suite,
    Timeout,
    command,
)

Scenarios = Annotated[
    list[str] | None,
    typer.Option(
        help="single-stream (one picture, one expression at a time), offline (throughput over batch sizes), "
        "server (requests that come by themselves); several with commas. Default: all."
    ),
]
Split = Annotated[str | None, typer.Option(help="Whose pictures; default: the card's first.")]
Images = Annotated[int, typer.Option(min=1, help="Pictures taken from the split, drawn by the seed.")]
Duration = Annotated[
    float,
    typer.Option(
        min=0.1,
        help="Seconds that each figure is measured for, at least 3 calls (offline) or 10 (single-stream). A server "
        "trial lasts up to 30 times as long if its percentile needs more requests.",
    ),
]
BatchSizes = Annotated[
    str, typer.Option(help="offline: images a call, e.g. 1,4,16; auto doubles until throughput stops growing.")
]
Concurrency = Annotated[
    int | None, typer.Option(min=1, help="server: most requests of one call. Default: offline's best batch size.")
]
LatencyBound = Annotated[str, typer.Option(help="server: what has to hold, e.g. p99=2s or p90=350ms.")]
ImageSize = Annotated[
    str | None, typer.Option(help="Stretch every picture, e.g. 640x480, so that models see equal work.")
]
NewTokens = Annotated[
    int | None, typer.Option(min=1, help="Force every answer to this length, so that models do equal work.")
]
RandomWeights = Annotated[
    bool, typer.Option("--random-weights", help="Build the model at its full size without a checkpoint.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Measure again what was measured before.")]
Plots = Annotated[bool, typer.Option(help="Draw latencies, throughput, rates and stages beside profile.json.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be measured; do nothing.")]
Seed = Annotated[int, typer.Option(min=0, help="Of pictures, arrivals and random weights.")]


@command
def profile(
    suite: Suite,
    model: Model,
    scenario: Scenarios = None,
    split: Split = None,
    images: Images = 32,
    duration: Duration = 10.0,
    batch_sizes: BatchSizes = "auto",
    concurrency: Concurrency = None,
    latency_bound: LatencyBound = "p99=2s",
    image_size: ImageSize = None,
    new_tokens: NewTokens = None,
    random_weights: RandomWeights = False,
    model_arg: ModelArgs = None,
    data_root: DataRoot = None,
    device: Device = None,
    dtype: Dtype = None,
    engine: Engine = None,
    out: Out = Path("results/runs"),
    timeout: Timeout = 600.0,
    fresh: Fresh = False,
    allow_partial: AllowPartial = False,
    plots: Plots = True,
    dry_run: DryRun = False,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Measure how fast a model is, and why: latency, throughput, request rate; stages, memory, energy, rooflines.

    Results go to profile.json: in the directory of the run of the same settings, whose leaderboard row then shows them;
    with --image-size, --new-tokens or --random-weights in a directory of its own. The same command again continues
    with what is missing. Figures measured beside other work, under a debugger or in several sessions are marked as not
    comparable, with the reason.

    Start with: lens-bench profile --suite shapes --model full --duration 2

    Equal work without weights: lens-bench profile -s shapes -m lens-3b --random-weights --image-size 640x480
    --new-tokens 32
    """
    from lens_bench.commands import profile as work
    from lens_bench.commands.data import data_root as root_of
    from lens_bench.perf import knobs as read
    from lens_bench.run.options import arguments
    from lens_bench.run.plan import Request

    request = Request(
        args=arguments(model_arg or []),
        data_root=root_of(data_root),
        out=out,
        device=device,
        dtype=dtype,
        engine=engine,
        seed=seed,
        fresh=fresh,
        allow_partial=allow_partial,
        timeout=timeout,
    )
    knobs = read.Knobs(
        scenarios=read.scenarios(scenario or []),
        images=images,
        duration=duration,
        batch_sizes=read.batch_sizes(batch_sizes),
        concurrency=concurrency,
        bound=read.latency_bound(latency_bound),
        image_size=read.image_size(image_size) if image_size else None,
        new_tokens=new_tokens,
        random_weights=random_weights,
    )
    work.profile(suite, split, model, request, knobs, work.Wishes(plots, dry_run, as_json))
