"""What of a training is kept, and by which evaluation the best weights are chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from lens_bench.registry import suggest

_ANSWERED = ("ciou", "giou", "box_right", "box_iou", "named", "answered")
# What the evaluation of a stage measures, of which more is better (``evaluate.py``).
METRICS: Mapping[str, tuple[str, ...]] = {
    "sam": ("mask_iou",),
    "vision": ("size_right", "color_right", "shape_right"),
    "supervised": _ANSWERED,
    "grpo": _ANSWERED,
}


class Best(BaseModel):
    """Keep ``best/``: the weights whose evaluation during training had the highest ``metric``, of equal ones the first.

    ``split`` is that of the section ``evaluation``, and may be left out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str
    split: str = ""

    def require_measured(self, stage: str, split: str | None, every: int, steps: int) -> None:
        """Check that evaluations measure it.

        Args:
            stage: Of the recipe.
            split: That is evaluated on; None: there is no evaluation.
            every: Steps from one evaluation to the next.
            steps: Of the training.

        Raises:
            ValueError: They do not.
        """
        known = METRICS[stage]
        if split is None:
            raise ValueError("saving.best needs evaluations: add the section evaluation")
        if self.split and self.split != split:
            raise ValueError(f"saving.best.split: {self.split} is not evaluated on, evaluation.split is {split}")
        if self.metric not in known:
            hint = suggest(self.metric, known) or f"stage {stage} measures {', '.join(known)}"
            raise ValueError(f"saving.best.metric: no metric {self.metric!r}; {hint}")
        if every > steps:
            raise ValueError(f"saving.best: there is no evaluation within {steps} steps (evaluation.every: {every})")


class Saving(BaseModel):
    """Checkpoints: every ``every`` steps one to resume from, the last ``keep`` of them.

    ``final`` and ``best`` are in ``dtype``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: int = Field(default=500, ge=1)
    keep: int = Field(default=2, ge=1)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    best: Best | None = None
