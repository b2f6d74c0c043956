"""Options of `data make`, `data verify` and `data audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lens_bench.cli.options import AsJson, DataRoot, Splits, command, names


@command
def make(
    suite: Annotated[str, typer.Argument(help="A generated suite: shapes, shapes-reason, shapes-multi.")],
    split: Annotated[list[str] | None, typer.Option("--split", help="Split or splits; default: all.")] = None,
    data_root: DataRoot = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes. The files do not depend on it.")] = 2,
) -> None:
    """Generate a suite from its seed: all its splits, or those named."""
    from lens_bench.commands import data as work

    work.make(suite, names(split), work.data_root(data_root), workers)


@command
def verify(
    suite: Annotated[str, typer.Argument(help="Name of a suite or path of its card.")],
    split: Splits = None,
    data_root: DataRoot = None,
    decode: Annotated[bool, typer.Option(help="Decode every image.")] = True,
    as_json: AsJson = False,
) -> None:
    """Say which known layout fits, decode every image, rasterise every annotation, compare counts with the card."""
    from lens_bench.commands import data as work

    work.verify(suite, names(split), work.data_root(data_root), decode=decode, as_json=as_json)


@command
def audit(
    suites: Annotated[list[str], typer.Argument(metavar="SUITE[:SPLIT]...", help="Suites, or single splits of them.")],
    data_root: DataRoot = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write overlaps and the train images to drop as JSON.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Count images that splits and suites share, and list the train images to drop for a clean claim."""
    from lens_bench.commands import data as work

    work.audit(suites, work.data_root(data_root), output, as_json=as_json)
