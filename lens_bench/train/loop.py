"""Training one stage: the loop.

What happens in a step, top to bottom: the units of this step (a function of seed and step); micro batches, for stage 2
with freshly sampled answers; a loss and a backward pass for each; clipping; one update; numbers to the log; now and
then an evaluation and a checkpoint. The stages differ only in their objective.
"""

from __future__ import annotations

import math
import shutil
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch.optim import AdamW, Optimizer

from lens_bench.errors import RunError, UsageError
from lens_bench.lock import FolderLock
from lens_bench.train.album import Album, uses
from lens_bench.train.checkpoint import FINAL, Keeper, checkpoints, require_same
from lens_bench.train.config import Optimiser, TrainRecipe
from lens_bench.train.curriculum import unit_weights
from lens_bench.train.data import Draw, Order, TrainingData, of_rank, open_data
from lens_bench.train.log import LOG_NAME, TrainLog, lines_until
from lens_bench.train.lora import inject
from lens_bench.train.muon import MuonAdamW, split_matrices
from lens_bench.train.parameters import freeze, optimiser_groups, require_gradients
from lens_bench.train.policy import Policy
from lens_bench.train.pretrain import make_probe
from lens_bench.train.progress import Progress
from lens_bench.train.stages import make_evaluator, make_objective
from lens_bench.train.start import Start, open_start
from lens_bench.train.trainee import Trainee, frozen_copy, layout_of
from lens_bench.train.watch import Watch
from lens_bench.train.workshop import Workshop

LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Where:
    """Places and choices of a training.

    Attributes:
        out: Folder of the stage.
        data_root: Where suites lie.
        fresh: Throw away what is there and begin anew.
    """

    out: Path
    data_root: Path
    fresh: bool = False


def train(recipe: TrainRecipe, where: Where, progress: Progress) -> Path:
    """Train a stage, or go on where it stopped; returns the folder of the result, which is a model.

    Raises:
        LensBenchError: The recipe does not fit the data or model, another process trains here, or training went wrong.
    """
    if recipe.runtime.threads:
        torch.set_num_threads(recipe.runtime.threads)
    accelerator = make_accelerator(recipe)
    with FolderLock(where.out, where.out / LOCK) if accelerator.is_main_process else nullcontext():
        return _train(recipe, where, progress, accelerator)


def _train(recipe: TrainRecipe, where: Where, progress: Progress, accelerator: Accelerator) -> Path:
    if where.fresh and accelerator.is_main_process:
        _clear(where.out)
    accelerator.wait_for_everyone()
    if (where.out / FINAL).is_dir():
        require_same(where.out, recipe, None)
        progress.note(f"{recipe.name} is finished: {where.out / FINAL}")
        return where.out / FINAL
    things = recipe.stage in ("sam", "vision")
    data = open_data(recipe.data, where.data_root, recipe.seed, with_things=things)
    if accelerator.is_main_process:
        require_same(where.out, recipe, data.hashes)
    start = open_start(recipe, accelerator.device)
    for text in start.notes:
        progress.note(text)
    if data.dropped:
        progress.note(f"{data.dropped} images occur in evaluation splits and are not trained on")
    stage = Training(recipe, where, accelerator, start, data, progress)
    try:
        return stage.run()
    finally:
        stage.close()


