"""The command line. Every command is one call into the package; nothing heavy is imported before a command needs it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, NoReturn, ParamSpec

import typer

from lens_bench import __version__
from lens_bench.errors import LensBenchError, UsageError

app = typer.Typer(
    name="lens-bench",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Evaluate models that segment what a sentence names: mask quality with intervals, and speed, in one run.\n\n"
    "Start with: lens-bench run --suite shapes --model oracle",
    epilog="Exit codes: 0 ok, 1 failure while running, 2 usage, 3 gate failed, 4 data missing or invalid, "
    "5 checkpoint missing or invalid, 130 interrupted.",
)
data_app = typer.Typer(no_args_is_help=True, help="Make, verify and audit the files of suites.")
app.add_typer(data_app, name="data")

Params = ParamSpec("Params")

Suite = Annotated[
    str, typer.Option("--suite", "-s", help="Name of a suite (`lens-bench list suites`) or a card's path.")
]
Splits = Annotated[list[str] | None, typer.Option("--split", help="Split or splits; default: the card's.")]
DataRoot = Annotated[
    Path | None, typer.Option(help="Folder with the data. Default: $LENS_BENCH_DATA, else ~/.cache/lens-bench.")
]
ProtocolName = Annotated[
    str | None, typer.Option("--protocol", help="Scoring protocol (`lens-bench list protocols`); default: the card's.")
]
Out = Annotated[Path, typer.Option(help="Folder for results.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to standard output, one object a line.")]
AllowPartial = Annotated[bool, typer.Option(help="Accept files whose counts or content differ from the card's.")]

_debug = False


def command(function: Callable[Params, None]) -> Callable[Params, None]:
    """Turn our errors into a line, a hint and an exit code, and Ctrl-C into 130."""

    @functools.wraps(function)
    def guarded(*args: Params.args, **kwargs: Params.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except LensBenchError as error:
            if _debug:
                raise
            _fail(error)
        except KeyboardInterrupt:
            from lens_bench.console import note

            note("what was done is kept; the same command continues", "interrupted")
            raise typer.Exit(130) from None

    return guarded


def _fail(error: LensBenchError) -> NoReturn:
    from lens_bench.console import show_error

    show_error(error)
    raise typer.Exit(error.exit_code)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"lens-bench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (anywhere on the line).")
    ] = False,
) -> None:
    """Options of every command."""


# ---------------------------------------------------------------------------------------------- run and score


@app.command()
@command
def run(
    suite: Suite,
    model: Annotated[str, typer.Option("--model", "-m", help="Name of a model, or the path of its folder.")],
    split: Splits = None,
    model_arg: Annotated[
        list[str] | None,
        typer.Option("--model-arg", help="key=value; `lens-bench show MODEL` lists the keys. Repeatable."),
    ] = None,
    data_root: DataRoot = None,
    protocol: ProtocolName = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N expressions of a split.")] = None,
    batch_size: Annotated[str, typer.Option(help="Images per call, or auto.")] = "auto",
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or cuda:N. Default: a GPU if the model can use one.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    engine: Annotated[str | None, typer.Option(help="Text engine, where the model offers a choice.")] = None,
    out: Out = Path("results/runs"),
    shard: Annotated[str | None, typer.Option(help="i/n: only the i-th of n parts; see `lens-bench merge`.")] = None,
    max_errors: Annotated[
        str, typer.Option(help="Stop when more fail: a share (1%, 0.01) or a number (20). One failure never stops.")
    ] = "1%",
    timeout: Annotated[
        float, typer.Option(help="Seconds that one call of a model in a foreign environment may take.")
    ] = 600.0,
    retry_errors: Annotated[bool, typer.Option(help="Ask again what failed in an earlier session.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget an earlier run of the same settings.")] = False,
    allow_partial: AllowPartial = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and what is missing; do nothing.")] = False,
    seed: Annotated[int, typer.Option(help="Of every random draw.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Run a model over a suite: predictions, scores, speed. The same command again continues where it stopped."""
    from lens_bench import commands
    from lens_bench.run.options import arguments, batch, error_limit, shard_number

    request = commands.Request(
        args=arguments(model_arg or []),
        data_root=commands.data_root(data_root),
        out=out,
        protocol=protocol,
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
    commands.run(suite, _names(split), model, request, dry_run=dry_run, as_json=as_json)


@app.command()
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
    split: Splits = None,
    data_root: DataRoot = None,
    protocol: ProtocolName = None,
    limit: Annotated[int | None, typer.Option(min=1, help="With --predictions: only the first N expressions.")] = None,
    out: Out = Path("results/runs"),
    allow_partial: AllowPartial = False,
    as_json: AsJson = False,
) -> None:
    """Score stored predictions under any protocol, without a model: those of a run, or somebody else's file."""
    from lens_bench import commands

    if runs and not predictions:
        commands.rescore(runs, protocol, commands.data_root(data_root), suite=suite, as_json=as_json)
    elif predictions and suite and not runs:
        request = commands.Request(
            args={"predictions": str(predictions)},
            data_root=commands.data_root(data_root),
            out=out,
            protocol=protocol,
            limit=limit,
            allow_partial=allow_partial,
            max_errors=1.0,
        )
        commands.run(suite, _names(split), "replay", request, as_json=as_json)
    else:
        raise UsageError("score takes either RUN_DIR, or --suite and --predictions", "see lens-bench score --help")


