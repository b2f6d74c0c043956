"""Progress where there is no terminal: lines, each of which says something new."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from lens_bench import progress
from lens_bench.progress import PlainProgress, counting


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    monkeypatch.setattr(progress, "err", Console(file=stream, width=200))
    return stream


def test_a_line_now_and_then_and_one_at_the_end(said: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    plain = PlainProgress()
    plain.start("reading", 30, 10)
    for seconds in (4.0, 12.0, 14.0):  # the rate is that of 8 and 10 seconds behind the first five
        now[0] = 100.0 + seconds
        plain.advance(5, 0)
    plain.stop()
    assert said.getvalue().splitlines() == [
        "reading: 10 of 30 done",
        "reading: 20 of 30, 0.6/s, 16 s left",
        "reading: 25 of 30, 1.0/s, 5 s left",
    ]


def test_the_first_answers_say_nothing_of_speed(said: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model was loaded before them."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    plain = PlainProgress()
    plain.start("reading", 30, 0)
    now[0] = 60.0
    plain.advance(5, 0)
    assert said.getvalue().splitlines()[1:] == ["reading: 5 of 30"]


def test_the_end_is_not_said_twice(said: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with counting("verifying") as report:
        report(1, 2)
        now[0] = 60.0
        report(2, 2)
    assert len(said.getvalue().splitlines()) == 2
    nothing = PlainProgress()
    nothing.start("again", 2, 2)
    nothing.stop()
    assert said.getvalue().splitlines()[2:] == ["again: 2 of 2 done"]


def test_slow_work_is_told_in_seconds(said: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    plain = PlainProgress()
    plain.start("reading", 10, 0)
    for seconds in (20.0, 40.0):
        now[0] = seconds
        plain.advance(1, 0)
    assert said.getvalue().splitlines()[-1] == "reading: 2 of 10, 20 s each, 160 s left"
