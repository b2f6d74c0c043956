"""Which parameters train: groups by name, frozen for good, counted, put into the optimizer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import get_args

from torch import Tensor, nn

from lens_bench.errors import RunError, UsageError
from lens_bench.lens.modeling import LensModel
from lens_bench.train.config import Group, Stage, TrainRecipe

_SAM = r"sam\.sam2\."
# The first pattern that fits a name decides. None: no training ever reaches it.
_PATTERNS: tuple[tuple[str, Group | None], ...] = (
    (r"qwen\.(lm_head|model\.language_model\.embed_tokens)\..*", "embeddings"),
    (r"qwen\.model\.language_model\..*", "language"),
    (r"qwen\.model\.visual\..*", "vision"),
    (r"head\..*", "head"),
    # The decoder's heads for several masks and for their quality: LENS asks for one mask and no score.
    (_SAM + r"mask_decoder\.(iou_prediction_head|pred_obj_score_head|output_hypernetworks_mlps\.[1-9])\..*", None),
    # Applied to image features, once per image: they belong to what is frozen and cached with the image encoder.
    (_SAM + r"mask_decoder\.conv_s[01]\..*", "sam_image"),
    (_SAM + r"mask_decoder\..*", "sam_decoder"),
    (_SAM + r"prompt_encoder\.mask_embed\..*", None),
    (_SAM + r"prompt_encoder\..*", "sam_prompt"),
    (_SAM + r"(vision_encoder\..*|no_memory_embedding)", "sam_image"),
)
_COMPILED = tuple((re.compile(pattern), group) for pattern, group in _PATTERNS)
# LENS hands the decoder a token of its own: the embeddings of points and boxes are only read in stage sam.
_BOX_PROMPTS = re.compile(_SAM + r"prompt_encoder\.(point_embed|not_a_point_embed)\..*")


def group_of(name: str, stage: Stage) -> Group | None:
    """Group of a parameter of ``LensModel``; None where the stage can never train it."""
    if stage != "sam" and _BOX_PROMPTS.fullmatch(name):
        return None
    return next((group for pattern, group in _COMPILED if pattern.fullmatch(name)), None)


def freeze(model: LensModel, recipe: TrainRecipe) -> None:
    """Let exactly the recipe's groups train, in float32, and no other parameter.

    With adapters the language model's own weights stay frozen.

    Raises:
        UsageError: A group has a learning rate, but no parameter.
    """
    found: set[Group] = set()
    for name, parameter in model.named_parameters():
        group = group_of(name, recipe.stage)
        trains = group in recipe.optimiser.rates
        if recipe.lora is not None and group == "language":
            trains = ".lora_" in name
        # A tensor's own method: the attribute of the same name on a module does nothing to its parameters.
        parameter.requires_grad_(trains)
        if trains and group is not None:
            parameter.data = parameter.data.float()
            found.add(group)
    absent = [group for group in recipe.optimiser.rates if group not in found]
    if absent:
        raise UsageError(f"optimiser.rates: the model has nothing to train in group {absent[0]}")


def trained(model: LensModel, stage: Stage) -> Iterator[tuple[str, Group, nn.Parameter]]:
    """Name, group and parameter of everything that trains."""
    for name, parameter in model.named_parameters():
        group = group_of(name, stage)
        if parameter.requires_grad and group is not None:
            yield name, group, parameter


def counts(model: LensModel, stage: Stage) -> dict[Group, int]:
    """Number of trainable parameters of each group that has some, in a fixed order."""
    numbers: dict[Group, int] = {group: 0 for group in get_args(Group)}
    for _, group, parameter in trained(model, stage):
        numbers[group] += parameter.numel()
    return {group: number for group, number in numbers.items() if number}


def optimiser_groups(model: LensModel, probe: nn.Module | None, recipe: TrainRecipe) -> list[dict[str, object]]:
    """Parameter groups for AdamW, each with its ``base_rate``; a probe has the largest of the others'."""
    rates: Mapping[Group, float] = recipe.optimiser.rates
    members: dict[Group, list[nn.Parameter]] = {}
    for _, group, parameter in trained(model, recipe.stage):
        members.setdefault(group, []).append(parameter)
    groups: list[dict[str, object]] = [
        {"params": parameters, "name": group, "base_rate": rates[group], "lr": rates[group]}
        for group, parameters in members.items()
    ]
    if probe is not None:
        rate = max(rates.values())
        groups.append({"params": list(probe.parameters()), "name": "probe", "base_rate": rate, "lr": rate})
    return groups


def fuses(parameters: Iterable[Tensor]) -> bool:
    """Whether AdamW updates them in one kernel per group: all of them are on CUDA devices, and there are some."""
    devices = [parameter.is_cuda for parameter in parameters]
    return bool(devices) and all(devices)


def require_gradients(model: nn.Module) -> None:
    """Raise ``RunError`` where a parameter that should train gets no gradient: it would silently stay what it is."""
    idle = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if idle:
        raise RunError(
            f"{len(idle)} trainable parameters get no gradient, e.g. {idle[0]}",
            "a loss of weight 0, or a group that this stage does not use: see optimiser.rates",
        )
