"""One query's agent: a language model that calls tools until it selects masks or gives up.

The rules are those of SAM 3's agent (arXiv 2511.16719; facebookresearch/sam3, sam3/agent): one call a turn, the first
a phrase or a refusal; no phrase twice; overlapping masks removed; the conversation cut back before every turn to the
query, the latest phrase and what followed, so that at most two pictures are in it; a limit on turns. Where their code
raises, the query ends without masks and with a reason.

An agent is a generator: it yields what it wants to know, so that whoever drives it can answer many agents at once.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from lens_bench.finite import MASK_SCORES
from lens_bench.records import Pixels, Tokens
from lens_bench.vlm.chat import Conversation, Picture, Reply, Turn

from . import wording
from .calls import Call, Examine, Malformed, Nothing, Segment, Select, first_call, read_call, read_verdict
from .marks import from_near, with_masks
from .overlap import without_repeats

if TYPE_CHECKING:
    from .concepts import Found, Instance
    from .show import Show


@dataclass(frozen=True, slots=True)
class Ask:
    """Conversations to be continued by the language model."""

    conversations: tuple[Conversation, ...]


@dataclass(frozen=True, slots=True)
class Find:
    """A phrase for SAM 3."""

    phrase: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a query ended.

    Attributes:
        masks: Selected masks; empty where nothing is meant or the model lost its way.
        failure: Why the model's turns could not be followed.
        error: Why one of the two models could not be asked.
        log: Calls with their results, one per line.
        tokens: Of all turns together, where they are known.
    """

    masks: tuple[Instance, ...]
    log: str
    tokens: Tokens | None
    failure: str | None = None
    error: str | None = None


class _Failure(Exception):
    """A turn that cannot be followed."""


class _Unreachable(Exception):
    """One of the two models could not be asked."""


Steps: TypeAlias = "Generator[Ask | Find, list[Reply] | Found, Outcome]"


@dataclass(frozen=True, slots=True)
class Rules:
    """What an agent works under.

    Attributes:
        system: What it is told first.
        examiner: What the model is told that looks at one mask.
        most_turns: Limit of turns; looks at single masks are not counted.
    """

    system: str = wording.SYSTEM
    examiner: str = wording.EXAMINER
    most_turns: int = 100


