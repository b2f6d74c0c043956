"""What every stage works with: the model, how it is asked, where images come from, where numbers go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lens_bench.lens.modeling import LensModel
from lens_bench.lens.prompts import HubTokenizer, Prompter
from lens_bench.train.album import Album
from lens_bench.train.config import TrainRecipe
from lens_bench.train.data import Draw, TrainingData
from lens_bench.train.devices import autocast
from lens_bench.train.meter import Meter
from lens_bench.train.pack import Layout
from lens_bench.train.trainee import Trainee


@dataclass(slots=True)
class Workshop:
    """Shared by a stage's parts.

    Attributes:
        recipe: What is done.
        accelerator: Devices and ranks.
        lens: The model itself, to sample from and to evaluate; inside of ``whole()`` where ranks hold parts of it.
        trainee: The model behind the wrappers of ``accelerator``.
        tokenizer: Of its texts.
        prompter: Of its prompts.
        layout: Of its rows.
        album: Images.
        data: What is trained on.
        reference: The frozen start, for the KL divergence.
        whole: Gathers ``lens`` for a block, which every rank must enter; nothing to do where it is whole anyway.
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
    whole: Callable[[], AbstractContextManager[None]] = nullcontext
    meter: Meter = field(default_factory=Meter)

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return self.lens.device

    def autocast(self) -> torch.autocast:
        """The recipe's precision for a block."""
        return autocast(self.accelerator, self.recipe)


class Objective(Protocol):
    """A stage: how a step's units become losses."""

    def losses(self, draws: Sequence[Draw]) -> list[Callable[[], Tensor]]:
        """The micro batches of a rank's share of a step: functions that run one and give its share of the loss.

        The sum over all micro batches and ranks is the step's loss.
        """
        ...
