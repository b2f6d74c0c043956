"""Handing out images: each is answered once, whatever happens to workers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_bench.run.workers.dispatch import ALONE_DEATHS, OVERDUE, PATIENCE_S, Dispatcher


def work_off(dispatcher: Dispatcher, workers: int, killers: set[int]) -> tuple[list[int], list[int], int]:
    """Synchronous workers; one that is given a killer dies and is replaced. Returns answered, given up, deaths."""
    answered: list[int] = []
    given_up: list[int] = []
    deaths = 0
    names = list(range(workers))
    for name in names:
        dispatcher.join(name)
    now = 0.0
    while not dispatcher.finished:
        now += 1.0
        handed = {name: dispatcher.next(name, now) for name in list(names)}
        for name, handout in handed.items():
            if handout is None:
                continue
            if killers & set(handout.chunk):
                deaths += 1
                given_up += dispatcher.leave(name, died=True)
                names.remove(name)
                names.append(max(names, default=0) + deaths + 1000)
                dispatcher.join(names[-1])
            else:
                answered += dispatcher.answered(name, now)
    return answered, given_up, deaths


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 5))
def test_every_image_is_answered_once_and_in_the_chunks_of_one_process(images: int, batch: int, workers: int) -> None:
    dispatcher = Dispatcher(images, batch)
    chunks = []
    for name in range(workers):
        dispatcher.join(name)
    while not dispatcher.finished:
        for name in range(workers):
            if handout := dispatcher.next(name, 0.0):
                chunks.append(handout.chunk)
                assert dispatcher.answered(name, 0.0) == handout.chunk
    assert sorted(chunks) == [tuple(range(i, min(i + batch, images))) for i in range(0, images, batch)]


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 16), st.integers(1, 4), st.data())
def test_only_killers_are_given_up_and_they_cost_a_bounded_number_of_workers(
    images: int, batch: int, workers: int, data: st.DataObject
) -> None:
    killers = data.draw(st.sets(st.integers(0, images - 1), max_size=3))
    answered, given_up, deaths = work_off(Dispatcher(images, batch), workers, killers)
    assert sorted(given_up) == sorted(killers)
    assert sorted(answered) == sorted(set(range(images)) - killers)
    assert deaths <= len(killers) * (1 + math.ceil(math.log2(batch)) + ALONE_DEATHS)


@pytest.mark.parametrize(("batch", "deaths"), [(1, ALONE_DEATHS), (2, 2 + ALONE_DEATHS), (16, 5 + ALONE_DEATHS)])
def test_one_killer_costs_what_is_promised(batch: int, deaths: int) -> None:
    answered, given_up, found = work_off(Dispatcher(32, batch), 2, {5})
    assert (sorted(answered), given_up, found) == (sorted(set(range(32)) - {5}), [5], deaths)


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_random_histories_lose_and_double_nothing(data: st.DataObject) -> None:
    """Workers join, answer, leave for reasons of their own and hang, in any order."""
    images = data.draw(st.integers(1, 30))
    dispatcher = Dispatcher(images, data.draw(st.integers(1, 7)))
    answered: list[int] = []
    here: set[int] = set()
    busy: set[int] = set()
    now, number = 0.0, 0
    for _ in range(data.draw(st.integers(0, 120))):
        now += data.draw(st.sampled_from([0.1, 100.0]))
        step = data.draw(st.sampled_from(["join", "next", "answer", "answer", "leave"]))
        if step == "join" and len(here) < 6:
            number += 1
            here.add(number)
            dispatcher.join(number)
        elif step == "next" and here - busy:
            worker = data.draw(st.sampled_from(sorted(here - busy)))
            if dispatcher.next(worker, now):
                busy.add(worker)
        elif step == "answer" and busy:
            worker = data.draw(st.sampled_from(sorted(busy)))
            busy.remove(worker)
            answered += dispatcher.answered(worker, now)
        elif step == "leave" and here:
            worker = data.draw(st.sampled_from(sorted(here)))
            here.remove(worker)
            busy.discard(worker)
            assert dispatcher.leave(worker, died=False) == ()
        assert set(dispatcher.busy) == busy
        assert set(dispatcher.idle) == here - busy
    for worker in sorted(busy):
        answered += dispatcher.answered(worker, now)
    if not dispatcher.finished:
        answered += work_off(dispatcher, 1, set())[0]
    assert sorted(answered) == list(range(images))


def test_what_is_next_is_said_beforehand_but_not_near_the_end() -> None:
    dispatcher = Dispatcher(6, 1)
    dispatcher.join(1)
    dispatcher.join(2)
    assert (first := dispatcher.next(1, 0.0)) and (first.chunk, first.ahead) == ((0,), (1,))
    assert (second := dispatcher.next(2, 0.0)) and (second.chunk, second.ahead) == ((2,), (3,))
    dispatcher.answered(1, 1.0)
    assert (third := dispatcher.next(1, 1.0)) and (third.chunk, third.ahead) == ((1,), (4,))
    for expected in (4, 5, 3):  # its own, the queue's, and what was set aside for the other, who is busy
        dispatcher.answered(1, 1.0)
        assert (more := dispatcher.next(1, 1.0)) and (more.chunk, more.ahead) == ((expected,), ())
    dispatcher.answered(1, 1.0)
    assert dispatcher.next(1, 1.0) is None
    assert dispatcher.answered(2, 1.0) == (2,)
    assert dispatcher.finished


def test_somebody_who_hangs_is_overtaken_and_their_late_answer_counts_for_nothing() -> None:
    dispatcher = Dispatcher(2, 1)
    dispatcher.join(1)
    dispatcher.join(2)
    dispatcher.next(1, 0.0)
    dispatcher.next(2, 0.0)
    dispatcher.answered(2, 4.0)
    assert dispatcher.next(2, OVERDUE * 4.0 - 0.1) is None
    assert (again := dispatcher.next(2, OVERDUE * 4.0)) and again.chunk == (0,)
    dispatcher.join(3)
    assert dispatcher.next(3, 1000.0) is None  # two are enough
    assert dispatcher.answered(2, 20.0) == (0,)
    assert dispatcher.finished
    assert dispatcher.answered(1, 21.0) == ()
    assert dispatcher.repeated == 1


def test_patience_is_not_lost_over_short_calls() -> None:
    dispatcher = Dispatcher(2, 1)
    dispatcher.join(1)
    dispatcher.join(2)
    dispatcher.next(1, 0.0)
    dispatcher.next(2, 0.0)
    dispatcher.answered(2, 0.001)
    assert dispatcher.next(2, PATIENCE_S - 0.1) is None
    assert dispatcher.next(2, PATIENCE_S) is not None


def test_a_death_while_another_has_the_same_chunk_asks_nobody_else() -> None:
    dispatcher = Dispatcher(1, 1)
    for worker in (1, 2, 3):
        dispatcher.join(worker)
    dispatcher.next(1, 0.0)
    dispatcher._longest = 1.0  # as after an earlier call
    assert dispatcher.next(2, 100.0) is not None
    assert dispatcher.leave(2, died=True) == ()
    assert dispatcher.next(3, 101.0) is not None  # overdue again, as one has it only
    assert dispatcher.answered(3, 102.0) == (0,)


def test_images_may_be_asked_again() -> None:
    dispatcher = Dispatcher(2, 2)
    dispatcher.join(1)
    dispatcher.next(1, 0.0)
    assert dispatcher.answered(1, 1.0) == (0, 1)
    dispatcher.reopen([1])
    assert not dispatcher.finished
    assert (handout := dispatcher.next(1, 1.0)) and handout.chunk == (1,)
