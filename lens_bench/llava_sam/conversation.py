"""Prompts as text: the conversation template ``llava_v1`` that LISA and GLaMM use in training and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lens_bench.errors import DataError
from lens_bench.llava_sam.tokens import SegTokenizer

SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One question with the answer that is put into the model's mouth; None lets the model answer."""

    question: str
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids of a conversation.

    Attributes:
        before: Up to the image, the beginning of the sequence included.
        after: Behind the image.
        segs: Places in ``after`` of each forced answer's last [SEG].
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    segs: tuple[int, ...]


class Template:
    """Writes conversations about one image.

    Args:
        tokenizer: Of the checkpoint.
        lead: What the first question says before the image.
        follow: What it says between the image and the question proper.
    """

    def __init__(self, tokenizer: SegTokenizer, lead: str, follow: str) -> None:
        self._tokenizer = tokenizer
        self._follow = follow
        before = f"{SYSTEM} USER: {lead}<im_start>"
        self.before = (tokenizer.bos, *tokenizer.encode(before))

    def write(self, turns: Sequence[Turn]) -> Prompt:
        """Ids of a conversation.

        Every turn but the last needs an answer. A turn is tokenised for itself, which changes nothing because
        ``</s>`` between turns divides the text anyway.

        Raises:
            DataError: A question holds the word that stands for a mask, which would be read as an answer.
        """
        after: list[int] = []
        segs: list[int] = []
        for place, turn in enumerate(turns):
            first = place == 0
            lead = f"<im_end>{self._follow}" if first else "USER: "
            asked = f"{lead}{turn.question} ASSISTANT:"
            if self._tokenizer.seg in self._tokenizer.encode(asked):
                raise DataError(f"an expression holds the model's own mask token: {turn.question!r}")
            said = asked if turn.answer is None else f"{asked} {turn.answer}</s>"
            ids = self._tokenizer.encode(said)
            if turn.answer is not None:
                segs.append(len(after) + len(ids) - 1 - ids[::-1].index(self._tokenizer.seg))
            after += ids
        return Prompt(self.before, tuple(after), tuple(segs))
