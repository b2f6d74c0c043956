"""Folders that trainings write, as far as others need to know them: where the result of a stage or of a chain lies."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from lens_bench.errors import CheckpointError
from lens_bench.parsing import parse_json

# Of a stage: its result, the weights of its best evaluation, what it was begun with, a line for each step, what of the
# data was left out, and the page of all that.
FINAL, BEST, BEGUN = "final", "best", "recipe.json"
LOG, LEFT_OUT, REPORT = "train_log.jsonl", "left_out.json", "report.html"
# What the names of figures of all checkpoints begin with.
CURVE = "by-step"
# In the folder of a chain: the folders of its stages, in order.
CHAIN = "chain.json"
_STAGE = re.compile(r"\d+-.+")
_CHECKPOINT = re.compile(r"checkpoint-\d{8}")


@dataclass(frozen=True, slots=True)
class Trained:
    """A folder of a training.

    Attributes:
        folder: Of the stage or chain.
        stages: Folders of all stages, begun or not, in order; the folder itself where it is no chain's.
    """

    folder: Path
    stages: tuple[Path, ...]

    @property
    def is_chain(self) -> bool:
        """Whether it is a chain's."""
        return self.stages != (self.folder,)


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a stage, oldest first; a folder of that name is complete, because it was moved."""
    return sorted(path for path in folder.glob("checkpoint-*") if _CHECKPOINT.fullmatch(path.name))


def step_of(folder: Path) -> int:
    """Number of steps done in a checkpoint, by its name."""
    return int(folder.name.rpartition("-")[2])


def open_trained(folder: Path) -> Trained | None:
    """A folder as that of a training; None where it is not one."""
    if (folder / BEGUN).is_file() or (folder / FINAL).is_dir() or checkpoints(folder):
        return Trained(folder, (folder,))
    stages = _named_stages(folder / CHAIN) if (folder / CHAIN).is_file() else _begun_stages(folder)
    return Trained(folder, tuple(stages)) if stages else None


def result_of(trained: Trained) -> Path:
    """The model that a training ends with: ``final`` of its last stage.

    Raises:
        CheckpointError: It is not there yet; the message says which checkpoints are.
    """
    last = trained.stages[-1] / FINAL
    if last.is_dir():
        return last
    current = next((stage for stage in trained.stages if not (stage / FINAL).is_dir()), trained.stages[-1])
    saved = [*checkpoints(current), *(path for path in (current / BEST,) if path.is_dir())]
    usable = saved or [stage / FINAL for stage in trained.stages if (stage / FINAL).is_dir()]
    where = f" (stage {current.name} is not finished)" if trained.is_chain else ""
    there = f"checkpoints: {', '.join(path.name for path in saved)}" if saved else "there is no checkpoint either"
    raise CheckpointError(
        f"the training in {trained.folder} has no {FINAL} yet{where}; {there}",
        f"let it finish, or name one of its models: {usable[-1]}" if usable else "let it finish",
    )


def _named_stages(path: Path) -> list[Path]:
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    names = content.get("stages") if isinstance(content, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{path} cannot be read", "the same train command writes it again")
    return [path.parent / name for name in names]


def _begun_stages(folder: Path) -> list[Path]:
    """Stages of a chain that was trained before chains wrote down their stages: those that were begun."""
    found = [path.parent for path in folder.glob(f"*/{BEGUN}") if _STAGE.fullmatch(path.parent.name)]
    return sorted(found, key=lambda path: int(path.name.partition("-")[0]))
