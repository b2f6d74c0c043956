"""What every stage works with: the model, how it is asked, where images come from, where numbers go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lens_bench.lens.modeling import LensModel
from lens_bench.lens.prompts import HubTokenizer, Prompter
from lens_bench.train.album import Album
from lens_bench.train.config import TrainRecipe
from lens_bench.train.data import Draw, TrainingData
from lens_bench.train.meter import Meter
from lens_bench.train.pack import Layout
from lens_bench.train.trainee import Trainee

AnyBatch = TypeVar("AnyBatch")


@dataclass(slots=True)
class Workshop:
    """Shared by a stage's parts.

    Attributes:
        recipe: What is done.
        accelerator: Devices and ranks.
        lens: The model itself.
        trainee: The model behind the wrappers of ``accelerator``.
        tokenizer: Of its texts.
        prompter: Of its prompts.
        layout: Of its rows.
        album: Images.
        data: What is trained on.
        reference: The frozen start, for the KL divergence.
        meter: Numbers of the current step.
    """

    recipe: TrainRecipe
    accelerator: Accelerator
    lens: LensModel
    trainee: nn.Module
    tokenizer: HubTokenizer
    prompter: Prompter
    layout: Layout
    album: Album
    data: TrainingData
    reference: Trainee | None = None
    meter: Meter = field(default_factory=Meter)

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return self.lens.device


class Objective(Protocol, Generic[AnyBatch]):
    """A stage: how a step's units become micro batches, and a micro batch a loss."""

    def batches(self, step: int, draws: Sequence[Draw]) -> list[AnyBatch]:
        """Micro batches of a rank's share of a step, each with what it must know of the whole step."""
        ...

    def loss(self, batch: AnyBatch) -> Tensor:
        """A micro batch's share of the step's loss: summed over all of a step's it is that loss."""
        ...
