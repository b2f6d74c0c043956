"""Options of `list`, `show` and `env`."""

from __future__ import annotations

from typing import Annotated

import typer

from lens_bench.cli.options import AsJson, DataRoot, command


@command
def list_(
    kind: Annotated[str, typer.Argument(metavar="[models|suites|protocols|recipes]", help="What to list.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Models that misbehave for tests, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List models, suites, protocols and training recipes."""
    from lens_bench.commands import look

    look.show_list(kind, everything=everything, as_json=as_json)


@command
def show(
    name: Annotated[
        str,
        typer.Argument(help="A model, suite, protocol or recipe, or the path of a model, suite card, recipe or run."),
    ],
    data_root: DataRoot = None,
    as_json: AsJson = False,
) -> None:
    """Show a model, a suite, a scoring protocol (and how it differs from `strict`), a training recipe (with its cost
    as `train --dry-run` estimates it) or a run. A name that is a model's and a recipe's is shown as both.
    """  # noqa: D205 - one paragraph of help
    from lens_bench.commands import look

    look.show(name, data_root, as_json=as_json)


@command
def env(as_json: AsJson = False) -> None:
    """Show what figures would be measured on: versions, processor, memory, devices."""
    from lens_bench.commands import look

    look.show_environment(as_json=as_json)