@dataclass(slots=True)
class Agent:
    """State of one query.

    Attributes:
        since: Turns from the latest phrase on.
        masks: The numbered masks; None before the first phrase.
        shown: Whether the last turn shows them.
        used: Phrases, in order.
    """

    expression: str
    image: Pixels
    show: Show
    rules: Rules
    since: list[Turn] = field(default_factory=list)
    masks: tuple[Instance, ...] | None = None
    shown: bool = False
    used: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)

    def run(self) -> Steps:
        """Work until the end; yields what it wants to know and is sent the answers."""
        try:
            for _ in range(self.rules.most_turns):
                (text,) = yield from self._say([self._conversation()])
                selected = yield from self._follow(text)
                if selected is not None:
                    return self._outcome(selected)
        except _Failure as failure:
            return self._outcome((), failure=str(failure))
        except _Unreachable as error:
            return self._outcome((), error=str(error))
        return self._outcome((), failure=f"no end after {self.rules.most_turns} turns")

    # ------------------------------------------------------------------------------------------ turns

    def _follow(self, text: str) -> Generator[Ask | Find, list[Reply] | Found, tuple[Instance, ...] | None]:
        """Carry out a turn's call; the selected masks where it ends the conversation, else None."""
        call = read_call(text)
        if isinstance(call, Malformed):
            raise _Failure(f"malformed tool call: {call.why}")
        said = Turn("assistant", (first_call(text),))
        if isinstance(call, Nothing):
            self.log.append("report_no_mask")
            return ()
        if isinstance(call, Segment):
            yield from self._segment(call.phrase, said)
            return None
        if self.masks is None:
            raise _Failure(f"malformed tool call: the first call is {_name(call)}, not a phrase or a refusal")
        if isinstance(call, Select):
            numbers = sorted({n for n in call.numbers if 1 <= n <= len(self.masks)})
            self.log.append(f"select_masks_and_return {numbers} of {len(self.masks)}")
            return tuple(self.masks[n - 1] for n in numbers)
        yield from self._examine(said)
        return None

    def _segment(self, phrase: str, said: Turn) -> Generator[Ask | Find, list[Reply] | Found, None]:
        if phrase in self.used:
            self.log.append(f"segment_phrase {phrase!r}: used before")
            self._continue([said], wording.used_before(phrase, self.used))
            return
        self.used.append(phrase)
        found = yield Find(phrase)
        if isinstance(found, list):
            raise TypeError("a phrase was answered with replies")
        if not found.finite:
            raise _Unreachable(MASK_SCORES)
        self.masks = without_repeats(found.instances)
        self.log.append(f"segment_phrase {phrase!r}: {len(self.masks)} masks")
        if self.masks:
            self._continue([said], wording.masks_found(self.expression, len(self.masks)), self._numbered())
        else:
            self._continue([said], wording.nothing_found(self.expression, phrase))

    def _examine(self, said: Turn) -> Generator[Ask | Find, list[Reply] | Found, None]:
        """Ask about every mask on its own and keep the accepted ones."""
        if not self.shown or self.masks is None:
            raise _Failure("malformed tool call: examine_each_mask without masks in the last turn")
        answers = yield from self._say([self._question(mask) for mask in self.masks])
        verdicts = [read_verdict(answer) for answer in answers]
        for verdict in verdicts:
            if isinstance(verdict, Malformed):
                raise _Failure(f"malformed verdict: {verdict.why}")
        self.masks = tuple(m for m, verdict in zip(self.masks, verdicts, strict=True) if verdict == "Accept")
        self.log.append(f"examine_each_mask: {len(self.masks)} of {len(verdicts)} kept")
        # The picture of all masks gives way to the one of those that are left.
        turns = [*self.since[:-1], Turn("user", (wording.AFTER_EXAMINING,)), said]
        if self.masks:
            self._continue(turns, wording.masks_kept(self.expression, len(self.masks)), self._numbered())
        else:
            self._continue(turns, wording.none_kept(self.expression))

    def _continue(self, turns: Sequence[Turn], text: str, picture: Picture | None = None) -> None:
        self.since = [*turns, Turn("user", (text,) if picture is None else (text, picture))]
        self.shown = picture is not None

    # ------------------------------------------------------------------------------------------ conversations

    def _conversation(self) -> Conversation:
        """System text, query, and the turns since the latest phrase."""
        failed = [phrase for phrase in self.used[:-1]] if self.since else []
        asked = Turn("user", (self.show(self.image), wording.query(self.expression, failed)))
        return (Turn("system", (self.rules.system,)), asked, *self.since)

    def _question(self, mask: Instance) -> Conversation:
        alone, near = with_masks(self.image, [mask.mask]), from_near(self.image, mask.mask)
        parts = ("The image: ", self.show(self.image), f"The query: '{self.expression}'. The mask on the image: ")
        asked = Turn("user", (*parts, self.show(alone), "The mask from near by: ", self.show(near)))
        return (Turn("system", (self.rules.examiner,)), asked)

    def _numbered(self) -> Picture:
        masks = self.masks or ()
        return self.show(with_masks(self.image, [m.mask for m in masks], range(1, len(masks) + 1)))

    def _say(self, conversations: Sequence[Conversation]) -> Generator[Ask | Find, list[Reply] | Found, list[str]]:
        replies = yield Ask(tuple(conversations))
        if not isinstance(replies, list):
            raise TypeError("a question was answered with masks")
        self.replies += replies
        for reply in replies:
            if reply.error is not None:
                raise _Unreachable(reply.error)
        return [reply.text for reply in replies]

    def _outcome(self, masks: tuple[Instance, ...], failure: str | None = None, error: str | None = None) -> Outcome:
        counts = [reply.tokens for reply in self.replies]
        known = [c for c in counts if c is not None]
        tokens = Tokens(sum(c.prompt for c in known), sum(c.completion for c in known))
        whole = tokens if known and len(known) == len(counts) else None
        return Outcome(masks, "\n".join(self.log), whole, failure, error)


def _name(call: Call) -> str:
    return "examine_each_mask" if isinstance(call, Examine) else "select_masks_and_return"
