"""Checkpoints of a training: complete or not there, rotated, and models that ``lens-bench run`` takes as they are.

Nothing has to be saved of random generators and data iterators, because draws are functions of the step.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lens_bench.checkpoint_files import weight_files
from lens_bench.errors import CheckpointError, UsageError
from lens_bench.heads import NAME
from lens_bench.lens.layouts import OWN, Slot, make_plan, own_shapes, tied_names
from lens_bench.lens.model_card import on_hub, read_head
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.prompts import HubTokenizer
from lens_bench.lens.save import Story, save
from lens_bench.lens.sources import SafetensorsSource
from lens_bench.tensor_pickle import check_pickles
from lens_bench.train.assembly import Assembly
from lens_bench.train.config import DataConfig, ModelConfig, TrainRecipe, without_folder
from lens_bench.train.devices import agreed, from_first, layout
from lens_bench.train.durable import damage, put_in_place, seal, writing
from lens_bench.train.evaluated import Evaluated
from lens_bench.train.history import History
from lens_bench.train.lora import merged
from lens_bench.train.shards import load_state, put, whole_state
from lens_bench.train.trainee import Trainee
from lens_bench.trained import checkpoints

STATE, ZERO = "trainer_state.pt", "deepspeed"


class Keeper:
    """Writes and finds the checkpoints of one stage.

    What is in them depends neither on the number of ranks nor on whether they hold parts of the model: training may go
    on with others. DeepSpeed's state of the optimizer is the exception, and lies in a folder of its own.

    Args:
        folder: Of the stage.
        recipe: What is trained.
        accelerator: Only the first rank writes.
        tokenizer: Goes with the weights.
        hashes: Content hash of the data.
        made: Model and optimiser.
    """

    def __init__(
        self,
        folder: Path,
        recipe: TrainRecipe,
        accelerator: Accelerator,
        tokenizer: HubTokenizer,
        hashes: Mapping[str, str],
        made: Assembly,
    ) -> None:
        self.folder = folder
        self._recipe = recipe
        self._accelerator = accelerator
        self._tokenizer = tokenizer
        self._hashes = hashes
        self._made = made
        self.history = History({})  # of rewards that are quantiles

    def save(self, step: int, measured: Evaluated | None = None) -> Path:
        """Write a checkpoint to resume from, then remove the oldest ones; returns its folder.

        Args:
            step: Number of steps done.
            measured: What an evaluation after this step found.

        Raises:
            RunError: It cannot be written.
        """
        target, made, first = self.folder / f"checkpoint-{step:08d}", self._made, self._accelerator.is_main_process
        part = self._begin(target)
        zero = layout() == "deepspeed"
        if zero:
            # On every rank. One that fails ends at once: the others wait inside of DeepSpeed and cannot be told.
            with writing(target, None):
                self._accelerator.save_state(str(part / ZERO))
            self._accelerator.wait_for_everyone()  # every rank writes files that the first one seals
        moments = None if zero else whole_state(made.optimiser, keep=first)

        def write() -> None:
            self._write(part, merged(made.lens), step, measured)
            extra = _extra(self._trainee.probe, made.lens)
            # Through a file of Python's, whose errors say what the system said.
            with (part / STATE).open("wb") as stream:
                state = {"step": step, "extra": extra, "optimiser": moments, "rewards": self.history.state()}
                torch.save(state, stream)

        with made.whole():
            agreed(self._accelerator, lambda: self._complete(part, target, step, write))
        agreed(self._accelerator, self._rotate)
        return target

    def _rotate(self) -> None:
        for old in checkpoints(self.folder)[: -self._recipe.saving.keep]:
            shutil.rmtree(old)

    def _complete(self, part: Path, target: Path, step: int, write: Callable[[], None]) -> None:
        """Write a folder's files and give it its name."""
        with writing(target, part):
            write()
            seal(part, step)
            put_in_place(part, target)

    def keep(self, name: str, step: int, measured: Evaluated | None = None) -> Path:
        """Write a result, every weight in the recipe's ``saving.dtype``, and without the optimizer.

        Args:
            name: Of the folder.
            step: Number of steps done.
            measured: What an evaluation after this step found.

        Raises:
            RunError: It cannot be written.
        """
        target = self.folder / name
        part = self._begin(target)

        def write() -> None:
            dtype = self._recipe.saving.dtype
            self._write(part, merged(self._made.lens, getattr(torch, dtype)), step, measured, dtype)

        with self._made.whole():
            agreed(self._accelerator, lambda: self._complete(part, target, step, write))
        return target

    def newest(self, note: Callable[[str], None]) -> Path | None:
        """The newest checkpoint that is as it was written; None where there is none at all.

        Newer ones that are damaged are put aside under a name that no training looks at.

        Args:
            note: Is told which ones are damaged.

        Raises:
            CheckpointError: There are checkpoints, and all of them are damaged.
        """
        name, damaged = from_first(self._accelerator, lambda: _newest(self.folder))
        for text in damaged:
            note(text)
        return self.folder / name if name else None

    def restore(self, folder: Path) -> int:
        """Put a checkpoint's trained weights and optimizer state in place; returns the number of steps done.

        Raises:
            CheckpointError: It is incomplete or belongs to another model.
            UsageError: It was written with DeepSpeed and is read without, or the other way round.
        """
        try:
            check_pickles(folder / STATE)
            state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{folder} cannot be resumed: {' '.join(str(error).split())[:120]}") from None
        zero, trainee = layout() == "deepspeed", self._trainee
        if zero is not (folder / ZERO).is_dir():
            raise UsageError(
                f"{folder} was written {'without' if zero else 'with'} DeepSpeed", "go on as it was begun, or --fresh"
            )
        if zero:
            self._accelerator.load_state(str(folder / ZERO))
        else:
            _restore_weights(folder, trainee.lens)
            load_state(self._made.optimiser, state["optimiser"])
        _restore_extra(trainee, state["extra"])
        self.history.restore(state.get("rewards", {}))  # older checkpoints have none, nor have their recipes
        return int(state["step"])

    @property
    def _trainee(self) -> Trainee:
        found = self._accelerator.unwrap_model(self._made.trainee)
        if not isinstance(found, Trainee):
            raise TypeError(f"what trains is a {type(found).__name__}")
        return found

    def _begin(self, target: Path) -> Path:
        part = target.with_name(f".{target.name}.part")

        def make() -> None:
            for left in self.folder.glob(".*.part"):  # of killed writes: the folder is locked, so nobody writes now
                shutil.rmtree(left, ignore_errors=True)
            part.mkdir(parents=True)

        agreed(self._accelerator, make)
        return part

    def _write(
        self, folder: Path, plain: LensModel, step: int, measured: Evaluated | None, dtype: str = "float32"
    ) -> None:
        recipe = self._recipe
        facts = {"recipe": recipe.name, "stage": recipe.stage, "seed": recipe.seed, "steps": step}
        facts["settings"] = json.dumps(_settings(recipe))
        story = Story(
            recipe.model_name or recipe.name,
            recipe.summary,
            facts,
            self._hashes,
            licence=recipe.licence,
            title=recipe.model_title,
            bases=_bases(recipe.model),
            suites=_suites(recipe.data),
            results=(measured.result(dtype),) if measured is not None else (),
        )
        save(plain, folder, self._tokenizer, story)
        if measured is not None:
            measured.write(folder)


