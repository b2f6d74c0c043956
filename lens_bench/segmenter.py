"""All that a model has to be.

An adapter is a class that is constructed with ``ModelOptions`` and has the three methods of ``Segmenter``. It need not
inherit from anything. A few optional methods are looked for by name: see ``SupportsDigest``, ``SupportsExpect`` and
``RunsElsewhere``, and for `lens-bench profile` ``SupportsRandomWeights``, ``SupportsForcedLength`` and
``SupportsCosts``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from lens_bench.records import Cost, ImageTask, LoadReport, Prediction


@runtime_checkable
class Segmenter(Protocol):
    """A model that marks the pixels an expression means."""

    def load(self) -> LoadReport | None:
        """Bring weights into memory. Called once, before the first ``segment``.

        Returns:
            What loading found. None counts as an empty report.

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
        """A hexadecimal digest of everything in the checkpoint that can change an answer, not of the weights alone.

        Called before ``load``; should take seconds. ``lens_bench.checkpoint_files.digest`` covers a folder in
        transformers' format or a weight file.

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


@runtime_checkable
class SupportsRandomWeights(Protocol):
    """A segmenter that can be built at its full size without a checkpoint, to measure its speed."""

    def load_random(self, seed: int) -> LoadReport:
        """Instead of ``load``: the architecture that the card or the arguments say, with weights drawn from the seed.

        Raises:
            UsageError: Neither says what to build.
        """
        ...


@runtime_checkable
class SupportsForcedLength(Protocol):
    """A segmenter whose answers can be made to have a given length, so that models are compared on equal work."""

    def force_length(self, tokens: int) -> None:
        """Write exactly so many tokens for every expression, and one mask whatever they say. Called before loading.

        Raises:
            UsageError: The arguments leave nothing to be written, or an engine cannot be forced. That the model has
                no room for so many may be said only while it is loaded.
        """
        ...


@runtime_checkable
class SupportsCosts(Protocol):
    """A segmenter that can say what work an answered call was."""

    def costs(self, tasks: Sequence[ImageTask], predictions: Sequence[Prediction]) -> Mapping[str, Cost]:
        """The work of a call by stage, named as in ``Prediction.stages_ms``; stages without matrix products are absent.

        A stage of which nobody knows the work (``UNKNOWN_COST``) is named, so that no figure of the whole omits it.

        Args:
            tasks: What was asked in one call.
            predictions: What ``segment`` answered, with token counts.
        """
        ...
