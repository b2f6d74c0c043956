"""All that a model has to be.

An adapter is a class that is constructed with ``ModelOptions`` and has the three methods of ``Segmenter``. It need not
inherit from anything. A few optional methods are looked for by name: see ``SupportsDigest``,
``SupportsExpect`` and ``RunsElsewhere``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from lens_bench.records import ImageTask, LoadReport, Prediction


@runtime_checkable
class Segmenter(Protocol):
    """A model that marks the pixels an expression means."""

    def load(self) -> LoadReport:
        """Bring weights into memory. Called once, before the first ``segment``.

        Raises:
            CheckpointError: A tensor is missing, unexpected or misshapen, or a file is unreadable.
        """
        ...

    def segment(self, tasks: Sequence[ImageTask]) -> list[Prediction]:
        """Answer every query of every task: one ``Prediction`` per query, tasks and queries in order.

        Work may be shared inside a task and across tasks. An exception costs only the samples that cause it: the run
        loop halves the batch until it has found them. Out of memory halves it for good.
        """
        ...

    def close(self) -> None:
        """Free what ``load`` took. Called once, also after an error or an interruption."""
        ...


@runtime_checkable
class SupportsDigest(Protocol):
    """A segmenter with weights. Without this, the identity of a model is the source of its folder."""

    def weight_digest(self) -> str:
        """A hexadecimal digest that changes when the weights change. Called before ``load``; should take seconds.

        Raises:
            CheckpointError: The weights are not where the card or the arguments say.
        """
        ...


@runtime_checkable
class RunsElsewhere(Protocol):
    """A segmenter whose model runs in a process and environment of its own.

    Attributes:
        packages: Versions there, by name: part of what a run is continued under.
        restarts: How often the process had to be started again.
    """

    packages: Mapping[str, str]
    restarts: int

    def log_to(self, path: Path) -> None:
        """Keep what is printed, and was printed so far, in this file."""
        ...


@runtime_checkable
class SupportsExpect(Protocol):
    """A segmenter that wants to know beforehand everything it will be asked."""

    def expect(self, tasks: Sequence[ImageTask]) -> None:
        """All tasks of the split, without pixels, whatever is already journalled. Called once, before ``load``."""
        ...
