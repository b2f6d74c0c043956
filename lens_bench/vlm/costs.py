"""Work of models of the Qwen-VL families by stage: vision tower, reading prompts, writing answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from lens_bench.costs.language import Language
from lens_bench.costs.qwen_tower import tower_flops
from lens_bench.costs.weights import weight_bytes
from lens_bench.lens.config import whole
from lens_bench.records import Cost, Size, Tokens
from lens_bench.vlm.chat import Conversation, Picture, Reply
from lens_bench.vlm.prompting import pictures_of, prompt_text
from lens_bench.vlm.shared import image_marker

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, ProcessorMixin

_FAMILIES = frozenset({"qwen2_vl", "qwen2_5_vl", "qwen3_vl"})


@dataclass(frozen=True, slots=True)
class _Spoken:
    """A conversation and its answer.

    Attributes:
        head: What it begins with, up to the end of its last picture; those that begin alike share that.
        pictures: Of it.
        before: Tokens of the head; 0 without pictures.
        prompt: Tokens of the whole prompt.
        written: Tokens of the answer.
    """

    head: str
    pictures: tuple[Picture, ...]
    before: int
    prompt: int
    written: int


class VlmCosts:
    """Work of one model; it may lie on the meta device.

    Args:
        model: Of one of the families.
        processor: Of the same checkpoint.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin) -> None:
        language = cast("nn.Module", model.get_decoder())  # type: ignore[no-untyped-call]
        blocks = language.get_submodule("layers")
        output = cast("nn.Module", model.get_output_embeddings())  # type: ignore[no-untyped-call]
        self._language = Language.of(model.config.get_text_config(), blocks, output, model.dtype.itemsize)
        self._vision: object = model.config.vision_config
        self._tower_bytes = weight_bytes(model.get_submodule("model.visual"))
        self._processor = processor
        self._marker = image_marker(processor)

    @staticmethod
    def of(model: PreTrainedModel, processor: ProcessorMixin) -> VlmCosts | None:
        """None for a model of another family, whose work nobody counts here."""
        return VlmCosts(model, processor) if model.config.model_type in _FAMILIES else None

    def stages(self, conversations: Sequence[Conversation], replies: Sequence[Reply]) -> dict[str, Cost]:
        """Work of ``vision tower``, ``prefill`` and ``decode``.

        Pictures are those of the call, each once; a beginning that several conversations share is read once.

        Args:
            conversations: What was said.
            replies: What came back, in order; those without token counts were no work.
        """
        rows = [
            self._spoken(conversation, reply.tokens)
            for conversation, reply in zip(conversations, replies, strict=True)
            if reply.tokens is not None
        ]
        pictures = {picture for row in rows for picture in row.pictures}
        seen = sum(tower_flops(self._vision, self._grid(picture.size)) for picture in pictures)
        return {
            "vision tower": Cost(seen, self._tower_bytes) if pictures else Cost(),
            "prefill": self._prefill(rows),
            "decode": self._language.steps([(row.prompt, row.written) for row in rows]),
        }

    def _prefill(self, rows: Sequence[_Spoken]) -> Cost:
        """Prompts and the scores of the first tokens. Beginnings are read apart where any is shared."""
        shown, language = [row for row in rows if row.pictures], self._language
        heads = {(row.head, row.pictures): row.before for row in shown}
        whole_rows = [(row.prompt, row.prompt) for row in rows if not row.pictures or len(heads) == len(shown)]
        total = language.read(whole_rows) + language.score(len(rows))
        if len(heads) < len(shown):
            total += language.read([(before, before) for before in heads.values()])
            total += language.read([(row.prompt - row.before, row.prompt) for row in shown])
        return total

    def _spoken(self, conversation: Conversation, tokens: Tokens) -> _Spoken:
        pictures = tuple(pictures_of(conversation))
        if not pictures:
            return _Spoken("", (), 0, tokens.prompt, tokens.completion)
        text, marker, _ = prompt_text(self._processor, conversation).rpartition(self._marker)
        head = text + marker
        own = len(self._processor.tokenizer(head, add_special_tokens=False)["input_ids"]) - len(pictures)
        merged = whole(self._vision, "spatial_merge_size") ** 2
        visual = sum(self._grid(p.size)[1] * self._grid(p.size)[2] // merged for p in pictures)
        return _Spoken(head, pictures, own + visual, tokens.prompt, tokens.completion)

    def _grid(self, size: Size) -> tuple[int, int, int]:
        """Patches of a picture as it is handed over, which the processor does not size again."""
        patch = whole(self._vision, "patch_size")
        return (1, size[0] // patch, size[1] // patch)
