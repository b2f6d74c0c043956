"""What is said to a vision-language model and what it says back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from lens_bench.records import Pixels, Tokens

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

    def ask(self, conversations: Sequence[Conversation]) -> list[Reply]:
        """One reply per conversation, in order. A conversation that fails has a reply with ``error``."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


def question(picture: Picture, text: str) -> Conversation:
    """One user turn: a picture and a question about it."""
    return (Turn("user", (picture, text)),)
