"""Somebody's predictions file as a model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from lens_bench.errors import RunError, UsageError
from lens_bench.records import ImageTask, LoadReport, ModelOptions, Prediction
from lens_bench.run.box_format import FORMATS
from lens_bench.run.predictions_file import Joined, PredictionsFile, join, read_predictions


class Replay:
    """Answers with the rows of a predictions file; an expression without a row has the status ``no_mask``.

    The file is joined with all expressions of the split before anything runs, so that a row that belongs to none of
    them, or two rows for one, stop the run at once.
    """

    def __init__(self, options: ModelOptions) -> None:
        path = str(options.args["predictions"] or "")
        if not path:
            raise UsageError(f"model {options.name} needs a file", "--model-arg predictions=FILE")
        self._path = Path(path).expanduser()
        self._form = FORMATS[str(options.args.get("box_format", "xyxy"))]
        self._joined: Joined | None = None

    @cached_property
    def _file(self) -> PredictionsFile:
        return read_predictions(self._path, self._form)

    def weight_digest(self) -> str:
        """SHA-256 of the predictions file. Raises ``DataError`` where it cannot be read."""
        return self._file.sha256

    def expect(self, tasks: Sequence[ImageTask]) -> None:
        """Join the file with the split. Raises ``DataError`` where they do not fit together."""
        self._joined = join(self._file, tasks)

    def load(self) -> LoadReport:
        """Say how many rows joined, and what casts doubt on the form of their boxes."""
        joined = self._join()
        return LoadReport(warnings=(str(joined), *joined.doubts))

    def segment(self, tasks: Sequence[ImageTask]) -> list[Prediction]:
        """Look every query up."""
        known = self._join().predictions
        return [known[query.sample_id] for task in tasks for query in task.queries]

    def close(self) -> None:
        """Forget the file."""
        self._joined = None

    def _join(self) -> Joined:
        if self._joined is None:
            raise RunError("replay was not told what it will be asked", "call expect(tasks) with all tasks first")
        return self._joined
