"""The command line. Every command is one call into ``commands/``, which is imported when the command runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from lens_bench import __version__
from lens_bench.cli import data, looking, profiling, reports, running, training
from lens_bench.cli.options import debug as traceback_switch
from lens_bench.outgoing import one_line, protect_streams

# The class of typer's errors of usage, which it does not export.
_Misuse = cast("type[Exception]", typer.BadParameter.__base__)


class _Commands(TyperGroup):
    """The commands; an option that does not exist is named without its control characters."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        with _clean_errors():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        with _clean_errors():
            return super().invoke(ctx)


@contextmanager
def _clean_errors() -> Iterator[None]:
    try:
        yield
    except _Misuse as error:
        error.message = one_line(error.message)  # type: ignore[attr-defined]
        raise


app = typer.Typer(
    name="lens-bench",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Evaluate models that segment what a sentence names: mask quality with intervals, and speed, in one run.\n\n"
    "Start with: lens-bench run --suite shapes --model oracle",
    epilog="Exit codes: 0 ok, 1 failure while running, 2 usage, 3 gate failed, 4 data missing or invalid, "
    "5 checkpoint missing or invalid, 75 ended by a signal (the same command continues), 130 interrupted.",
)
data_app = typer.Typer(no_args_is_help=True, help="Make, verify and audit the files of suites.")

COMMANDS: dict[str, Callable[..., None]] = {
    "run": running.run,
    "score": running.score,
    "merge": running.merge,
    "predict": running.predict,
    "profile": profiling.profile,
    "train": training.train,
    "compare": reports.compare,
    "gate": reports.gate,
    "leaderboard": reports.leaderboard,
    "report": reports.report,
    "view": reports.view,
    "list": looking.list_,
    "show": looking.show,
    "env": looking.env,
}
DATA_COMMANDS: dict[str, Callable[..., None]] = {"make": data.make, "verify": data.verify, "audit": data.audit}
for name, function in COMMANDS.items():
    app.command(name)(function)
for name, function in DATA_COMMANDS.items():
    data_app.command(name)(function)
app.add_typer(data_app, name="data")


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


def _spread(arguments: Sequence[str]) -> Iterator[str]:
    """``--split a b`` means ``--split a --split b`` where a command takes no other words, only options."""
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


def run(arguments: Sequence[str]) -> None:
    """Run a command line. Always raises ``SystemExit``."""
    protect_streams()
    traceback_switch.on = "--debug" in arguments
    words = [a for a in arguments if a != "--debug"]
    if words[:1] == ["run"] or (words[:1] == ["score"] and "--predictions" in words):
        words = list(_spread(words))
    app(words, prog_name="lens-bench")
