"""Rewards: pure and total functions of an answer and its mask, and rewards of the user's own.

Every built-in reward gives a number in [0, 1] for any string, any box and any mask. A reward of the user's own is a
function with TRL's signature, named by its file or its dotted path. Called with ``prompts``, ``completions``,
``completion_ids`` and ``COLUMNS``, all by name and all lists of the same length, it gives one number or None per
completion; what it does not look at it may leave to ``**kwargs``. None means that it has no opinion, and is not 0: see
``Rewards.total``. One that never looks at ``mask_iou`` may say so with the attribute ``reads_masks = False``, so that
training without a mask loss decodes no masks.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from lens_bench import masks
from lens_bench.answers import box_in_image, first_box
from lens_bench.errors import RunError, UsageError
from lens_bench.records import Box, Size
from lens_bench.registry import import_file, suggest

if TYPE_CHECKING:
    from lens_bench.train.config import RewardConfig, TrainRecipe

_NUMBER = r"[-+]?\d+(?:\.\d+)?"
_BOX = rf"[\[(]\s*{_NUMBER}\s*,\s*{_NUMBER}\s*,\s*{_NUMBER}\s*,\s*{_NUMBER}\s*,?\s*[\])]"
_FORMATS: Mapping[str, re.Pattern[str]] = {
    "think-answer": re.compile(
        r"\s*<think>(?:(?!</?think>|</?answer>).)+</think>\s*<answer>(?P<box>(?:(?!</?answer>).)+)</answer>\s*",
        re.DOTALL,
    ),
    "reason-box": re.compile(rf"\s*[^\s\[\]()][^\[\]()]*(?P<box>{_BOX})\s*"),
    "box-only": re.compile(rf"\s*(?P<box>{_BOX})\s*"),
}
FORMATS = ("any-box", *_FORMATS)
COLUMNS = ("sample_id", "image", "expression", "rationale", "referent", "box", "predicted_box", "mask_iou")


@dataclass(frozen=True, slots=True)
class Judged:
    """One completion as the rewards see it.

    Attributes:
        prompt: Text of the prompt behind the image.
        text: The completion, special tokens left out.
        ids: Its token ids.
        box: In pixels of the original image, where the text names one.
        truth: The referent's box, where there is one.
        mask_iou: Intersection over union of the predicted mask; NaN where none was decoded.
        columns: ``COLUMNS``, for rewards of the user's own.
    """

    prompt: str
    text: str
    ids: tuple[int, ...]
    box: Box | None
    truth: Box | None
    mask_iou: float
    columns: Mapping[str, object]


class UserReward(Protocol):
    """TRL's signature."""

    def __call__(
        self, *, prompts: list[str], completions: list[str], completion_ids: list[list[int]], **columns: list[object]
    ) -> Sequence[float | None]:
        """One number or None per completion."""
        ...


# ---------------------------------------------------------------------------------------------- built in


def format_reward(text: str, kind: str = "any-box") -> float:
    """1 where the whole answer has the wanted form, else 0.

    ``any-box``: a box can be read out of it. ``think-answer``: one ``<think>`` block, one ``<answer>`` block that names
    a box, nothing else. ``reason-box``: words, then one box, nothing behind it. ``box-only``: nothing but a box.
    """
    if kind == "any-box":
        return float(first_box(text) is not None)
    found = _FORMATS[kind].fullmatch(text)
    return float(found is not None and first_box(found["box"]) is not None)


def box_reward(box: Box | None, truth: Box | None, power: float = 2.0, threshold: float | None = None) -> float:
    """IoU of the boxes to a power, or with ``threshold`` whether it exceeds that. No box where none is meant is 1."""
    if truth is None or box is None:
        return float(truth is None and box is None)
    return _shaped(masks.box_iou(box, truth), power, threshold)


def mask_reward(iou: float, power: float = 2.0, threshold: float | None = None) -> float:
    """IoU of the masks to a power, or with ``threshold`` whether it exceeds that."""
    return _shaped(iou, power, threshold)


def target_reward(box: Box | None, truth: Box | None) -> float:
    """1 where the answer names a box exactly if something is meant, wherever the box lies; else 0."""
    return float((box is None) == (truth is None))


