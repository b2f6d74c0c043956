"""Someone who watches a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Progress(Protocol):
    """Someone who watches."""

    def start(self, title: str, total: int, done: int) -> None:
        """A stage begins, or goes on."""
        ...

    def step(self, values: Mapping[str, float]) -> None:
        """A step is done."""
        ...

    def note(self, message: str) -> None:
        """Something to know."""
        ...

    def stop(self) -> None:
        """The stage is over, one way or the other."""
        ...
