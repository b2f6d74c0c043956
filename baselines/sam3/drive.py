"""Many agents side by side: in each round what all of them want to know is asked at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from lens_bench.vlm.chat import Conversation, Reply

from .agent import Ask, Find, Outcome, Steps

if TYPE_CHECKING:
    from .concepts import Found

AskAll: TypeAlias = "Callable[[Sequence[Conversation]], list[Reply]]"
FindAll: TypeAlias = "Callable[[Sequence[tuple[int, str]]], list[Found]]"


def drive(agents: Sequence[Steps], ask: AskAll, find: FindAll) -> list[Outcome]:
    """Run agents to their ends; outcomes in their order.

    Args:
        agents: Their steps, not begun.
        ask: Continues conversations.
        find: Finds phrases, each given with the number of its agent.
    """
    done: dict[int, Outcome] = {}
    wanted: dict[int, Ask | Find] = {}
    answers: dict[int, list[Reply] | Found | None] = dict.fromkeys(range(len(agents)))
    while answers:
        for number, answer in answers.items():
            try:
                # A generator begins with None.
                wanted[number] = agents[number].send(answer)  # type: ignore[arg-type]
            except StopIteration as end:
                done[number] = end.value
        answers = {**_asked(wanted, ask), **_found(wanted, find)}
        wanted = {}
    return [done[number] for number in range(len(agents))]


def _asked(wanted: dict[int, Ask | Find], ask: AskAll) -> dict[int, list[Reply]]:
    questions = {number: want.conversations for number, want in wanted.items() if isinstance(want, Ask)}
    replies = iter(ask([conversation for many in questions.values() for conversation in many]))
    return {number: [next(replies) for _ in many] for number, many in questions.items()}


def _found(wanted: dict[int, Ask | Find], find: FindAll) -> dict[int, Found]:
    phrases = [(number, want.phrase) for number, want in wanted.items() if isinstance(want, Find)]
    return dict(zip((number for number, _ in phrases), find(phrases) if phrases else [], strict=True))
