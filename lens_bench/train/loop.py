"""Training one stage: the loop.

What happens in a step, top to bottom: the units of this step (a function of seed and step); micro batches, for stage 2
with freshly sampled answers; a loss and a backward pass for each; clipping; one update; numbers to the log; now and
then an evaluation and a checkpoint. The stages differ only in their objective.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from lens_bench.errors import OutOfMemoryError, Preempted, RunError
from lens_bench.lock import FolderLock
from lens_bench.out_of_memory import is_out_of_memory
from lens_bench.train.album import Album, uses
from lens_bench.train.assembly import assemble
from lens_bench.train.base import require_base
from lens_bench.train.begun import LOCK, Begun, clear, require_own, require_same, write_down
from lens_bench.train.best import BestKeeper
from lens_bench.train.checkpoint import Keeper
from lens_bench.train.config import TrainRecipe
from lens_bench.train.curriculum import unit_weights
from lens_bench.train.data import Draw, Order, TrainingData, of_rank, open_data
from lens_bench.train.devices import agreed, from_first, layout, make_accelerator
from lens_bench.train.durable import damage, require_intact, steps_done
from lens_bench.train.evaluated import Evaluated, evaluated, read_evaluated
from lens_bench.train.lengths import require_lengths
from lens_bench.train.log import TrainLog, lines_until
from lens_bench.train.meter import summed
from lens_bench.train.parameters import require_gradients
from lens_bench.train.policy import Policy
from lens_bench.train.progress import Progress
from lens_bench.train.rewards import require_rewards
from lens_bench.train.schedule import set_rates
from lens_bench.train.shards import full
from lens_bench.train.stages import make_evaluator, make_objective
from lens_bench.train.start import Start, open_start, start_digest
from lens_bench.train.trackers import open_trackers, require_trackers
from lens_bench.train.trainee import layout_of
from lens_bench.train.usable import DataCheck
from lens_bench.train.watch import SKIPPED, Watch
from lens_bench.train.workshop import Workshop
from lens_bench.trained import FINAL, LOG

# Images tried in a row for one place of a step: with so many unreadable ones the folder is gone, not an image.
_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class Where:
    """Places and choices of a training.

    Attributes:
        out: Folder of the stage.
        data_root: Where suites lie.
        fresh: Throw away what is there and begin anew.
        asked_to_stop: Whether to end after the current step; any rank may ask.
    """

    out: Path
    data_root: Path
    fresh: bool = False
    asked_to_stop: Callable[[], bool] = lambda: False


def train(recipe: TrainRecipe, where: Where, progress: Progress, prepare: Callable[[], object] = lambda: None) -> Path:
    """Train a stage, or go on where it stopped; returns the folder of the result, which is a model.

    Args:
        recipe: What is trained.
        where: Places and choices.
        progress: Is told of every step.
        prepare: Puts the data in place; the first process does it while the others wait.

    Raises:
        Preempted: It was asked to stop; a checkpoint of the last step is written.
        LensBenchError: The recipe does not fit the data or model, another process trains here, or training went wrong.
    """
    if recipe.runtime.threads:
        torch.set_num_threads(recipe.runtime.threads)
    require_trackers(recipe.runtime.report_to)
    require_rewards(recipe)
    accelerator = make_accelerator(recipe)
    with ExitStack() as held:
        agreed(accelerator, lambda: held.enter_context(FolderLock(where.out, where.out / LOCK)))
        agreed(accelerator, prepare)
        return _train(recipe, where, progress, accelerator)


def _train(recipe: TrainRecipe, where: Where, progress: Progress, accelerator: Accelerator) -> Path:
    out, result = where.out, where.out / FINAL
    if where.fresh:
        agreed(accelerator, lambda: require_own(out))
    elif result.is_dir():
        agreed(accelerator, lambda: require_same(out, Begun(recipe, start=start_digest(recipe.model))))
        missing = from_first(accelerator, lambda: _missing(result, recipe.optimiser.steps))
        if not missing:
            progress.note(f"{recipe.name} is finished: {result}")
            return result
        progress.note(f"{result} {missing}; training continues from the last checkpoint")
    agreed(accelerator, lambda: require_base(recipe))
    check = DataCheck(accelerator, out, progress, fresh=where.fresh, asked_to_stop=where.asked_to_stop)
    data = open_data(recipe.data, where.data_root, with_things=recipe.stage in ("sam", "vision"), check=check)
    digest = start_digest(recipe.model) if accelerator.is_main_process else None
    begun = Begun(recipe, data.hashes, digest, data.counts)
    if not where.fresh:
        agreed(accelerator, lambda: require_same(out, begun))
    if recipe.model.checkpoint:
        agreed(accelerator, lambda: require_intact(Path(recipe.model.checkpoint).expanduser()))
    # What is divided moves to the devices part by part.
    start = open_start(recipe, "cpu" if layout() == "fsdp" else accelerator.device)
    for text in start.notes:
        progress.note(text)
    for name, part in data.partial.items():
        progress.note(f"{name} is not what its card expects: {part}")
    if data.dropped:
        progress.note(f"{data.dropped} images occur in evaluation splits and are not trained on")
    stage = Training(recipe, where, accelerator, start, data, check, progress)
    try:
        # Only now nothing can refuse any more: what is there was kept until here, and a mistake can be put right.
        agreed(accelerator, lambda: _begin(out, begun, fresh=where.fresh))
        return stage.run()
    finally:
        stage.close()


def _missing(result: Path, steps: int) -> str:
    """Why a result is not the end of a training of so many steps; empty where it is."""
    done = steps_done(result)
    if done is not None and done != steps:
        return f"has {done} of {steps} steps"
    wrong = damage(result)
    return f"is damaged ({wrong})" if wrong else ""


@contextmanager
def _memory_named(step: int) -> Iterator[None]:
    """Say in which step memory ran out and what takes less of it."""
    try:
        yield
    except (RuntimeError, MemoryError, OutOfMemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"step {step} ran out of memory: {str(error).strip().partition(chr(10))[0]}",
            "a smaller batch.micro, runtime.gradient_checkpointing: true or runtime.precision: bf16 need less, and may "
            "change in a training that is begun",
        ) from error


def _begin(folder: Path, begun: Begun, *, fresh: bool) -> None:
    if fresh:
        clear(folder)
    write_down(folder, begun)


class Training:
    """One stage, set up."""

    def __init__(
        self,
        recipe: TrainRecipe,
        where: Where,
        accelerator: Accelerator,
        start: Start,
        data: TrainingData,
        check: DataCheck,
        progress: Progress,
    ) -> None:
        self.recipe, self.where, self.accelerator, self.progress = recipe, where, accelerator, progress
        self.check = check
        made = assemble(recipe, accelerator, start.lens)
        self.optimiser, self.parameters = made.optimiser, list(made.trainee.parameters())
        visual, sam = uses(recipe)
        shown = recipe.grpo is not None and recipe.grpo.rollouts == "vllm"
        album = Album(start.lens, visual=visual, sam=sam, budget=recipe.runtime.cache_gb * 2**30, shown=shown)
        self.shop = Workshop(
            recipe=recipe,
            accelerator=accelerator,
            lens=made.lens,
            trainee=made.trainee,
            tokenizer=start.tokenizer,
            prompter=start.prompter,
            layout=layout_of(start.lens, start.prompter),
            album=album,
            data=data,
            reference=made.reference,
            whole=made.whole,
        )
        self.keeper = Keeper(where.out, recipe, accelerator, start.tokenizer, data.hashes, made)
        # Before anything that costs: a step may be larger than the data.
        self.order = Order(data.units, recipe.data, recipe.batch.units, recipe.seed)
        self.watch = Watch(recipe.stop, len(data.units) / recipe.batch.units)
        if recipe.stage in ("supervised", "grpo"):
            items = [item for unit in data.units for item in unit.items]
            require_lengths("training data", items, recipe, start.prompter, album.patching, progress.note)
        self.objective = make_objective(self.shop)
        if isinstance(self.objective, Policy):
            self.keeper.history = self.objective.history
        self.last, self.saved = "none", 0
        self.measured: Evaluated | None = None  # with the weights as they are now

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
        weights = unit_weights(shop, self.objective, self.where.out, self.progress, self._stop_if_asked)
        order = self.order if weights is None else self.order.weighted(weights)
        done = self._restore()
        log = self._open_log(done)
        evaluator = make_evaluator(shop, self.where.data_root, self.where.out, self.check, self.progress.note)
        self.check.write()
        count = 0 if evaluator is None else evaluator.count
        best = BestKeeper(self.keeper, recipe, self.accelerator, self.progress.note)
        best.resume(count, done)
        self.progress.start(recipe.name, recipe.optimiser.steps, done)
        try:
            for step in range(done, recipe.optimiser.steps):
                self._stop_if_asked(step, log)
                with _memory_named(step + 1):
                    values = self._step(step, order)
                if evaluator is not None and (step + 1) % evaluator.every == 0:
                    values |= evaluator.look(step + 1)
                    if failed := values.get("eval/failed"):
                        self.progress.note(f"{failed:.1%} of the evaluated expressions have no answer, scored as 0")
                # Written first: a step that ends the training is in its log.
                if log is not None:
                    log.write(step + 1, values)
                self.watch.look(step + 1, values, self.last)
                self.measured = evaluated(recipe, count, step + 1, values)
                best.offer(self.measured)
                self.progress.step(values)
                # At the end too, where more steps may follow.
                goes_on = step + 1 < recipe.optimiser.steps or recipe.optimiser.open_ended
                if (step + 1) % recipe.saving.every == 0 and goes_on:
                    self._save(step + 1, log)
        finally:
            self.progress.stop()
            if log is not None:
                log.close()
        if text := best.told():
            self.progress.note(text)
        return self.keeper.keep(FINAL, recipe.optimiser.steps, self.measured)

    def _restore(self) -> int:
        """Take over the newest good checkpoint; returns the number of steps done."""
        found = self.keeper.newest(self.progress.note)
        if found is None:
            return 0
        self.last, self.saved = str(found), self.keeper.restore(found)
        self.measured = read_evaluated(found)
        return self.saved

    def _save(self, done: int, log: TrainLog | None) -> None:
        if log is not None:
            log.sync()  # its lines are never behind the checkpoint
        self.last, self.saved = str(self.keeper.save(done, self.measured)), done

    def _stop_if_asked(self, done: int = 0, log: TrainLog | None = None) -> None:
        """Stop if a signal reached any rank, after a checkpoint of the steps done.

        Raises:
            Preempted: A signal came.
        """
        if not summed(self.accelerator, int(self.where.asked_to_stop())):
            return
        if done > self.saved:
            self._save(done, log)
        raise Preempted(
            f"{self.recipe.name} was stopped by a signal after step {done} of {self.recipe.optimiser.steps}",
            f"the same command continues from {self.last}"
            if self.saved
            else "the same command starts over: no step was done",
        )

    def _step(self, step: int, order: Order) -> dict[str, float]:
        """One update; returns its numbers."""
        began = time.perf_counter()
        shop, accelerator, world = self.shop, self.accelerator, self.accelerator.num_processes
        rate = set_rates(self.optimiser, self.recipe.optimiser, step)
        draws = self._readable(order, self._draws(order, step))
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
                    # DeepSpeed has moved the weights already, and let go of the gradients.
                    if step == 0 and layout() != "deepspeed":
                        require_gradients(shop.trainee)
                    norm = self._clip()
                self.optimiser.step()
                self.optimiser.zero_grad()
        self.keeper.history.finish(accelerator)
        values = dict(shop.meter.means(accelerator))
        seconds = time.perf_counter() - began
        more = {"lr": rate, "grad_norm": float(norm), "epoch": order.epochs(step + 1)}
        return values | more | {"seconds": seconds, "samples_per_s": len(draws) * world / seconds}

    def _draws(self, order: Order, step: int) -> list[Draw]:
        return of_rank(order.draws(step), self.accelerator.process_index, self.accelerator.num_processes)

    def _readable(self, order: Order, draws: list[Draw]) -> list[Draw]:
        """The draws, those whose image cannot be read any more replaced by others; all ranks go on with full steps."""
        album, found, skipped = self.shop.album, list[Draw](), 0
        album.announce([draw.items[0] for draw in draws])
        for draw in draws:
            wanted, attempt = draw, 0
            while (error := album.failure(draw.items[0])) is not None:
                if attempt == _ATTEMPTS:
                    raise error
                self.progress.note(f"skipped {draw.items[0].sample.id}: {error.message}")
                draw, attempt = order.substitute(wanted.place, attempt), attempt + 1
            skipped += attempt > 0
            found.append(draw)
        self.shop.meter.add(SKIPPED, skipped, len(draws))
        return found

    def _clip(self) -> torch.Tensor:
        """Clip gradients and return their norm; stops before a broken gradient reaches the weights."""
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.recipe.optimiser.max_norm)
        value = full(torch.as_tensor(0.0 if norm is None else norm))
        if not math.isfinite(float(value)):
            raise RunError(f"the gradient's norm is {float(value)}", f"last good checkpoint: {self.last}")
        return value

    # ------------------------------------------------------------------------------------------ around it

    def _open_log(self, done: int) -> TrainLog | None:
        """The first rank writes the log; every rank replays it, so that all stop together."""
        folder, recipe, log = self.where.out, self.recipe, None
        if self.accelerator.is_main_process:
            settings = recipe.model_dump(mode="json", exclude_defaults=True)
            trackers = open_trackers(recipe.runtime.report_to, folder, done, recipe.name, settings)
            log = TrainLog(folder, done, trackers)
        self.accelerator.wait_for_everyone()
        self.watch.replay(log.lines if log is not None else lines_until(folder / LOG, done))
        return log
