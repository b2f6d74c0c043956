"""Who is hired, waited for, replaced and let go; with workers that exist on paper, on a clock of their own."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from lens_bench.errors import CheckpointError, LensBenchError, RunError, UsageError
from lens_bench.records import LoadReport
from lens_bench.run.workers.dispatch import Dispatcher
from lens_bench.run.workers.foreman import EARLY_DEATHS, Done, Foreman, GivenUp
from lens_bench.run.workers.pool import Event, Identity, Lost, Ready, Refused

from .paper_pool import PaperPool


class Ear:
    def __init__(self) -> None:
        self.counts: list[tuple[int, int]] = []
        self.notes: list[str] = []

    def count(self, ready: int, wanted: int) -> None:
        self.counts.append((ready, wanted))

    def note(self, message: str) -> None:
        self.notes.append(message)


def foreman(
    pool: PaperPool[int, list[int]],
    wanted: int | None,
    ear: Ear | None = None,
    accept: Callable[[Identity], LensBenchError | None] = lambda _: None,
) -> Foreman[int, list[int]]:
    return Foreman(pool, wanted, accept, ear or Ear())


def work_off(team: Foreman[int, list[int]], images: int, batch: int = 1) -> tuple[list[int], list[int]]:
    answered: list[int] = []
    given_up: list[int] = []
    for come in team.run(Dispatcher(images, batch), list(range(images))):
        if isinstance(come, Done):
            assert come.answer == list(come.chunk)
            answered += come.fresh
        else:
            assert isinstance(come, GivenUp)
            given_up += come.images
    return sorted(answered), given_up


def test_all_are_ready_before_the_clock_starts_and_share_the_work() -> None:
    pool, ear = PaperPool(4), Ear()
    team = foreman(pool, 4, ear)
    team.gather(100)
    assert len(team.ready) == 4
    assert ear.counts[-1] == (4, 4)
    began = pool.time
    assert work_off(team, 100) == (list(range(100)), [])
    assert pool.time - began == 25
    assert (team.lost, team.late) == (0, 0)


def test_no_more_are_hired_than_there_is_work() -> None:
    pool = PaperPool(9)
    team = foreman(pool, 9)
    team.gather(2)
    assert pool.started == 2
    work_off(team, 2)
    team.gather(5)  # the next split has more
    assert pool.started == 5


def test_those_without_room_are_not_waited_for_and_join_when_there_is_some() -> None:
    pool = PaperPool(1)
    team = foreman(pool, 3)
    team.gather(30)
    assert len(team.ready) == 1
    pool.at.append((10.0, lambda: (setattr(pool, "places", 3), pool._place())[0]))
    began = pool.time
    assert work_off(team, 30)[0] == list(range(30))
    assert {worker for worker, _ in pool.asked} == {1, 2, 3}
    assert pool.time - began < 20
    assert team.late == 2


@pytest.mark.parametrize("later", [1, 5])
def test_auto_follows_the_room_there_is(later: int) -> None:
    pool = PaperPool(2)
    team = foreman(pool, None)
    team.gather(100)
    assert len(team.ready) == 2
    pool.at.append((10.0, lambda: setattr(pool, "places", later)))
    work_off(team, 100)
    assert pool.started == max(2, later)


def test_a_straggler_is_not_waited_for_long() -> None:
    pool = PaperPool(2, load_s=lambda worker: 3.0 if worker == 1 else 1e6)
    team = foreman(pool, 2)
    team.gather(50)
    assert list(team.ready) == [1]
    assert 10 < pool.time < 30


def test_who_was_lost_is_replaced_and_the_work_is_done() -> None:
    pool, ear = PaperPool(3), Ear()
    team = foreman(pool, 3, ear)
    team.gather(40)
    pool.doomed = {7}
    answered, given_up = work_off(team, 40, batch=4)
    assert (answered, given_up) == ([i for i in range(40) if i != 7], [7])
    assert team.lost == 6  # 1 + log2 4 + 3
    assert 3 < pool.started <= 9  # fewer are needed near the end
    assert len(ear.notes) == 6
    assert all(re.fullmatch(r"worker \d on node\d \(process \d\) was lost: killed", note) for note in ear.notes)


def test_the_first_error_of_loading_is_what_a_command_ends_with() -> None:
    errors = [CheckpointError("no weights", "look there"), CheckpointError("another")]
    pool = PaperPool(2, fate=lambda worker: Refused(worker, errors[worker - 1]))
    with pytest.raises(CheckpointError) as raised:
        foreman(pool, 2).gather(10)
    assert raised.value is errors[0]


def test_a_node_without_the_model_costs_only_itself() -> None:
    def fate(worker: int) -> Event[list[int]]:
        if worker == 2:
            return Refused(worker, CheckpointError("no weights"))
        return Ready(worker, LoadReport(), 3.0)

    pool, ear = PaperPool(3, fate), Ear()
    team = foreman(pool, 3, ear)
    team.gather(50)
    assert sorted(team.ready) == [1, 3]
    assert work_off(team, 50)[0] == list(range(50))
    assert pool.started == 3
    assert team.lost == 0


def test_a_worker_that_would_answer_otherwise_is_turned_away_before_it_loads() -> None:
    def accept(identity: Identity) -> LensBenchError | None:
        return UsageError("other torch") if identity.pid == 1 else None

    team = foreman(PaperPool(2), 2, accept=accept)
    team.gather(10)
    assert list(team.ready) == [2]


def test_workers_that_die_while_loading_are_not_replaced_for_ever() -> None:
    pool = PaperPool(2, fate=lambda worker: Lost(worker, "out of memory"))
    with pytest.raises(RunError, match="workers in a row died before they had loaded the model: out of memory"):
        foreman(pool, 2).gather(10)
    assert pool.started <= EARLY_DEATHS + 1


def test_who_can_load_works_on_where_others_die() -> None:
    def fate(worker: int) -> Event[list[int]]:
        return Ready(worker, LoadReport(), 3.0) if worker == 1 else Lost(worker, "out of memory")

    pool = PaperPool(2, fate)
    team = foreman(pool, 2)
    team.gather(30)
    assert work_off(team, 30)[0] == list(range(30))
    assert pool.started == 1 + EARLY_DEATHS


def test_a_dismissed_worker_is_heard_of_no_more() -> None:
    pool = PaperPool(2)
    team = foreman(pool, 2)
    team.gather(10)
    dispatcher = Dispatcher(10, 1)
    answered: list[int] = []
    for come in team.run(dispatcher, list(range(10))):
        assert isinstance(come, Done)
        if come.worker == 1 and 1 in team.members:
            dispatcher.reopen(come.chunk)
            dispatcher.leave(1, died=False)
            team.dismiss(1, UsageError("blind"))
        else:
            answered += come.fresh
    assert sorted(answered) == list(range(10))
    assert pool.started == 2
