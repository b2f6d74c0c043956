"""What all commands share: options of several commands, and what becomes of an error."""

from __future__ import annotations

import errno
import functools
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn, ParamSpec

import typer

from lens_bench.cli import end, stop
from lens_bench.errors import LensBenchError, RunError, UsageError

Params = ParamSpec("Params")

Suite = Annotated[
    str, typer.Option("--suite", "-s", help="Name of a suite (`lens-bench list suites`) or a card's path.")
]
Model = Annotated[
    str, typer.Option("--model", "-m", help="Name of a model, or path of its folder (FOLDER:NAME if it holds several).")
]
ModelArgs = Annotated[
    list[str] | None,
    typer.Option("--model-arg", help="key=value; `lens-bench show MODEL` lists the keys. Repeatable."),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N. Default: a GPU if the model can use one.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")]
Engine = Annotated[str | None, typer.Option(help="Text engine, where the model offers a choice.")]
Timeout = Annotated[
    float, typer.Option(min=0.1, help="Seconds that one call of a model in a foreign environment may take.")
]
Splits = Annotated[list[str] | None, typer.Option("--split", help="Split or splits; default: the card's.")]
DataRoot = Annotated[
    Path | None, typer.Option(help="Folder with the data. Default: $LENS_BENCH_DATA, else ~/.cache/lens-bench.")
]
ProtocolNames = Annotated[
    list[str] | None,
    typer.Option(
        "--protocol",
        help="Scoring protocols (`lens-bench list protocols`), or all; a new run's own is the first. "
        "Default: the card's.",
    ),
]
OneProtocol = Annotated[
    str | None,
    typer.Option("--protocol", help="A protocol that the runs are scored under. Default: each run's own."),
]
Out = Annotated[Path, typer.Option(help="Folder for results.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to standard output, and nothing else there.")]
AllowPartial = Annotated[bool, typer.Option(help="Accept files whose counts or content differ from the card's.")]


@dataclass(slots=True)
class Debug:
    """Whether an error is shown with its traceback: ``--debug`` anywhere on the line."""

    on: bool = False


debug = Debug()

# Which extra brings a package that not everybody needs.
EXTRAS = {
    "accelerate": "train",
    "peft": "train",
    "sentencepiece": "llava",
    "bitsandbytes": "quant",
    "vllm": "vllm",
    "ray": "ray",
    "grpc": "ray",
}

# What is left after Ctrl-C, where it is not nothing.
KEPT = {
    "run": "what was done is kept; the same command continues",
    "score": "predictions are kept; the same command scores them again",
    "merge": "the shards are kept; the same command merges them again",
    "profile": "what was measured is kept; the same command continues with the rest",
    "train": "the last checkpoint is kept; the same command continues from it",
    "make": "splits that were finished are kept, the one that was not is thrown away",
}


def command(function: Callable[Params, None]) -> Callable[Params, None]:
    """Turn our errors into a line, a hint and an exit code, and Ctrl-C into 130."""

    @functools.wraps(function)
    def guarded(*args: Params.args, **kwargs: Params.kwargs) -> None:
        try:
            with interruptible():
                function(*args, **kwargs)
        except LensBenchError as error:
            if debug.on:
                raise
            _fail(error)
        except ModuleNotFoundError as error:
            if debug.on or error.name not in EXTRAS:
                raise
            extra = EXTRAS[error.name]
            _fail(UsageError(f"this needs the package {error.name}", f'pip install "lens-bench[{extra}]"'))
        except BrokenPipeError:
            raise typer.Exit(1) from None  # whoever read our output has gone
        except UnicodeEncodeError as error:
            if debug.on or error.encoding != sys.getfilesystemencoding():
                raise
            name = ascii(error.object)
            _fail(UsageError(f"this system's encoding {error.encoding} has no file name {name}", "set PYTHONUTF8=1"))
        except OSError as error:
            if debug.on:
                raise
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                what = f" to write {error.filename}" if error.filename else ""
                _fail(RunError(f"no space left{what}", "make room on that disk, then give the same command again"))
            place = f" {error.filename}" if error.filename else ""
            _fail(RunError(f"the system refused{place}: {error.strerror or error}", "--debug shows where"))
        except KeyboardInterrupt:
            from lens_bench.console import note

            note(KEPT.get(function.__name__, "nothing was changed"), "interrupted")
            raise typer.Exit(130) from None

    return guarded


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C raise ``KeyboardInterrupt`` while a command works; before and after, it just ends the process.

    Where ``lens_bench.cli.main`` does not run (tests, other programs), nothing changes.
    """
    ours = signal.getsignal(signal.SIGINT) is stop
    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, end)


def _fail(error: LensBenchError) -> NoReturn:
    from lens_bench.console import show_error

    show_error(error)
    raise typer.Exit(error.exit_code)


def names(values: list[str] | None, option: str = "--split") -> list[str]:
    """``--split a,b --split c`` as a list without repetitions. Raises ``UsageError`` where a name is empty."""
    found = [name.strip() for value in values or [] for name in value.split(",")]
    if not all(found):
        raise UsageError(f"{option} names nothing", "leave the option out to take the default")
    return list(dict.fromkeys(found))
