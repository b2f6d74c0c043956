"""``train_log.jsonl``: one object a step, appended and flushed as it comes; TensorBoard beside it where asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lens_bench.errors import UsageError
from lens_bench.parsing import parse_json

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG_NAME = "train_log.jsonl"


class TrainLog:
    """The log of one stage.

    Args:
        folder: Where it lies.
        after: Lines of later steps are dropped: they are trained again.
        tensorboard: Write event files under ``tensorboard/`` too.

    Raises:
        UsageError: TensorBoard is asked for but not installed.
    """

    def __init__(self, folder: Path, after: int, tensorboard: bool = False) -> None:
        self.path = folder / LOG_NAME
        self.lines = lines_until(self.path, after)
        self._cut()
        self._file = self.path.open("a", encoding="utf-8")
        self._board = _board(folder / "tensorboard", after) if tensorboard else None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append the numbers of a step; what is no number, as in a step that ends a training, becomes null."""
        line: dict[str, object] = {"step": step}
        line |= {name: round(v, 8) if math.isfinite(v) else None for name, v in values.items()}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()

    def _cut(self) -> None:
        """Rewrite the file in one move, without what was dropped."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(self.path.name + ".part")
        part.write_text("".join(json.dumps(line) + "\n" for line in self.lines), encoding="utf-8")
        part.replace(self.path)


def read_log(path: Path) -> list[dict[str, object]]:
    """The lines of a log; one that was torn by a kill is left out, and none where there is no log."""
    if not path.is_file():
        return []
    lines: list[dict[str, object]] = []
    for text in path.read_bytes().splitlines():
        try:
            line = parse_json(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


def lines_until(path: Path, step: int) -> list[dict[str, object]]:
    """The lines of a log up to a step."""
    return [line for line in read_log(path) if _step(line) <= step]


def _step(line: Mapping[str, object]) -> int:
    step = line["step"]
    return step if isinstance(step, int) else 0


def _board(folder: Path, after: int) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError("runtime.tensorboard needs tensorboard", "pip install tensorboard") from None
    return SummaryWriter(str(folder), purge_step=after + 1)
