"""What a run tells whoever watches. The command line draws a bar or prints lines (``lens_bench/progress.py``)."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Somebody who watches."""

    def start(self, title: str, total: int, done: int) -> None:
        """A split begins: ``done`` of ``total`` expressions were answered in an earlier session."""
        ...

    def advance(self, answered: int, errors: int) -> None:
        """More expressions were answered, ``errors`` of them with an error."""
        ...

    def workers(self, ready: int, wanted: int) -> None:
        """So many of the wanted workers have loaded the model. Never called where one process does it all."""
        ...

    def note(self, message: str) -> None:
        """Something worth a line."""
        ...

    def stop(self) -> None:
        """The split ends, however."""
        ...


class Quiet:
    """Progress that nobody watches."""

    def start(self, title: str, total: int, done: int) -> None:
        """Do nothing."""

    def advance(self, answered: int, errors: int) -> None:
        """Do nothing."""

    def workers(self, ready: int, wanted: int) -> None:
        """Do nothing."""

    def note(self, message: str) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""