def answer_box(text: str, seen: Size, original: Size, coordinates: str = "pixels") -> Box | None:
    """The box that an answer names, in pixels of the original image; None where it names none inside it."""
    said = first_box(text, "pixels" if coordinates == "pixels" else "thousandths")
    return None if said is None else box_in_image(said, seen, original)


def _shaped(iou: float, power: float, threshold: float | None) -> float:
    if not math.isfinite(iou):
        return 0.0
    value = min(1.0, max(0.0, iou))
    return float(value > threshold) if threshold is not None else value**power


# ---------------------------------------------------------------------------------------------- all of them


class Rewards:
    """The rewards of a recipe, by name; a second one of a name is ``NAME#2``.

    Attributes:
        names: In the log.
        lengths: Of the history, in steps, by name of the rewards that are quantiles.
        largest: Largest possible weighted sum.
        may_abstain: Whether a completion may go without a score; only rewards of the user's own say None.
        reads_masks: Whether any of them looks at masks.

    Raises:
        UsageError: A reward of the user's own cannot be imported, is no function, or does not take what rewards are
            told.
    """

    def __init__(self, configs: Sequence[RewardConfig]) -> None:
        counted = [c for c in configs if c.weight]
        labels = [c.label for c in counted]
        times = [labels[: n + 1].count(label) for n, label in enumerate(labels)]
        self.names = tuple(f"{label}#{n}" if n > 1 else label for label, n in zip(labels, times, strict=True))
        self._configs = dict(zip(self.names, counted, strict=True))
        self._user = {c.name: _resolve(c) for c in counted if c.is_user}
        self.may_abstain = bool(self._user)
        self.lengths = {name: c.quantile for name, c in self._configs.items() if c.quantile}
        self.largest = sum(c.weight for c in counted if c.weight > 0)
        self.reads_masks = "mask" in (c.name for c in counted) or any(
            getattr(function, "reads_masks", True) for function in self._user.values()
        )

    def __call__(self, judged: Sequence[Judged]) -> dict[str, list[float]]:
        """Every reward of every completion, unweighted; NaN where a reward of the user's own says None.

        Raises:
            RunError: A reward of the user's own failed, or gave something else than a finite number or None for each
                completion.
        """
        return {name: self._one(config, judged) for name, config in self._configs.items()}

    def total(self, values: Mapping[str, Sequence[float]]) -> list[float]:
        """The weighted sum per completion over the rewards that scored it; NaN where none did."""
        weights = [self._configs[name].weight for name in values]
        rows = zip(*values.values(), strict=True)
        scored = ([w * v for w, v in zip(weights, row, strict=True) if not math.isnan(v)] for row in rows)
        return [sum(parts) if parts else math.nan for parts in scored]

    def _one(self, config: RewardConfig, judged: Sequence[Judged]) -> list[float]:
        if config.name in self._user:
            return self._ask(config, judged)
        if config.name == "format":
            return [format_reward(j.text, config.kind) for j in judged]
        if config.name == "box":
            return [box_reward(j.box, j.truth, config.power, config.threshold) for j in judged]
        if config.name == "target":
            return [target_reward(j.box, j.truth) for j in judged]
        return [mask_reward(j.mask_iou, config.power, config.threshold) for j in judged]

    def _ask(self, config: RewardConfig, judged: Sequence[Judged]) -> list[float]:
        name, function = config.base, self._user[config.name]
        columns = {key: [j.columns.get(key) for j in judged] for key in COLUMNS}
        try:
            found: object = function(
                prompts=[j.prompt for j in judged],
                completions=[j.text for j in judged],
                completion_ids=[list(j.ids) for j in judged],
                **columns,
            )
        except (Exception, SystemExit) as error:  # the user's own code: it may raise anything
            what = " ".join(str(error).split())
            raise RunError(
                f"reward {name} raised {type(error).__name__}{f': {what}' if what else ''}", "--debug shows where"
            ) from error
        return _checked(name, found, len(judged))


