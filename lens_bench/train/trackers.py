"""Where a training's numbers go beside its log: TensorBoard, Weights & Biases, Trackio."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from lens_bench.errors import UsageError

TrackerName: TypeAlias = Literal["tensorboard", "wandb", "trackio"]
PROJECT = "lens-bench"


class Tracker(Protocol):
    """Takes in the numbers of steps."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """The numbers of a step."""
        ...

    def close(self) -> None:
        """No more come."""
        ...


class TensorBoard:
    """Event files under ``tensorboard/``; those of steps after ``after`` are not shown any more."""

    def __init__(self, folder: Path, after: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=after + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See ``Tracker``."""
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """See ``Tracker``."""
        self._board.close()


class Run:
    """A run of Weights & Biases, or of Trackio, which has the same functions; each part of a training is one.

    The project is that of the environment (``WANDB_PROJECT``, ``TRACKIO_PROJECT``), else ``lens-bench``; so are
    accounts and, with ``WANDB_MODE=offline``, that nothing is sent.
    """

    def __init__(self, name: TrackerName, folder: Path, title: str, settings: Mapping[str, object]) -> None:
        module: Any = importlib.import_module(name)
        project = os.environ.get(f"{name.upper()}_PROJECT") or PROJECT
        more = {"dir": str(folder)} if name == "wandb" else {}
        self._module = module
        module.init(project=project, name=title, config=dict(settings), **more)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See ``Tracker``."""
        self._module.log(dict(values), step=step)

    def close(self) -> None:
        """See ``Tracker``."""
        self._module.finish()


def require_trackers(names: Sequence[TrackerName]) -> None:
    """Check that the packages are installed.

    Raises:
        UsageError: One is not.
    """
    for name in names:
        found = importlib.util.find_spec(name)
        # A folder of that name in the current one, which runs leave, looks like a package without a file.
        if found is None or (found.origin is None and found.submodule_search_locations is not None):
            raise UsageError(f"runtime.report_to: {name} is not installed", f"pip install {name}")


def open_trackers(
    names: Sequence[TrackerName], folder: Path, after: int, title: str, settings: Mapping[str, object]
) -> list[Tracker]:
    """Open what is named.

    Args:
        names: Each once.
        folder: Of the stage.
        after: Steps done already.
        title: Of the run.
        settings: The recipe.
    """
    return [
        TensorBoard(folder, after) if name == "tensorboard" else Run(name, folder, title, settings) for name in names
    ]
