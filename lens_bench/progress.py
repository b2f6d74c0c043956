"""Progress that people watch: a bar on a terminal, lines elsewhere. Both fit ``run.watch.Progress``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from lens_bench.console import err, note

_PLAIN_EVERY_S = 10.0


class Rate:
    """Expressions a second since the first answers came: what led to those, loading a model above all, is not work."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._answered = 0

    def add(self, answered: int) -> None:
        """Count more answers."""
        if self._since is None:
            self._since = time.monotonic()
        else:
            self._answered += answered

    def value(self) -> float | None:
        """None as long as nothing followed the first answers."""
        if self._since is None or not self._answered:
            return None
        return self._answered / max(time.monotonic() - self._since, 1e-9)


class BarProgress:
    """A bar with rate and time left, for a terminal. Fits ``run.watch.Progress`` and counting callbacks."""

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._task = TaskID(0)
        self._errors = 0
        self._rate = Rate()

    def start(self, title: str, total: int, done: int) -> None:
        """Draw the bar."""
        self._errors = 0
        self._rate = Rate()
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TextColumn("{task.fields[workers]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("eta", style="dim"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[errors]}", style="red", markup=False),
            console=err,
        )
        self._task = self._bar.add_task(title, total=total, completed=done, rate="", workers="", errors="")
        self._bar.start()

    def advance(self, answered: int, errors: int) -> None:
        """Move the bar."""
        if self._bar is None:
            return
        self._rate.add(answered)
        self._errors += errors
        rate = self._rate.value()
        failed = f"{self._errors} failed" if self._errors else ""
        self._bar.update(self._task, advance=answered, rate="" if rate is None else _pace(rate), errors=failed)

    def workers(self, ready: int, wanted: int) -> None:
        """Show how many workers there are."""
        if self._bar is not None:
            self._bar.update(self._task, workers=f"{ready}/{wanted} workers")

    def note(self, message: str) -> None:
        """Print a line above the bar."""
        note(message)

    def stop(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class PlainProgress:
    """Lines now and then, for a log file."""

    def __init__(self) -> None:
        self._title = self._workers = ""
        self._total = self._done = self._said = self._errors = 0
        self._rate = Rate()
        self._last = 0.0

    def start(self, title: str, total: int, done: int) -> None:
        """Say what begins."""
        self._title, self._total, self._done, self._said = title, total, done, done
        self._errors = 0
        self._rate = Rate()
        self._last = time.monotonic()
        err.print(f"{title}: {done} of {total} done", markup=False, highlight=False, soft_wrap=True)

    def advance(self, answered: int, errors: int) -> None:
        """Print a line if the last one is old enough."""
        self._rate.add(answered)
        self._done += answered
        self._errors += errors
        if time.monotonic() - self._last >= _PLAIN_EVERY_S:
            self._print()

    def workers(self, ready: int, wanted: int) -> None:
        """Say it with the next line."""
        self._workers = f", {ready}/{wanted} workers"

    def note(self, message: str) -> None:
        """Print a line."""
        note(message)

    def stop(self) -> None:
        """Print where it stands, if that was not said."""
        if self._done > self._said:
            self._print()

    def _print(self) -> None:
        self._last, self._said = time.monotonic(), self._done
        rate = self._rate.value()
        speed = "" if rate is None else f", {_pace(rate)}, {max(0, self._total - self._done) / rate:,.0f} s left"
        failed = f", {self._errors} failed" if self._errors else ""
        line = f"{self._title}: {self._done} of {self._total}{speed}{self._workers}{failed}"
        err.print(line, markup=False, highlight=False, soft_wrap=True)


def _pace(rate: float) -> str:
    """A rate in words; of what takes long the seconds."""
    return f"{rate:,.1f}/s" if rate >= 0.1 else f"{1 / rate:,.0f} s each"


def make_progress() -> BarProgress | PlainProgress:
    """A bar on a terminal, lines elsewhere."""
    return BarProgress() if err.is_terminal else PlainProgress()


@contextmanager
def counting(title: str) -> Iterator[Callable[[int, int], None]]:
    """Progress of work that reports (done, total)."""
    watcher = make_progress()
    seen = -1

    def report(done: int, total: int) -> None:
        nonlocal seen
        if seen < 0:
            watcher.start(title, total, 0)
            seen = 0
        watcher.advance(done - seen, 0)
        seen = done

    try:
        yield report
    finally:
        watcher.stop()


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """A spinner on a terminal while something of unknown length is done."""
    if err.is_terminal:
        with err.status(Text(what)):
            yield
    else:
        yield
