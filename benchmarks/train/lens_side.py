"""Our trainer on the task: ``Training.run`` of ``lens_bench.train``, with the answer alone and no mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from task import PADDING, Shape, Task, expressions, model_of, pictures

from lens_bench.lens.prompts import Prompter
from lens_bench.lens.tiny import byte_tokenizer
from lens_bench.records import GroundTruth, Pixels, Polygon, Sample
from lens_bench.train.config import TrainRecipe
from lens_bench.train.data import Item, TrainingData, Unit
from lens_bench.train.devices import make_accelerator
from lens_bench.train.loop import Training, Where
from lens_bench.train.stages import make_objective
from lens_bench.train.start import Start
from lens_bench.train.usable import DataCheck

RATE = 1e-5


@dataclass(frozen=True)
class Picture:
    """A picture in memory, as a suite's reader would give it."""

    name: str
    pixels: Pixels

    def exists(self) -> bool:
        return True

    def read(self) -> Pixels:
        return self.pixels


class Behind:
    """Calls back behind every step; keeps what was logged."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self.logged: list[dict[str, float]] = []

    def start(self, title: str, total: int, done: int) -> None:
        pass

    def step(self, values: Mapping[str, float]) -> None:
        self.logged.append(dict(values))
        self._call()

    def note(self, message: str) -> None:
        pass

    def stop(self) -> None:
        pass


def recipe_of(task: Task) -> TrainRecipe:
    """GRPO without a mask loss; the reward is the other side's function."""
    rates = {"embeddings": RATE, "language": RATE} | ({"vision": RATE} if task.vision else {})
    return TrainRecipe.model_validate(
        {
            "name": "grpo-step",
            "stage": "grpo",
            "data": {"splits": ["made/train"], "unit": "expression"},
            "batch": {"units": task.groups, "micro": task.groups},
            "optimiser": {"rates": rates, "steps": task.steps, "schedule": "constant"},
            "mask": {"weight": 0},
            "grpo": {
                "num_generations": task.members,
                "max_completion_length": task.tokens,
                "beta": task.beta,
                "rewards": [{"name": "task.variety"}],
            },
            "saving": {"every": 10**9},
            "stop": {"flat": 10**6},
        }
    )


def units_of(pictures: Sequence[Pixels], texts: Sequence[str]) -> tuple[Unit, ...]:
    """A unit for each picture with its expression; the referent is a triangle in its upper half."""
    units = []
    for number, (pixels, text) in enumerate(zip(pictures, texts, strict=True)):
        height, width = pixels.shape[:2]
        truth = GroundTruth((height, width), (Polygon((1.0, 1.0, width / 2, 1.0, width / 2, height / 2)),))
        sample = Sample(str(number), str(number), Picture(str(number), pixels), text, truth)
        units.append(Unit(str(number), (Item(sample, f"made/train/{number}"),)))
    return tuple(units)


def training_of(shape: Shape, task: Task, out: Path) -> Training:
    """Everything set up; ``run`` trains."""
    recipe = recipe_of(task)
    accelerator = make_accelerator(recipe)
    lens = model_of(shape).to(accelerator.device)
    data = TrainingData(units_of(pictures(task), expressions(task)), {}, 0, {})
    start, progress = Start(lens, byte_tokenizer(), ()), Behind(lambda: None)
    check = DataCheck(accelerator, out, progress, fresh=True)
    training = Training(recipe, Where(out, out), accelerator, start, data, check, progress)
    never = frozenset({shape.vocabulary})
    training.shop.prompter = Prompter(lens.config.recipe, byte_tokenizer(), never, PADDING)
    training.objective = make_objective(training.shop)
    return training


def loop_of(training: Training) -> Callable[[Callable[[], None]], None]:
    """For ``Turns``."""

    def loop(behind_step: Callable[[], None]) -> None:
        training.progress = Behind(behind_step)
        try:
            training.run()
        finally:
            training.close()

    return loop


def device_of(training: Training) -> torch.device:
    device: torch.device = training.accelerator.device
    return device