def _clear(folder: Path) -> None:
    """Remove everything but the lock that is held."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def make_accelerator(recipe: TrainRecipe) -> Accelerator:
    """Devices and ranks as ``accelerate launch`` set them up, with the recipe's precision and accumulation.

    Raises:
        UsageError: A step does not divide by ranks and micro batches.
    """
    precision = recipe.runtime.precision
    # One process trains the stages of a chain, which may differ in precision; accelerate keeps the first one's.
    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available())
    share, rest = divmod(recipe.batch.units, accelerator.num_processes * recipe.batch.micro)
    if rest:
        raise UsageError(
            f"a step of {recipe.batch.units} units does not divide by {accelerator.num_processes} processes with "
            f"{recipe.batch.micro} units each",
            "change batch.units or batch.micro",
        )
    accelerator.gradient_accumulation_steps = share
    if recipe.grpo is not None and splits_weights(accelerator):
        raise UsageError(
            "stage grpo samples with the policy itself, so every process needs all of its weights",
            "launch it plainly or with DeepSpeed stage 2; FSDP and stage 3 are for supervised stages",
        )
    return accelerator


def splits_weights(accelerator: Accelerator) -> bool:
    """Whether a process holds only a part of the weights between steps."""
    plugin = accelerator.state.deepspeed_plugin
    return accelerator.distributed_type == DistributedType.FSDP or (plugin is not None and plugin.zero_stage == 3)


class Training:
    """One stage, set up."""

    def __init__(
        self,
        recipe: TrainRecipe,
        where: Where,
        accelerator: Accelerator,
        start: Start,
        data: TrainingData,
        progress: Progress,
    ) -> None:
        self.recipe, self.where, self.accelerator, self.progress = recipe, where, accelerator, progress
        lens = start.lens
        if recipe.lora is not None:
            inject(lens, recipe.lora, recipe.seed)
        freeze(lens, recipe)
        if recipe.runtime.gradient_checkpointing:
            lens.qwen.gradient_checkpointing_enable({"use_reentrant": False})
        chunk = recipe.runtime.logits_chunk
        copied = recipe.grpo is not None and recipe.grpo.beta > 0 and recipe.lora is None
        reference = frozen_copy(lens, chunk) if copied else None
        probe = make_probe(recipe, lens.width)
        trainee = Trainee(lens, probe, chunk)
        settings = recipe.optimiser
        groups = optimiser_groups(lens, probe, recipe)
        kind = MuonAdamW if settings.muon else AdamW
        optimiser = kind(
            split_matrices(groups, settings.muon) if settings.muon else groups,
            betas=settings.betas,
            eps=settings.epsilon,
            weight_decay=settings.weight_decay,
        )
        prepared, self.optimiser = accelerator.prepare(trainee.train(), optimiser)
        self.parameters = list(prepared.parameters())
        visual, sam = uses(recipe)
        shown = recipe.grpo is not None and recipe.grpo.rollouts == "vllm"
        album = Album(lens, visual=visual, sam=sam, budget=recipe.runtime.cache_gb * 2**30, shown=shown)
        layout = layout_of(lens, start.prompter)
        self.shop = Workshop(
            recipe, accelerator, lens, prepared, start.tokenizer, start.prompter, layout, album, data, reference
        )
        self.keeper = Keeper(where.out, recipe, accelerator, start.tokenizer, data.hashes)
        self.watch = Watch(recipe.stop)
        self.objective = make_objective(self.shop)
        self.last = ""

    def close(self) -> None:
        """Let go of threads, and of an engine that samples."""
        self.shop.album.close()
        if isinstance(self.objective, Policy):
            self.objective.close()

    # ------------------------------------------------------------------------------------------ the loop

    def run(self) -> Path:
        """All steps, from the last checkpoint on."""
        recipe, shop = self.recipe, self.shop
        # Measured before any update, also in a resumed training: the weights are those of the start here.
        order = Order(
            shop.data.units,
            recipe.data,
            recipe.batch.units,
            recipe.seed,
            unit_weights(shop, self.objective, self.where.out, self.progress),
        )
        found = checkpoints(self.where.out)
        done = self.keeper.restore(found[-1], shop.trainee, shop.lens, self.optimiser) if found else 0
        self.last = str(found[-1]) if found else "none"
        log = self._open_log(done)
        look = make_evaluator(shop, self.where.data_root, self.where.out)
        self.progress.start(recipe.name, recipe.optimiser.steps, done)
        try:
            for step in range(done, recipe.optimiser.steps):
                values = self._step(step, order)
                if look is not None and recipe.evaluation is not None and (step + 1) % recipe.evaluation.every == 0:
                    values |= look(step + 1)
                self.watch.look(step + 1, values, self.last)
                if log is not None:
                    log.write(step + 1, values)
                self.progress.step(values)
                if (step + 1) % recipe.saving.every == 0 and step + 1 < recipe.optimiser.steps:
                    self.last = str(self.keeper.save(step + 1, shop.trainee, shop.lens, self.optimiser))
        finally:
            self.progress.stop()
            if log is not None:
                log.close()
        return self.keeper.finish(recipe.optimiser.steps, shop.trainee, shop.lens)

    def _step(self, step: int, order: Order) -> dict[str, float]:
        """One update; returns its numbers."""
        began = time.perf_counter()
        shop, accelerator, world = self.shop, self.accelerator, self.accelerator.num_processes
        rate = set_rates(self.optimiser, self.recipe.optimiser, step)
        draws = self._draws(order, step)
        losses = self.objective.losses(draws)
        shop.album.announce([draw.items[0] for draw in self._draws(order, step + 1)])
        norm = torch.zeros(())
        for compute in losses:
            with accelerator.accumulate(shop.trainee):
                loss = compute()
                shop.meter.add("loss", loss.detach() * world, 1.0 / len(losses))
                # Undoes the mean over ranks and micro batches: a loss is already its share of the step's sum.
                accelerator.backward(loss * (world * len(losses)))
                if accelerator.sync_gradients:
                    if step == 0 and not self.keeper.sharded:
                        require_gradients(shop.trainee)
                    norm = self._clip()
                self.optimiser.step()
                self.optimiser.zero_grad()
        values = dict(shop.meter.means(accelerator))
        seconds = time.perf_counter() - began
        more = {"lr": rate, "grad_norm": float(norm), "epoch": order.epochs(step + 1)}
        return values | more | {"seconds": seconds, "samples_per_s": len(draws) * world / seconds}

    def _draws(self, order: Order, step: int) -> list[Draw]:
        return of_rank(order.draws(step), self.accelerator.process_index, self.accelerator.num_processes)

    def _clip(self) -> torch.Tensor:
        """Clip gradients and return their norm; stops before a broken gradient reaches the weights."""
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.recipe.optimiser.max_norm)
        value = torch.as_tensor(0.0 if norm is None else norm)
        if not math.isfinite(float(value)):
            raise RunError(f"the gradient's norm is {float(value)}", f"last good checkpoint: {self.last}")
        return value

    # ------------------------------------------------------------------------------------------ around it

    def _open_log(self, done: int) -> TrainLog | None:
        """The first rank writes the log; every rank replays it, so that all stop together."""
        folder, tensorboard = self.where.out, self.recipe.runtime.tensorboard
        log = TrainLog(folder, done, tensorboard) if self.accelerator.is_main_process else None
        self.accelerator.wait_for_everyone()
        self.watch.replay(log.lines if log is not None else lines_until(folder / LOG_NAME, done))
        return log


def set_rates(optimiser: Optimizer, config: Optimiser, step: int) -> float:
    """Set every group's learning rate for a step; returns the largest."""
    share = rate_share(config, step)
    for group in optimiser.param_groups:
        group["lr"] = group["base_rate"] * share
    return max(float(group["lr"]) for group in optimiser.param_groups)


def rate_share(config: Optimiser, step: int) -> float:
    """Share of the learning rate at a step: linear warm-up from near 0, then the schedule down to ``floor``."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    past = (step - config.warmup) / max(1, config.steps - config.warmup)
    if config.schedule == "constant":
        return 1.0
    left = 1 - past if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * past))
    return config.floor + (1 - config.floor) * left