@app.command()
@command
def merge(
    shards: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Shards, their run directory, or a results folder.")
    ],
    as_json: AsJson = False,
) -> None:
    """Put the shards of a run together. The result is byte for byte what one process would have scored."""
    from lens_bench import commands

    commands.merge(shards, as_json=as_json)


# ---------------------------------------------------------------------------------------------- looking things up


@app.command("list")
@command
def list_(
    kind: Annotated[str, typer.Argument(metavar="[models|suites|protocols]", help="What to list.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Models that misbehave for tests, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List models, suites and protocols."""
    from lens_bench import lookup

    lookup.show_list(kind, everything=everything, as_json=as_json)


@app.command()
@command
def show(
    name: Annotated[str, typer.Argument(help="A model, suite or protocol, or the path of a model, suite card or run.")],
    as_json: AsJson = False,
) -> None:
    """Show a model, a suite, a scoring protocol (and how it differs from `strict`) or a run."""
    from lens_bench import lookup

    lookup.show(name, as_json=as_json)


@app.command()
@command
def env(as_json: AsJson = False) -> None:
    """Show what figures would be measured on: versions, processor, memory, devices."""
    from lens_bench import lookup

    lookup.show_environment(as_json=as_json)


# ---------------------------------------------------------------------------------------------- data


@data_app.command("make")
@command
def data_make(
    suite: Annotated[str, typer.Argument(help="A generated suite: shapes, shapes-reason, shapes-multi.")],
    split: Splits = None,
    data_root: DataRoot = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes. The files do not depend on it.")] = 2,
) -> None:
    """Generate a suite from its seed: all its splits, or those named."""
    from lens_bench import commands

    commands.data_make(suite, _names(split), commands.data_root(data_root), workers)


@data_app.command("verify")
@command
def data_verify(
    suite: Annotated[str, typer.Argument(help="Name of a suite or path of its card.")],
    split: Splits = None,
    data_root: DataRoot = None,
    decode: Annotated[bool, typer.Option(help="Decode every image.")] = True,
    as_json: AsJson = False,
) -> None:
    """Say which known layout fits, decode every image, rasterise every annotation, compare counts with the card."""
    from lens_bench import commands

    commands.data_verify(suite, _names(split), commands.data_root(data_root), decode=decode, as_json=as_json)


@data_app.command("audit")
@command
def data_audit(
    suites: Annotated[list[str], typer.Argument(metavar="SUITE[:SPLIT]...", help="Suites, or single splits of them.")],
    data_root: DataRoot = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write overlaps and the train images to drop as JSON.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Count images that splits and suites share, and list the train images to drop for a clean claim."""
    from lens_bench import commands

    commands.data_audit(suites, commands.data_root(data_root), output, as_json=as_json)


# ---------------------------------------------------------------------------------------------- entry


def _names(values: Sequence[str] | None) -> list[str]:
    """``--split a,b --split c`` as a list."""
    return [name for value in values or [] for name in value.split(",") if name]


def _spread(arguments: Sequence[str]) -> Iterator[str]:
    """``--split a b`` means ``--split a --split b``: the command takes no other words, only options."""
    option = ""
    for argument in arguments:
        if argument.startswith("-"):
            option = argument
            yield argument
        elif option == "--split":
            option = "--split again"
            yield argument
        elif option == "--split again":
            yield from ("--split", argument)
        else:
            option = ""
            yield argument


def main() -> None:
    """Entry point of ``lens-bench``."""
    global _debug
    arguments = sys.argv[1:]
    _debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    if arguments[:1] == ["run"]:
        arguments = list(_spread(arguments))
    app(arguments, prog_name="lens-bench")


if __name__ == "__main__":
    main()
