"""Whether prompts and answers fit into the recipe's ``max_length``, said before the first step.

Training itself has no such limit, but evaluations and the result do: without this check a recipe can train a model that
refuses the images it was trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lens_bench.errors import UsageError
from lens_bench.lens.images import Patching
from lens_bench.lens.prompts import Prompter
from lens_bench.lens.room import Shortage, shortage
from lens_bench.train.config import TrainRecipe
from lens_bench.train.data import Item

# Of the longest expressions, how many are tokenised to find the longest prompt.
_TOKENISED = 32
# Tokens to advise for an answer where the recipe does not say how long one may be.
_ADVISED = 256


def require_lengths(
    name: str,
    items: Sequence[Item],
    recipe: TrainRecipe,
    prompter: Prompter,
    patching: Patching,
    note: Callable[[str], object],
) -> None:
    """Refuse data whose prompts leave no room for an answer, and warn where an answer of full length does not fit.

    Args:
        name: Of the data, for messages.
        items: Expressions with the sizes of their images.
        recipe: Whose ``grpo.max_completion_length`` is the length of an answer.
        prompter: Writes the prompts.
        patching: Geometry of the vision tower.
        note: Is told the warning.

    Raises:
        UsageError: Some prompts leave no room for a single token.
    """
    expressions = sorted({item.sample.expression for item in items}, key=lambda text: (len(text), text))[-_TOKENISED:]
    text = len(prompter.before) + max((len(prompter.after(expression)) for expression in expressions), default=0)
    sizes = {item.image: item.sample.truth.size for item in items}
    answer = recipe.grpo.max_completion_length if recipe.grpo is not None else _ADVISED
    full = shortage(sizes.values(), prompter.recipe, patching, text, answer)
    if full is None:
        return
    none = shortage(sizes.values(), prompter.recipe, patching, text, 1)
    if none is None and recipe.grpo is None:  # nothing says how long its answers will be
        return
    hint = f"--set model.prompt.max_length={full.needed}, or a smaller model.prompt.max_pixels"
    if none is not None:
        raise UsageError(f"{name}: {_in_words(none, len(sizes))} leave no room for an answer", hint)
    note(
        f"{name}: {_in_words(full, len(sizes))} leave no room for an answer of {answer} tokens "
        f"(grpo.max_completion_length), which the result may not finish; {hint}"
    )


def _in_words(found: Shortage, images: int) -> str:
    height, width = found.size
    return f"{found.images} of {images} images (up to {width}x{height}) within max_length={found.limit}"
