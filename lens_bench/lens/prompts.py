"""From an expression to token ids, and back to text.

Prompts are tokenised in two parts, before and behind the image: special tokens stand on both sides of it, so the parts
give the same ids as the whole, and what lies before the image is the same for every expression.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lens_bench.checkpoint_files import reading, require_no_code
from lens_bench.errors import CheckpointError
from lens_bench.lens.recipe import Recipe

if TYPE_CHECKING:
    from lens_bench.lens.hf import PreTrainedTokenizerBase


class Tokenizer(Protocol):
    """What is needed of a tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text in which special tokens are spelled out; none are added."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        ...

    @property
    def special(self) -> frozenset[str]:
        """Texts that are read as one special token."""
        ...


class HubTokenizer:
    """One of transformers' tokenizers."""

    def __init__(self, inner: PreTrainedTokenizerBase) -> None:
        self.inner = inner

    def encode(self, text: str) -> list[int]:
        """Ids of a text in which special tokens are spelled out; none are added."""
        return [int(i) for i in self.inner.encode(text, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        text = self.inner.decode(list(ids), skip_special_tokens=True)
        if not isinstance(text, str):
            raise TypeError("decoding one row gave several texts")
        return text

    @property
    def special(self) -> frozenset[str]:
        """Texts that are read as one special token."""
        return special_tokens(self.inner)

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json`` and its configuration."""
        self.inner.save_pretrained(folder)


class Prompter:
    """Writes the prompts of one recipe with one tokenizer.

    Attributes:
        before: Ids in front of the image, the same for every expression.
        ends: Ids that end an answer.
        padding: Id that the authors' mask pass leaves out wherever an answer holds it.
    """

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer, ends: frozenset[int], padding: int) -> None:
        self.recipe = recipe
        self.ends = ends
        self.padding = padding
        self._tokenizer = tokenizer
        self._special = tokenizer.special
        self.before = tuple(self._ids(recipe.before_image.replace("{system}", recipe.system)))

    def after(self, expression: str) -> tuple[int, ...]:
        """Ids behind the image for one expression."""
        return tuple(self._ids(self.after_text(expression)))

    def after_text(self, expression: str) -> str:
        """The prompt behind the image as text."""
        text = strip_caption(expression) if self.recipe.strip_caption else expression
        question = self.recipe.question.replace("{expression}", text)
        return self.recipe.after_image.replace("{question}", question)

    def refusal(self, expression: str, tokens: int) -> str:
        """Why an expression cannot be asked; empty where it can.

        Args:
            expression: As the suite has it.
            tokens: Of its prompt, the image's included.
        """
        if held := special_in(expression, self._special):
            return held
        if self.recipe.answer_budget(tokens) > 0:
            return ""
        limit = self.recipe.max_length
        return f"the prompt has {tokens} tokens, which leaves no room for an answer (max_length {limit})"

    def before_text(self) -> str:
        """The prompt in front of the image as text."""
        return self.recipe.before_image.replace("{system}", self.recipe.system)

    def text(self, answer: Sequence[int]) -> str:
        """An answer as text, special tokens left out."""
        return self._tokenizer.decode(answer)

    def kept(self, answer: Sequence[int]) -> tuple[int, ...]:
        """The ids of an answer that the mask pass reads: all but padding, the end-of-turn token included."""
        return tuple(token for token in answer if token != self.padding)

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)


def strip_caption(caption: str) -> str:
    """Caption as the authors' GroundingSuite evaluation asks it: "is" and "are" cut out as substrings, lower case.

    It also cuts inside words ("this" becomes "th"), changes 61 % of the captions, and is off unless a recipe asks.
    """
    return caption.replace("is", "").replace("are", "").lower()


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[str]:
    """Texts that one of transformers' tokenizers reads as one special token, wherever they stand."""
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    return frozenset((*tokenizer.all_special_tokens, *added))


def special_in(text: str, special: Iterable[str]) -> str:
    """Why a text cannot be asked: it would be read as a part of the prompt's own structure; empty where it can be."""
    held = sorted((token for token in special if token in text), key=len)
    return f"the expression holds {held[-1]!r}, which is a special token of the model" if held else ""


def require_tokenizer(folder: Path) -> None:
    """Refuse a folder whose tokenizer has no vocabulary; transformers would make one that knows no word.

    Raises:
        CheckpointError: There is no file with one.
    """
    names = ("tokenizer.json", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tekken.json")
    pairs = (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    if not pairs and not any((folder / name).is_file() for name in names) and not any(folder.glob("*.tiktoken")):
        raise CheckpointError(f"no tokenizer in {folder}", "expected tokenizer.json, or vocab.json with merges.txt")


def load_tokenizer(folder: Path) -> HubTokenizer:
    """The tokenizer of a checkpoint folder.

    Raises:
        CheckpointError: The folder has none that transformers can read.
    """
    from lens_bench.lens.hf import AutoTokenizer, PreTrainedTokenizerFast

    require_tokenizer(folder)
    require_no_code(folder)
    with reading(f"unreadable tokenizer in {folder}"):
        if (folder / "tokenizer_config.json").is_file():
            inner: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        else:
            inner = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))  # type: ignore[no-untyped-call]
    return HubTokenizer(inner)