def _checked(name: str, found: object, count: int) -> list[float]:
    """What a reward of the user's own returned, as numbers; NaN for None.

    Raises:
        RunError: It is not a sequence of ``count`` finite numbers or None.
    """
    hint = f"it must return a list of {count} numbers or None, one for each completion"
    if inspect.iscoroutine(found):
        found.close()  # never awaited, which Python would warn of
    values = list(found) if isinstance(found, Iterable) and _is_listed(found) else None
    if values is None:
        raise RunError(f"reward {name} returned {_called(found)}", hint)
    if len(values) != count:
        raise RunError(f"reward {name} returned {len(values)} values for {count} completions", hint)
    numbers: list[float] = []
    for place, value in enumerate(values):
        try:
            number = math.nan if value is None else float(value)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            raise RunError(f"reward {name} returned {_called(value)} for completion {place}", hint) from None
        if value is not None and not math.isfinite(number):
            raise RunError(
                f"reward {name} returned {number} for completion {place}", "None leaves a completion out of a reward"
            )
        numbers.append(number)
    return numbers


def _is_listed(found: object) -> bool:
    """Whether something is a list, a tuple, an array or a tensor: sized and in order, and no text or table."""
    if isinstance(found, str | bytes | Mapping | set | frozenset):
        return False
    # An array or a tensor without dimensions has a length only by its type.
    return isinstance(found, Sized) and getattr(found, "ndim", 1) >= 1


def _called(found: object) -> str:
    """A value as a message names it."""
    if found is None:
        return "None"
    if inspect.iscoroutine(found):
        return "a coroutine (async functions are not awaited)"
    if inspect.isgenerator(found):
        return "a generator"
    return f"{' '.join(repr(found).split())[:60]} ({type(found).__name__})"


def require_rewards(recipe: TrainRecipe) -> None:
    """Check a recipe's rewards before anything is made or loaded for it.

    Raises:
        UsageError: See ``Rewards``.
    """
    if recipe.grpo is not None:
        Rewards(recipe.grpo.rewards)


def reward_digests(recipe: TrainRecipe) -> dict[str, str]:
    """SHA-256 of the file of every reward that is named by one, by its place in ``grpo.rewards``.

    Raises:
        UsageError: A file cannot be read.
    """
    found: dict[str, str] = {}
    for place, config in enumerate(recipe.grpo.rewards if recipe.grpo is not None else ()):
        if config.source is not None:
            try:
                content = config.source[0].read_bytes()
            except OSError as error:
                raise UsageError(f"reward {config.base}: {config.source[0]}: {error.strerror}") from None
            found[f"{place} {config.base}"] = hashlib.sha256(content).hexdigest()
    return found


def _resolve(config: RewardConfig) -> UserReward:
    if config.source is not None:
        file, name = config.source
        if not file.is_file():
            raise UsageError(f"reward {config.base}: there is no file {file}", "paths are relative to the recipe")
    else:
        place, _, name = config.name.rpartition(".")
    try:
        module = importlib.import_module(place) if config.source is None else import_file(file)
    except (Exception, SystemExit) as error:  # the user's own code: it may raise anything
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        hint = "rewards.py:function names a file beside the recipe" if config.source is None else "--debug shows where"
        raise UsageError(f"reward {config.base} cannot be imported: {what}", hint) from error
    found: object = getattr(module, name, None)
    if not callable(found):
        functions = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        hint = suggest(name, functions) or f"functions there: {', '.join(functions) or 'none'}"
        what = "is not a function" if found is not None else f"is not in {module.__file__ or place}"
        raise UsageError(f"reward {config.base} {what}", hint)
    _check_takes(config.base, found)
    return cast("UserReward", cast("Callable[..., Sequence[float | None]]", found))


def _check_takes(label: str, function: Callable[..., object]) -> None:
    """Refuse a function that could not be called, before anything is loaded for it."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # some built-in functions have none that can be read
        return
    try:
        signature.bind(**dict.fromkeys(("prompts", "completions", "completion_ids", *COLUMNS)))
    except TypeError as error:
        raise UsageError(
            f"reward {label} does not take what rewards are told: {error}", "e.g. def reward(completions, **kwargs)"
        ) from None
