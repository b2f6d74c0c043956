"""``lens-bench train``: a recipe by name, a chain stage by stage, or what it would take."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from lens_bench.atomic import write_text
from lens_bench.console import err, facts, note, out
from lens_bench.data.shapes.make import folder_of, make, splits
from lens_bench.errors import Preempted, RunError, UsageError
from lens_bench.heads import NAME, NAME_HINT
from lens_bench.train.config import ChainRecipe, TrainRecipe
from lens_bench.train.recipe_files import load_recipe, override, validated
from lens_bench.train.rewards import require_rewards
from lens_bench.train.signals import Signals
from lens_bench.trained import CHAIN

_STARTS = ("model.checkpoint=", "model.qwen=", "model.sam=")
_SHOWN = ("loss", "reward/total", "train/mask_iou", "kl", "eval/giou")


@dataclass(frozen=True, slots=True)
class Job:
    """One stage, ready to be trained.

    ``follows`` is the folder of the stage whose result it starts from where its recipe names no start.
    """

    recipe: TrainRecipe
    folder: Path
    follows: Path | None = None


def train_command(
    name: str,
    settings: Sequence[str] = (),
    *,
    result: str = "",
    folder: Path | None = None,
    data_root: Path,
    fresh: bool = False,
    dry_run: bool = False,
    gpus: int = 1,
    paper_data: bool = False,
) -> Path | None:
    """Train a recipe, or go on where it stopped; returns the folder of the result, which is a model.

    Args:
        name: Of a recipe, or the path of a YAML file.
        settings: ``key=value``; for a chain, ``stage:key=value`` reaches one of its stages, ``key=value`` all.
        result: Name of the result: of its model card and, where ``folder`` is not given, of its folder. Stages of a
            chain before the last one are called ``RESULT-STAGE``.
        folder: Where to, ``results/train/NAME`` by default.
        data_root: Where suites lie; missing generated ones are made there.
        fresh: Throw away what is there.
        dry_run: Only estimate what it would take.
        gpus: How many the estimate is for.
        paper_data: Do not leave out training images that occur in evaluation splits.

    SIGTERM and SIGUSR1 end it after the current step.

    Raises:
        LensBenchError: See ``loop.train``.
    """
    jobs = plan_jobs(name, settings, folder, result=result, paper_data=paper_data)
    if gpus > 1 and not dry_run:
        raise UsageError(
            "--gpus is for --dry-run; a training has as many processes as it is launched with",
            f"accelerate launch --num_processes {gpus} --no_python lens-bench train {name}",
        )
    for job in jobs:
        require_rewards(job.recipe)  # of every stage: a chain should not end at its last one
    if dry_run:
        for job in jobs:
            _show_plan(job, data_root, gpus)
        return None
    from lens_bench.train.loop import Where, train

    if _first() and _is_chain(name):
        _write_chain([job.folder for job in jobs])
    done: Path | None = None
    with Signals() as signals:
        for job in jobs:
            recipe = job.recipe
            # A stage that names its own start keeps it.
            if done is not None and not (recipe.model.checkpoint or recipe.model.qwen):
                model = recipe.model.model_copy(update={"checkpoint": str(done)})
                recipe = recipe.model_copy(update={"model": model})
            root = data_place(job, data_root)
            progress, where = TrainProgress(), Where(job.folder, root, fresh, signals.asked)
            done = train(recipe, where, progress, partial(make_missing, recipe, root, signals.asked))
            progress.note(f"{recipe.name}: {done}")
    return done


def plan_jobs(
    name: str, settings: Sequence[str], folder: Path | None, *, result: str = "", paper_data: bool = False
) -> list[Job]:
    """The stages of a recipe, in order, with where each goes.

    Raises:
        UsageError: No such recipe, a result that cannot be called so, a setting for a stage that is none of the
            chain's, one start for all stages, or a chain inside a chain.
    """
    if result and not NAME.fullmatch(result):
        raise UsageError(f"--name {result!r} is not a name", NAME_HINT)
    for_all = [s for s in settings if ":" not in s.partition("=")[0]]
    recipe = load_recipe(name, [] if _is_chain(name) else settings)
    place = folder or Path("results") / "train" / (result or recipe.name)
    if isinstance(recipe, TrainRecipe):
        return [Job(_with_paper_data(_called(recipe, result), paper_data), place)]
    known = {link.recipe for link in recipe.chain}
    for setting in settings:
        stage, colon, _ = setting.partition("=")[0].partition(":")
        if colon and not any(_is_named(one, stage) for one in known):
            raise UsageError(
                f"--set {setting}: {name} has no stage {stage!r}", f"its stages: {', '.join(sorted(known))}"
            )
        if not colon and setting.startswith(_STARTS) and len(recipe.chain) > 1:
            raise UsageError(
                f"--set {setting}: every stage of {name} would start from it",
                f"name the stage, e.g. --set {recipe.chain[0].recipe}:{setting}",
            )
    jobs: list[Job] = []
    for number, link in enumerate(recipe.chain, start=1):
        own = [s.partition(":")[2] for s in settings if _is_named(link.recipe, s.partition(":")[0])]
        loaded = load_recipe(link.recipe, [*for_all, *own], link.set)
        if isinstance(loaded, ChainRecipe):
            raise UsageError(f"{name} chains {link.recipe}, which is a chain itself")
        # A model is drawn once, at the beginning.
        if jobs and loaded.model.fresh is not None:
            raise UsageError(f"{name}: {link.recipe} starts from nothing in the middle of a chain")
        target = place / f"{number}-{loaded.name}"
        last = number == len(recipe.chain)
        called = _called(loaded, result if last or not result else f"{result}-{loaded.name}")
        jobs.append(Job(_with_paper_data(called, paper_data), target, jobs[-1].folder if jobs else None))
    return jobs


def _write_chain(folders: Sequence[Path]) -> None:
    """Say in the folder of a chain what its stages are, so that the last one begun is not taken for its end."""
    place = folders[0].parent
    place.mkdir(parents=True, exist_ok=True)
    write_text(place / CHAIN, json.dumps({"stages": [folder.name for folder in folders]}, indent=1) + "\n")


def data_place(job: Job, data_root: Path) -> Path:
    """Where a stage's suites lie: the data root, or a folder of splits of ``data.images`` beside the stage's."""
    images = job.recipe.data.images
    # Splits of another size are other data, so the size is in the name.
    return data_root if images is None else job.folder.parent / f"data-{images}"


def make_missing(recipe: TrainRecipe, root: Path, asked_to_stop: Callable[[], bool] = lambda: False) -> None:
    """Make the splits of generated suites that a recipe names and that are not there.

    Raises:
        Preempted: It was asked to stop. A split that is not complete is not kept.
    """

    def look(done: int, total: int) -> None:
        if done < total and asked_to_stop():
            raise Preempted(
                f"a signal stopped the making of data after image {done} of {total}", "the same command starts over"
            )

    for suite, split in _missing(recipe, root):
        note(f"making {suite} {split} in {root}")
        try:
            make(suite, split, root, progress=look, images=recipe.data.images)
        except RunError as error:
            if asked_to_stop():  # SIGTERM to all processes ends those that draw
                raise Preempted("a signal stopped the making of data", "the same command starts over") from error
            raise


def _missing(recipe: TrainRecipe, root: Path) -> list[tuple[str, str]]:
    return [named for named in sorted(set(_generated(recipe))) if not folder_of(*named, root).is_dir()]


def _generated(recipe: TrainRecipe) -> Iterator[tuple[str, str]]:
    names = [*recipe.data.splits, *(() if recipe.data.paper_data else recipe.data.held_out)]
    names += [recipe.evaluation.split] if recipe.evaluation is not None else []
    for name in names:
        suite, _, split = name.rpartition("/")
        if suite in ("shapes", "shapes-reason", "shapes-multi"):
            yield from ((suite, one) for one in (splits(suite) if split == "*" else (split,)))


def _is_chain(name: str) -> bool:
    return isinstance(load_recipe(name), ChainRecipe)


def _is_named(recipe: str, stage: str) -> bool:
    """Whether a setting means this stage: by its name, by its path, or by the end of that, as the chain has it."""
    return recipe == stage or recipe.endswith(f"/{stage}")


def _called(recipe: TrainRecipe, result: str) -> TrainRecipe:
    """A recipe whose result has a name of the user's; the title is that of another model then."""
    return recipe.model_copy(update={"model_name": result, "model_title": ""}) if result else recipe


