"""LISA: asked as the authors' validation asks it (forced answer), or left to answer for itself."""

from __future__ import annotations

from collections.abc import Sequence

from lens_bench.llava_sam.config import LISA
from lens_bench.llava_sam.conversation import Turn
from lens_bench.llava_sam.segmenter import Conversation, LlavaSegmenter
from lens_bench.records import ImageTask, ModelOptions, Query


class Lisa(LlavaSegmenter):
    """One conversation of one turn per expression. See ``model.yaml`` for the arguments."""

    def __init__(self, options: ModelOptions) -> None:
        super().__init__(options, LISA, lead="", follow="\n ")

    def conversations(self, tasks: Sequence[ImageTask]) -> list[Conversation]:
        """One per query."""
        return [
            Conversation(number, (self.turn(query),), (query.sample_id,))
            for number, task in enumerate(tasks)
            for query in task.queries
        ]

    def turn(self, query: Query) -> Turn:
        """The question, and the answer where it is forced.

        LISA's validation lower-cases the expressions of referring sets and keeps the case of ReasonSeg's, short ones
        included. Which of the two it is shows in ``is_sentence``: referring sets do not say, ReasonSeg always does.
        """
        text = query.expression.strip()
        if query.is_sentence:
            question = self.question("sentence", text)
        else:
            question = self.question("phrase", text.lower() if query.is_sentence is None else text)
        return Turn(question, self.text("answer") if self.text("mode") == "teacher-forced" else None)