def _bases(start: ModelConfig) -> tuple[str, ...]:
    """What training started from, as far as its place on the Hub can be told; of a training's result, its own bases."""
    if not start.checkpoint:
        return tuple(name for name in (on_hub(start.qwen), on_hub(start.sam)) if name)
    if name := on_hub(start.checkpoint):
        return (name,)
    found = read_head(Path(start.checkpoint).expanduser()).get("base_model")
    return tuple(map(str, found)) if isinstance(found, list) else (found,) if isinstance(found, str) else ()


def _suites(data: DataConfig) -> tuple[str, ...]:
    """The suites of the training splits that have a name; a suite's file says nothing elsewhere."""
    names = (split.rpartition("/")[0] for split in data.splits)
    return tuple(dict.fromkeys(name for name in names if NAME.fullmatch(name)))


def _settings(recipe: TrainRecipe) -> dict[str, object]:
    """A recipe as it is told to others; of the places of checkpoints only the end, which says something elsewhere."""
    found: dict[str, object] = recipe.model_dump(mode="json", exclude_defaults=True)
    model = found.get("model")
    if isinstance(model, dict):
        for key in ("checkpoint", "qwen", "sam"):
            if key in model:
                model[key] = "/".join(Path(str(model[key])).parts[-2:])
    policy = found.get("grpo")
    for reward in policy.get("rewards", ()) if isinstance(policy, dict) else ():
        reward["name"] = without_folder(reward["name"])
    return found


