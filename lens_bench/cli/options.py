"""What all commands share: options of several commands, and what becomes of an error."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn, ParamSpec

import typer

from lens_bench.errors import LensBenchError

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


@dataclass(slots=True)
class Debug:
    """Whether an error is shown with its traceback: ``--debug`` anywhere on the line."""

    on: bool = False


debug = Debug()


def command(function: Callable[Params, None]) -> Callable[Params, None]:
    """Turn our errors into a line, a hint and an exit code, and Ctrl-C into 130."""

    @functools.wraps(function)
    def guarded(*args: Params.args, **kwargs: Params.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except LensBenchError as error:
            if debug.on:
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


def names(values: list[str] | None) -> list[str]:
    """``--split a,b --split c`` as a list."""
    return [name for value in values or [] for name in value.split(",") if name]
