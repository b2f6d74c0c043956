"""GLaMM: asked as its referring evaluation asks it, with one fixed question, or left to answer for itself."""

from __future__ import annotations

from collections.abc import Sequence

from lens_bench.errors import RunError
from lens_bench.llava_sam.config import GLAMM
from lens_bench.llava_sam.conversation import Turn
from lens_bench.llava_sam.segmenter import Conversation, LlavaSegmenter
from lens_bench.records import ImageTask, ModelOptions, Query

from .draws import lot, pick
from .templates import ANSWERS, QUESTIONS

# num_classes_per_sample of the authors' evaluation: so many expressions share a conversation.
CHAIN = 3


class Glamm(LlavaSegmenter):
    """See ``model.yaml`` for the modes and arguments."""

    def __init__(self, options: ModelOptions) -> None:
        super().__init__(options, GLAMM, lead="The ", follow=" provides an overview of the picture.\n")
        self._chains: dict[str, tuple[Query, ...]] = {}

    def expect(self, tasks: Sequence[ImageTask]) -> None:
        """Note which expressions share a conversation, so that neither resuming nor batching changes an answer."""
        for task in tasks:
            ranked = sorted(task.queries, key=lambda q: lot(self.options.seed, task.image_id, q.sample_id))
            for start in range(0, len(ranked), CHAIN):
                chain = tuple(ranked[start : start + CHAIN])
                self._chains.update((query.sample_id, chain) for query in chain)

    def conversations(self, tasks: Sequence[ImageTask]) -> list[Conversation]:
        """``glamm-paper``: the whole chain of every query asked; otherwise one conversation per query."""
        if self.text("mode") != "glamm-paper":
            return [
                Conversation(number, (self._fixed(query),), (query.sample_id,))
                for number, task in enumerate(tasks)
                for query in task.queries
            ]
        chains = {(number, self._chain(query)): None for number, task in enumerate(tasks) for query in task.queries}
        return [
            Conversation(number, tuple(self._drawn(q) for q in chain), tuple(q.sample_id for q in chain))
            for number, chain in chains
        ]

    def _chain(self, query: Query) -> tuple[Query, ...]:
        chain = self._chains.get(query.sample_id)
        if chain is None:
            raise RunError(f"{query.sample_id} was not announced: glamm-paper has to know all expressions of an image")
        return chain

    def _drawn(self, query: Query) -> Turn:
        """A random question and answer, a function of the seed and the expression's id."""
        seed, name = self.options.seed, query.sample_id
        question = pick(QUESTIONS, seed, "question", name).replace("{expression}", query.expression.strip().lower())
        return Turn(question, pick(ANSWERS, seed, "answer", name))

    def _fixed(self, query: Query) -> Turn:
        text = query.expression.strip()
        question = self.question("sentence", text) if query.is_sentence else self.question("phrase", text.lower())
        return Turn(question, None if self.text("mode") == "generated" else self.text("answer"))
