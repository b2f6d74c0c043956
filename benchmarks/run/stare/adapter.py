"""A model of no cost that needs the decoded image and always answers with the whole of it."""

from __future__ import annotations

from collections.abc import Sequence

from lens_bench.masks import full
from lens_bench.records import ImageTask, LoadReport, ModelOptions, Prediction


class Stare:
    """Sums every sixteenth pixel and answers every query with the mask of the whole image."""

    def __init__(self, options: ModelOptions) -> None:
        self._sum = 0

    def load(self) -> LoadReport:
        """Nothing to load."""
        return LoadReport()

    def segment(self, tasks: Sequence[ImageTask]) -> list[Prediction]:
        """Answer every query, after a look at the image."""
        self._sum += sum(int(task.rgb[::16, ::16].sum()) for task in tasks)
        return [Prediction(q.sample_id, "ok", mask=full(task.size)) for task in tasks for q in task.queries]

    def close(self) -> None:
        """Nothing to free."""
