"""What is said to a vision-language model and what it says back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from lens_bench.perf.clock import StageClock
from lens_bench.records import Cost, Pixels, Tokens

Role: TypeAlias = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """An image in a conversation, RGB uint8 [H, W, 3]. Two are the same where they are the same object.

    Expressions about one image share one ``Picture``, so that it is encoded once.
    """

    pixels: Pixels

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return int(self.pixels.shape[0]), int(self.pixels.shape[1])


Part: TypeAlias = str | Picture


@dataclass(frozen=True, slots=True)
class Turn:
    """One message: texts and pictures in order."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """Its texts, joined."""
        return "".join(part for part in self.parts if isinstance(part, str))


Conversation: TypeAlias = tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, or why there is none.

    Attributes:
        text: What the model said; empty where it said nothing.
        tokens: Of prompt and answer, where they are known.
        cut: The answer reached its limit of tokens.
        error: Why there is no answer; None where there is one.
    """

    text: str = ""
    tokens: Tokens | None = None
    cut: bool = False
    error: str | None = None


class Talker(Protocol):
    """A model that continues conversations."""

    def ask(self, conversations: Sequence[Conversation], clock: StageClock | None = None) -> list[Reply]:
        """One reply per conversation, in order. A conversation that fails has a reply with ``error``.

        Args:
            conversations: What is said.
            clock: Takes the stages; one that cannot be looked into is the stage ``answer``.
        """
        ...

    def costs(self, conversations: Sequence[Conversation], replies: Sequence[Reply]) -> Mapping[str, Cost]:
        """Work of what was answered, by the stages of ``ask``."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


def question(picture: Picture, text: str) -> Conversation:
    """One user turn: a picture and a question about it."""
    return (Turn("user", (picture, text)),)
