"""What the reference models share: nothing to load, nothing to free, one answer per query."""

from __future__ import annotations

from collections.abc import Sequence

from lens_bench.records import ImageTask, LoadReport, ModelOptions, Prediction, Query, Size


class Weightless:
    """A segmenter without weights; a subclass says how one query is answered."""

    def __init__(self, options: ModelOptions) -> None:
        self.options = options

    def load(self) -> LoadReport:
        """Nothing to load."""
        return LoadReport()

    def segment(self, tasks: Sequence[ImageTask]) -> list[Prediction]:
        """Answer every query by itself."""
        return [self.answer(query, task.size) for task in tasks for query in task.queries]

    def answer(self, query: Query, size: Size) -> Prediction:
        """Answer one query on an image of ``size`` (height, width)."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing to free."""
