"""``best/``: the weights that an evaluation during training found best, kept while training goes on.

``evaluation.json`` beside them says what was measured with them. It is also what a resumed training knows of the best
value so far: ``best/`` may be newer than the checkpoint that training goes on from, and the steps between are then
trained and evaluated once more.
"""

from __future__ import annotations

from collections.abc import Callable

from accelerate import Accelerator

from lens_bench.train.checkpoint import Keeper
from lens_bench.train.config import TrainRecipe
from lens_bench.train.devices import agreed, from_first
from lens_bench.train.durable import damage, recover
from lens_bench.train.evaluated import Evaluated, read_evaluated
from lens_bench.trained import BEST


class BestKeeper:
    """Keeps ``best/``; nothing to do where the recipe does not ask for it.

    Args:
        keeper: Writes it.
        recipe: Says by which metric.
        accelerator: All ranks take part in writing.
        note: Is told what to know.
    """

    def __init__(
        self, keeper: Keeper, recipe: TrainRecipe, accelerator: Accelerator, note: Callable[[str], object]
    ) -> None:
        self._keeper = keeper
        self._metric = recipe.saving.best.metric if recipe.saving.best is not None else None
        self._split = recipe.evaluation.split if recipe.evaluation is not None else ""
        self._accelerator = accelerator
        self._note = note
        self._folder = keeper.folder / BEST
        self._so_far: Evaluated | None = None

    def resume(self, count: int, done: int) -> None:
        """Find the best so far.

        Args:
            count: Expressions of an evaluation: values of others do not compare.
            done: Number of steps that training goes on from.
        """
        if self._metric is None:
            return
        agreed(self._accelerator, lambda: recover(self._folder))
        self._so_far, why = from_first(self._accelerator, lambda: self._found(count))
        if why or (done and self._so_far is None):
            self._note(f"{why or f'there is no {self._folder}'}; the next evaluation is the best so far")

    def _found(self, count: int) -> tuple[Evaluated | None, str]:
        """What ``best/`` holds, or why it does not count."""
        if not self._folder.exists():
            return None, ""
        if wrong := damage(self._folder):
            return None, f"{self._folder} is damaged ({wrong})"
        found = read_evaluated(self._folder)
        if found is None or self._metric not in found.values or (found.split, found.count) != (self._split, count):
            return None, f"{self._folder} is the best by another evaluation"
        return found, ""

    def offer(self, now: Evaluated | None) -> None:
        """Keep the weights as they are now if they are better than what is kept."""
        if self._metric is None or now is None or (value := now.values.get(self._metric)) is None:
            return
        if self._so_far is not None and value <= self._so_far.values[self._metric]:
            return
        self._keeper.keep(BEST, now.step, now)
        self._so_far = now

    def told(self) -> str:
        """Where the best is and what it reached; empty where none is kept."""
        if self._metric is None or self._so_far is None:
            return ""
        found = self._so_far
        value = found.values[self._metric]
        return f"best {self._metric} on {found.split}: {value:.4f} at step {found.step}, {self._folder}"
