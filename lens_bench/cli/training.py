"""Options of `train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lens_bench.cli.options import DataRoot, command


@command
def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe (lens_bench/train/recipes), or a YAML file.")],
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value over the recipe; stage:key=value in a chain. Repeatable."),
    ] = None,
    name: Annotated[
        str, typer.Option(help="Name of the result, of its folder and of its model card; default: the recipe's.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default: results/train/NAME.")] = None,
    data_root: DataRoot = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew: the training that is there is thrown away.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Estimate parameters, memory and time without training or weights.")
    ] = False,
    gpus: Annotated[int, typer.Option(min=1, help="With --dry-run: number of GPUs to estimate for.")] = 1,
    paper_data: Annotated[
        bool, typer.Option("--paper-data", help="Keep training images that occur in evaluation splits.")
    ] = False,
) -> None:
    """Train a LENS model or a control from a recipe. The same command again continues; the result is a model."""
    from lens_bench.commands.data import data_root as root_of
    from lens_bench.train.command import train_command

    train_command(
        recipe,
        setting or [],
        result=name,
        folder=out,
        data_root=root_of(data_root),
        fresh=fresh,
        dry_run=dry_run,
        gpus=gpus,
        paper_data=paper_data,
    )
