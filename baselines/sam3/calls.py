"""The four tools of the agent, and reading a call of one out of what a model says. Every text has a result."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal, TypeAlias

SEGMENT, EXAMINE, SELECT, NOTHING = "segment_phrase", "examine_each_mask", "select_masks_and_return", "report_no_mask"
_OPEN, _CLOSE = "<tool>", "</tool>"
_SHOWN = 120


@dataclass(frozen=True, slots=True)
class Segment:
    """Ask SAM 3 for a phrase."""

    phrase: str


@dataclass(frozen=True, slots=True)
class Examine:
    """Look at every mask on its own."""


@dataclass(frozen=True, slots=True)
class Select:
    """Answer with these masks, numbered from 1; numbers that no mask has are dropped."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Nothing:
    """Answer that nothing is meant."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """No call that can be followed; says why."""

    why: str


Call: TypeAlias = Segment | Examine | Select | Nothing
Verdict: TypeAlias = Literal["Accept", "Reject"]


def first_call(text: str) -> str:
    """The text up to the end of its first call: a model is asked for one call a turn and sometimes writes several."""
    return text.split(_CLOSE, 1)[0] + _CLOSE


def read_call(text: str) -> Call | Malformed:
    """The first call of a text: JSON between ``<tool>`` and ``</tool>``, one brace too many at its end forgiven."""
    head = text.split(_CLOSE, 1)[0]
    if _OPEN not in head:
        return Malformed(f"no {_OPEN} in the answer: {_shown(text)}")
    body = head.rpartition(_OPEN)[2].strip().replace("}}}", "}}")
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return Malformed(f"the call is not JSON: {_shown(body)}")
    if not isinstance(content, dict) or not isinstance(content.get("name"), str):
        return Malformed(f"the call names no tool: {_shown(body)}")
    return _call(content["name"], content.get("parameters"), body)


def _call(name: str, parameters: object, body: str) -> Call | Malformed:
    if name == EXAMINE:
        return Examine()
    if name == NOTHING:
        return Nothing()
    if name not in (SEGMENT, SELECT):
        return Malformed(f"there is no tool {name[:40]!r}")
    wanted = "text_prompt" if name == SEGMENT else "final_answer_masks"
    if not isinstance(parameters, dict) or list(parameters) != [wanted]:
        return Malformed(f"{name} takes {wanted} and nothing else: {_shown(body)}")
    value = parameters[wanted]
    if name == SEGMENT and isinstance(value, str) and value.strip():
        return Segment(value.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    if name == SELECT and isinstance(value, list):
        return Select(tuple(n for n in value if isinstance(n, int) and not isinstance(n, bool)))
    return Malformed(f"{name} cannot take this {wanted}: {_shown(body)}")


def read_verdict(text: str) -> Verdict | Malformed:
    """``Accept`` or ``Reject`` in the last ``<verdict>`` of a text; exactly one of them."""
    said = text.rpartition("<verdict>")[2].split("</verdict>", 1)[0]
    accepts, rejects = "Accept" in said, "Reject" in said
    if accepts == rejects:
        return Malformed(f"a mask was examined without a verdict: {_shown(text)}")
    return "Accept" if accepts else "Reject"


def _shown(text: str) -> str:
    return " ".join(text.split())[:_SHOWN] or "(empty)"
