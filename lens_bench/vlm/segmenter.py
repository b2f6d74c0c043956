"""A vision-language model that says where, and SAM that says which pixels: the pipeline that baselines share.

Per image: sizing, SAM's features (only where some answer needs them). Per expression: one conversation, one or more
prompts for SAM 2. An answer that names nothing is ``no_mask`` and stays in every denominator; a model that could not be
asked is ``error``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from lens_bench import masks
from lens_bench.answers import why_no_box
from lens_bench.finite import MASK_SCORES
from lens_bench.perf.clock import StageClock
from lens_bench.records import Box, Cost, ImageTask, Prediction, Query, Size
from lens_bench.sam2.prompts import Painter, SamMask, SamPrompt
from lens_bench.vlm.chat import Conversation, Picture, Reply, Talker
from lens_bench.vlm.sizing import Sizing

Image = TypeVar("Image")


class Manner(Protocol):
    """How a model is asked and its answers are understood."""

    def conversation(self, query: Query, picture: Picture) -> Conversation:
        """What is said to the model about one expression."""
        ...

    def prompts(self, text: str, seen: Size, original: Size) -> tuple[SamPrompt, ...]:
        """What its answer asks of SAM 2, in pixels of the original image; nothing where it names nothing.

        Total: every text has a result.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Asked:
    image: int
    query: Query
    prompts: tuple[SamPrompt, ...]
    reply: Reply


class VlmSegmenter(Generic[Image]):
    """Asks, reads, and paints.

    Args:
        talker: The model.
        sam: SAM 2, or the first SAM.
        manner: How to ask and to read.
        sizing: Of the image that the model sees.
        best_of_three: See ``Sam2.masks``.
        device: Whose clock the stages are measured by.
    """

    def __init__(
        self,
        talker: Talker,
        sam: Painter[Image],
        manner: Manner,
        sizing: Sizing,
        best_of_three: bool,
        device: str = "cpu",
    ) -> None:
        self.talker = talker
        self.sam = sam
        self.manner = manner
        self.sizing = sizing
        self.best_of_three = best_of_three
        self._device = device
        self._clock = StageClock(device)
        self._last: tuple[Sequence[Conversation], Sequence[_Asked]] = (), ()

    def segment(self, tasks: Sequence[ImageTask]) -> list[Prediction]:
        """One prediction per query, tasks and queries in order."""
        self._clock = StageClock(self._device)
        with self._clock.stage("resize"):
            pictures = [Picture(self.sizing.apply(task.rgb)) for task in tasks]
        pairs = [(number, query) for number, task in enumerate(tasks) for query in task.queries]
        conversations = [self.manner.conversation(query, pictures[n]) for n, query in pairs]
        replies = self.talker.ask(conversations, self._clock)
        asked = [
            _Asked(n, query, self._read(reply, pictures[n].size, tasks[n].size), reply)
            for (n, query), reply in zip(pairs, replies, strict=True)
        ]
        self._last = conversations, asked
        painted = self._paint(tasks, asked)
        share = {stage: 1000 * seconds / max(1, len(asked)) for stage, seconds in self._clock.seconds().items()}
        return [_prediction(a, p, tasks[a.image].size, share) for a, p in zip(asked, painted, strict=True)]

    def costs(self) -> Mapping[str, Cost]:
        """Work of the last call by stage."""
        conversations, asked = self._last
        images = {a.image for a in asked if a.prompts}
        return {
            **self.talker.costs(conversations, [a.reply for a in asked]),
            "SAM features": self.sam.image_cost(len(images)),
            "masks": self.sam.mask_cost([prompt for a in asked for prompt in a.prompts]),
        }

    def close(self) -> None:
        """Free the model."""
        self.talker.close()

    def _read(self, reply: Reply, seen: Size, original: Size) -> tuple[SamPrompt, ...]:
        return () if reply.error is not None else self.manner.prompts(reply.text, seen, original)

    def _paint(self, tasks: Sequence[ImageTask], asked: Sequence[_Asked]) -> list[list[SamMask]]:
        """Masks of every answer, one per prompt."""
        needed = sorted({a.image for a in asked if a.prompts})
        encoded = dict(zip(needed, self.sam.encode([tasks[n].rgb for n in needed], self._clock), strict=True))
        with self._clock.stage("masks"):
            wanted = [(encoded[a.image], prompt) for a in asked for prompt in a.prompts]
            found = iter(self.sam.masks(wanted, self.best_of_three))
        return [[next(found) for _ in a.prompts] for a in asked]


def _prediction(asked: _Asked, painted: Sequence[SamMask], size: Size, stages_ms: dict[str, float]) -> Prediction:
    """The record of one answer. A mask of several objects is their union; then no single box was said."""
    name, reply = asked.query.sample_id, asked.reply
    if reply.error is not None:
        return Prediction(name, "error", error=reply.error, stages_ms=stages_ms)
    if not all(p.finite for p in painted):
        return Prediction(name, "error", text=reply.text, error=MASK_SCORES, tokens=reply.tokens, stages_ms=stages_ms)
    if not painted:
        why = why_no_box(reply.text)
        return Prediction(name, "no_mask", text=reply.text, tokens=reply.tokens, stages_ms=stages_ms, error=why)
    box: Box | None = asked.prompts[0].box if len(painted) == 1 else None
    return Prediction(
        name,
        "ok",
        mask=masks.union([p.mask for p in painted], size),
        box=box,
        score=max(p.score for p in painted),
        text=reply.text,
        tokens=reply.tokens,
        stages_ms=stages_ms,
    )
