"""Whether prompts and answers fit: into a language model's positions, and into a recipe's limit of tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lens_bench.errors import UsageError
from lens_bench.lens.images import Patching, size_for_language
from lens_bench.lens.recipe import Recipe
from lens_bench.records import Size


@dataclass(frozen=True, slots=True)
class Shortage:
    """Images that a recipe's ``max_length`` is too small for.

    Attributes:
        images: How many.
        size: Size (height, width) of the one that needs most.
        needed: Tokens of its prompt and of the answer.
        limit: ``max_length``.
    """

    images: int
    size: Size
    needed: int
    limit: int


def shortage(sizes: Iterable[Size], recipe: Recipe, patching: Patching, text: int, answer: int) -> Shortage | None:
    """Images whose prompt leaves fewer than ``answer`` tokens; None where all leave as many.

    Args:
        sizes: Original sizes (height, width), one per image.
        recipe: Sizes images and limits tokens.
        patching: Geometry of the vision tower.
        text: Tokens of the prompt beside the image.
        answer: Tokens that an answer should have.
    """
    if recipe.max_length is None:
        return None
    token = patching.patch * patching.merge
    worst, count = (0, (0, 0)), 0
    known: dict[Size, int] = {}
    for size in sizes:
        if size not in known:
            height, width = size_for_language(size, recipe, patching)
            known[size] = text + (height // token) * (width // token) + answer
        if known[size] > recipe.max_length:
            count, worst = count + 1, max(worst, (known[size], size))
    return Shortage(count, worst[1], worst[0], recipe.max_length) if count else None


def require_room(tokens: int, positions: object, taken: int = 1) -> None:
    """Refuse a forced length that leaves no positions for the prompt.

    Nothing would fail on its way there: a model computes for minutes at positions that it never saw.

    Args:
        tokens: Of every answer.
        positions: ``max_position_embeddings`` of the model's configuration, if it has them.
        taken: Of them by the shortest prompt.

    Raises:
        UsageError: Together they are too many.
    """
    if isinstance(positions, int) and tokens + taken > positions:
        raise UsageError(
            f"--new-tokens {tokens} is more than the model has room for: {positions} positions, "
            f"{taken} or more of them the prompt's",
            f"less than {positions - taken}" if positions > taken else "",
        )
