"""``train_log.jsonl``: one object a step, appended and flushed as it comes; trackers beside it where asked for."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from lens_bench.atomic import write_text
from lens_bench.errors import RunError
from lens_bench.parsing import parse_json
from lens_bench.train.trackers import Tracker
from lens_bench.trained import LOG


class TrainLog:
    """The log of one stage.

    Args:
        folder: Where it lies.
        after: Lines of later steps are dropped: they are trained again.
        trackers: Are told the same; closed with the log.

    Raises:
        RunError: A line of it is damaged.
    """

    def __init__(self, folder: Path, after: int, trackers: Sequence[Tracker] = ()) -> None:
        self.path = folder / LOG
        self.lines = lines_until(self.path, after)
        self._cut()
        self._file = self.path.open("a", encoding="utf-8")
        self._trackers = trackers

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append the numbers of a step; what is no number, as in a step that ends a training, becomes null.

        Raises:
            RunError: The line cannot be written.
        """
        line: dict[str, object] = {"step": step}
        line |= {name: round(v, 8) if math.isfinite(v) else None for name, v in values.items()}
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:
            raise RunError(
                f"cannot write {self.path}: {error.strerror}",
                "make room; the same command continues from the last checkpoint",
            ) from None
        for tracker in self._trackers:
            tracker.write(step, values)

    def sync(self) -> None:
        """Flush what was written to the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the files."""
        with suppress(OSError):  # what is left of a line that could not be written
            self._file.close()
        for tracker in self._trackers:
            tracker.close()

    def _cut(self) -> None:
        """Rewrite the file in one move, without what was dropped."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in self.lines))


def read_log(path: Path) -> list[dict[str, object]]:
    """The lines of a log; none where there is no log. A last line that was torn by a kill is left out.

    Raises:
        RunError: Another line is damaged.
    """
    if not path.is_file():
        return []
    lines: list[dict[str, object]] = []
    texts = path.read_bytes().split(b"\n")
    for number, text in enumerate(texts, start=1):
        try:
            line = parse_json(text)
        except ValueError:
            line = None
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
        elif number < len(texts):
            raise RunError(
                f"{path}, line {number} is damaged", "remove the line (its step is then missing in the curves)"
            )
    return lines


def lines_until(path: Path, step: int) -> list[dict[str, object]]:
    """The lines of a log up to a step."""
    return [line for line in read_log(path) if _step(line) <= step]


def _step(line: Mapping[str, object]) -> int:
    step = line["step"]
    return step if isinstance(step, int) else 0