# ---------------------------------------------------------------------------------------------- finding


def _newest(folder: Path) -> tuple[str, list[str]]:
    """Name of the newest intact checkpoint, and what is wrong with newer ones; empty where there is none."""
    wrong: dict[Path, str] = {}
    for path in reversed(checkpoints(folder)):
        fault = damage(path)
        if not fault:
            asides = _put_aside(folder, list(wrong))
            return path.name, [
                f"{bad} is damaged ({why}) and is put aside as {aside.name}; {path.name} is used"
                for (bad, why), aside in zip(wrong.items(), asides, strict=True)
            ]
        wrong[path] = fault
    if wrong:
        bad, why = next(iter(wrong.items()))
        raise CheckpointError(
            f"{bad} is damaged: {why}" + (", and so is every older one" if len(wrong) > 1 else ""),
            "restore one from a copy, or begin anew with --fresh",
        )
    return "", []


def _put_aside(folder: Path, damaged: Sequence[Path]) -> list[Path]:
    """Rename damaged checkpoints, else the rotation would keep them in place of good ones; earlier ones are removed."""
    if damaged:
        for earlier in folder.glob(".checkpoint-*.damaged"):
            shutil.rmtree(earlier, ignore_errors=True)
    return [path.rename(path.with_name(f".{path.name}.damaged")) for path in damaged]


# ---------------------------------------------------------------------------------------------- tensors


def _restore_weights(folder: Path, lens: LensModel) -> None:
    """Read what trains from the checkpoint; everything else is as it was at the start. Adapters come separately."""
    wanted = {name: p for name, p in lens.named_parameters() if p.requires_grad and ".lora_" not in name}
    source = SafetensorsSource(weight_files(folder))
    with torch.device("meta"):
        plain = LensModel(lens.config)
    plan = make_plan(OWN, own_shapes(plain), source, tied_names(plain))
    for name, parameter in wanted.items():
        put(parameter, source.tensor(plan.keys[Slot(name)]))


def _extra(probe: nn.Module | None, lens: LensModel) -> dict[str, Tensor]:
    """What trains, but is no part of the model: adapters, and the probe."""
    found = {f"lens.{name}": p for name, p in lens.named_parameters() if ".lora_" in name}
    found |= {f"probe.{name}": p for name, p in probe.named_parameters()} if probe is not None else {}
    return {name: p.detach().cpu().clone() for name, p in found.items()}


def _restore_extra(trainee: Trainee, extra: Mapping[str, Tensor]) -> None:
    for name, tensor in extra.items():
        owner, _, rest = name.partition(".")
        module = trainee.lens if owner == "lens" else trainee.probe
        if module is None:
            raise CheckpointError(f"the checkpoint holds {name}, which this recipe does not train")
        put(module.get_parameter(rest), tensor)
