"""Seg-Zero and VisionReasoner: Qwen2.5-VL on a square, SAM 2 on the boxes and points of its answer."""

from __future__ import annotations

from dataclasses import dataclass

from lens_bench.errors import UsageError
from lens_bench.records import Query, Size
from lens_bench.sam2.prompts import SamPrompt
from lens_bench.vlm.adapter import VlmAdapter
from lens_bench.vlm.chat import Conversation, Picture, question

from .reading import Reader, anything, seg_zero, vision_reasoner

READERS: dict[str, Reader] = {"seg-zero": seg_zero, "vision-reasoner": vision_reasoner, "anything": anything}


@dataclass(frozen=True, slots=True)
class SquareManner:
    """Asks their question about the expression in lower case, and reads by one of the rules.

    Attributes:
        question: With the placeholder ``{expression}``.
        strip: Characters cut off both ends of an expression.
        reader: Rule.
        every: Join the masks of all objects, instead of taking the first.
    """

    question: str
    strip: str
    reader: Reader
    every: bool

    def conversation(self, query: Query, picture: Picture) -> Conversation:
        """Picture, then question; the chat template adds its own system text."""
        expression = query.expression.lower().strip(self.strip)
        return question(picture, self.question.replace("{expression}", expression))

    def prompts(self, text: str, seen: Size, original: Size) -> tuple[SamPrompt, ...]:
        """By the rule."""
        found = self.reader(text, seen, original)
        return found if self.every else found[:1]


class SegZero(VlmAdapter):
    """See ``model.yaml`` for the arguments."""

    def manner(self) -> SquareManner:
        """From the arguments ``question``, ``strip``, ``reading`` and ``objects``."""
        question = self.args.text("question")
        if "{expression}" not in question:
            raise UsageError(f"the question of model {self.options.name} lacks the placeholder {{expression}}")
        reader = READERS[self.args.text("reading")]
        return SquareManner(question, self.args.text("strip"), reader, self.args.text("objects") == "all")