def _with_paper_data(recipe: TrainRecipe, paper_data: bool) -> TrainRecipe:
    if not paper_data:
        return recipe
    fields = recipe.model_dump(mode="json")
    override(fields, "data.paper_data", True)
    found = validated(fields, recipe.name)
    return found if isinstance(found, TrainRecipe) else recipe


# ---------------------------------------------------------------------------------------------- shown


def plan_facts(job: Job, data_root: Path, gpus: int = 1) -> list[tuple[str, object]]:
    """What a stage would take, for people; see ``plan_text``.

    Raises:
        UsageError: See ``make_plan``.
    """
    from lens_bench.train.plan import make_plan
    from lens_bench.train.plan_text import plan_rows

    root = data_place(job, data_root)
    plan = make_plan(job.recipe, root, gpus)
    return plan_rows(job.recipe, plan, gpus, made_in=root if _missing(job.recipe, root) else None)


def _show_plan(job: Job, data_root: Path, gpus: int) -> None:
    recipe = job.recipe
    head = ("recipe", f"{recipe.name} ({recipe.stage}), to {job.folder}")
    out.print(facts([head, *plan_facts(job, data_root, gpus)]))


class TrainProgress:
    """A bar with the numbers that matter, on a terminal; a line now and then elsewhere."""

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._task = TaskID(0)
        self._title, self._total, self._done = "", 0, 0

    def start(self, title: str, total: int, done: int) -> None:
        """A stage begins, or goes on."""
        self._title, self._total, self._done = title, total, done
        if not _first():
            return
        if err.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}", markup=False),
                TimeElapsedColumn(),
                TextColumn("eta", style="dim"),
                TimeRemainingColumn(),
                console=err,
            )
            self._task = self._bar.add_task(title, total=total, completed=done, numbers="")
            self._bar.start()
        else:
            err.print(f"{title}: {done} of {total} steps done", markup=False, highlight=False, soft_wrap=True)

    def step(self, values: Mapping[str, float]) -> None:
        """A step is done."""
        self._done += 1
        shown = [f"{name} {values[name]:.3g}" for name in _SHOWN if name in values]
        if self._bar is not None:
            self._bar.update(self._task, advance=1, numbers=", ".join(shown))
        elif _first() and (self._done % max(1, self._total // 20) == 0 or "eval/giou" in values):
            line = ", ".join([f"{self._title}: {self._done} of {self._total}", *shown])
            err.print(line, markup=False, highlight=False, soft_wrap=True)

    def note(self, message: str) -> None:
        """Something to know."""
        if _first():
            note(message)

    def stop(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _first() -> bool:
    return os.environ.get("RANK", "0") == "0"
