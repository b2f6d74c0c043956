"""Options of `run`, `score` and `merge`."""

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
    ProtocolNames,
    Splits,
    Suite,
    Timeout,
    command,
    names,
)
from lens_bench.errors import DataError, UsageError


@command
def run(
    suite: Suite,
    model: Model,
    split: Splits = None,
    model_arg: ModelArgs = None,
    data_root: DataRoot = None,
    protocol: ProtocolNames = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N expressions of a split.")] = None,
    batch_size: Annotated[str, typer.Option(help="Images per call, or auto.")] = "auto",
    device: Device = None,
    dtype: Dtype = None,
    engine: Engine = None,
    workers: Annotated[
        str | None, typer.Option(help="N processes with the model each, or auto: as many as there is room for.")
    ] = None,
    engine_address: Annotated[
        str | None, typer.Option(help="Ray cluster for the workers: auto, HOST:PORT or ray://HOST:PORT.")
    ] = None,
    gpus_per_worker: Annotated[
        float | None, typer.Option(help="GPUs for each worker: a fraction, or a whole number. Default: the card's.")
    ] = None,
    out: Out = Path("results/runs"),
    shard: Annotated[str | None, typer.Option(help="i/n: only the i-th of n parts; see `lens-bench merge`.")] = None,
    max_errors: Annotated[
        str,
        typer.Option(
            help="Abort above this share (1%, 0.01) or count (20) of failures; 0 aborts on the first, 100% never."
        ),
    ] = "1%",
    timeout: Timeout = 600.0,
    retry_errors: Annotated[bool, typer.Option(help="Ask again what failed in an earlier session.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget an earlier run of the same settings.")] = False,
    allow_partial: AllowPartial = False,
    every_checkpoint: Annotated[
        bool,
        typer.Option(
            "--every-checkpoint", help="--model is a training's folder: run each of its models, draw the curve."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan, its cost and all that is in the way.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of every random draw.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Run a model over a suite: predictions, scores, speed. The same command again continues where it stopped."""
    from lens_bench.commands import run as work
    from lens_bench.commands.data import data_root as root_of
    from lens_bench.data.split import known_root
    from lens_bench.run.options import arguments, batch, error_limit, protocols, shard_number
    from lens_bench.run.workers.options import read_workers

    crew = read_workers(workers, engine_address, gpus_per_worker)
    own, also = protocols(names(protocol, "--protocol"))
    request = work.Request(
        args=arguments(model_arg or []),
        # A dry run lists a missing folder among everything else that is missing.
        data_root=known_root(data_root.expanduser()) if dry_run and data_root else root_of(data_root),
        out=out,
        protocol=own,
        also=also,
        limit=limit,
        batch_size=batch(batch_size),
        device=device,
        dtype=dtype,
        engine=engine,
        seed=seed,
        shard=shard_number(shard) if shard else None,
        max_errors=error_limit(max_errors),
        fresh=fresh,
        retry_errors=retry_errors,
        allow_partial=allow_partial,
        timeout=timeout,
    )
    if every_checkpoint:
        from lens_bench.commands.checkpoints import every_checkpoint as each

        each(suite, names(split), Path(model).expanduser(), request, crew, dry_run=dry_run, as_json=as_json)
        return
    work.run(suite, names(split), model, request, crew, dry_run=dry_run, as_json=as_json)


@command
def score(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN_DIR]...", help="Run directories, or folders that hold some.")
    ] = None,
    suite: Annotated[
        str | None, typer.Option("--suite", "-s", help="With --predictions: the suite they answer.")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Somebody else's predictions: JSONL or a JSON array, joined by sample_id or key."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="With --predictions: whose they are; the name in paths and tables.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="With --predictions: where they come from, e.g. the URL of a paper. Files of one name and source, "
            "one a split, are one submission."
        ),
    ] = None,
    box_format: Annotated[
        str | None,
        typer.Option(help="With --predictions: form of their boxes: xyxy (default), xywh, xyxy-norm (0 to 1)."),
    ] = None,
    split: Splits = None,
    data_root: DataRoot = None,
    protocol: ProtocolNames = None,
    limit: Annotated[int | None, typer.Option(min=1, help="With --predictions: only the first N expressions.")] = None,
    out: Out = Path("results/runs"),
    allow_partial: AllowPartial = False,
    as_json: AsJson = False,
) -> None:
    """Score stored predictions under any protocols, without a model: those of a run, or somebody else's file.

    Scores under a protocol that is not the run's own are kept beside the first ones.
    """
    from lens_bench.commands import run as work
    from lens_bench.commands.data import data_root as root_of
    from lens_bench.commands.data import given_root
    from lens_bench.run.options import protocols

    own, also = protocols(names(protocol, "--protocol"))
    if runs and not predictions:
        if name or source:
            raise UsageError("--name and --source go with --predictions", "a run has the name of its model")
        if box_format:
            raise UsageError("--box-format goes with --predictions", "the boxes of a run are corners in pixels")
        chosen = [*([own] if own else []), *also]
        work.rescore(runs, chosen, given_root(data_root), suite=suite, as_json=as_json)
    elif predictions and suite and not runs:
        if not predictions.is_file():
            raise DataError(f"there is no predictions file {predictions}", "JSON Lines or a JSON array")
        request = work.Request(
            args={"predictions": str(predictions), **({"box_format": box_format} if box_format else {})},
            data_root=root_of(data_root),
            out=out,
            protocol=own,
            also=also,
            limit=limit,
            allow_partial=allow_partial,
            max_errors=1.0,
        )
        work.run(suite, names(split), work.submission(name, source), request, as_json=as_json)
    else:
        raise UsageError("score takes either RUN_DIR, or --suite and --predictions", "see lens-bench score --help")


@command
def merge(
    shards: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Run directories with shards, or folders that hold some.")
    ],
    as_json: AsJson = False,
) -> None:
    """Put the shards of a run together. The result is byte for byte what one process would have scored."""
    from lens_bench.commands import run as work

    work.merge(shards, as_json=as_json)


@command
def predict(
    model: Model,
    image: Annotated[Path, typer.Option("--image", "-i", help="The picture.")],
    text: Annotated[list[str], typer.Option("--text", "-t", help="What to look for. Repeatable.")],
    model_arg: ModelArgs = None,
    device: Device = None,
    dtype: Dtype = None,
    engine: Engine = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the picture with mask and box drawn over it.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of every random draw.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Ask a model about one picture."""
    from lens_bench.commands import predict as work
    from lens_bench.run.options import arguments
    from lens_bench.run.plan import Request

    request = Request(args=arguments(model_arg or []), device=device, dtype=dtype, engine=engine, seed=seed)
    work.predict(model, image, work.one_text(text), request, output, as_json=as_json)
