"""Options of `list`, `show` and `env`."""

from __future__ import annotations

from typing import Annotated

import typer

from lens_bench.cli.options import AsJson, command


@command
def list_(
    kind: Annotated[str, typer.Argument(metavar="[models|suites|protocols]", help="What to list.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Models that misbehave for tests, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List models, suites and protocols."""
    from lens_bench.commands import look

    look.show_list(kind, everything=everything, as_json=as_json)


@command
def show(
    name: Annotated[str, typer.Argument(help="A model, suite or protocol, or the path of a model, suite card or run.")],
    as_json: AsJson = False,
) -> None:
    """Show a model, a suite, a scoring protocol (and how it differs from `strict`) or a run."""
    from lens_bench.commands import look

    look.show(name, as_json=as_json)


@command
def env(as_json: AsJson = False) -> None:
    """Show what figures would be measured on: versions, processor, memory, devices."""
    from lens_bench.commands import look

    look.show_environment(as_json=as_json)
