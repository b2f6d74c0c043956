"""Any model that writes boxes, and SAM 2."""

from __future__ import annotations

from dataclasses import dataclass

from lens_bench.answers import FRAMES, ORDERS, Frame, Order, box_in_image, read_answer
from lens_bench.errors import UsageError
from lens_bench.records import Query, Size
from lens_bench.sam2.prompts import SamPrompt
from lens_bench.vlm.adapter import VlmAdapter
from lens_bench.vlm.chat import Conversation, Picture, Turn


@dataclass(frozen=True, slots=True)
class BoxManner:
    """Asks one question per expression and reads boxes.

    Attributes:
        question: With the placeholders ``{expression}``, ``{width}`` and ``{height}`` (of the image as sent).
        system: System text; empty for none.
        frame: Of the numbers in an answer.
        order: Of the four numbers of a box.
        every: Take every box of an answer and join their masks, instead of the first alone.
    """

    question: str
    system: str
    frame: Frame
    order: Order
    every: bool

    def conversation(self, query: Query, picture: Picture) -> Conversation:
        """Picture first, then the question."""
        height, width = picture.size
        sizes = self.question.replace("{width}", str(width)).replace("{height}", str(height))
        asked = Turn("user", (picture, sizes.replace("{expression}", query.expression)))
        return (Turn("system", (self.system,)), asked) if self.system else (asked,)

    def prompts(self, text: str, seen: Size, original: Size) -> tuple[SamPrompt, ...]:
        """A prompt per box that lies in the image."""
        said = read_answer(text, self.frame, self.order).boxes
        inside = [box_in_image(box, seen, original) for box in said]
        boxes = [box for box in inside if box is not None]
        return tuple(SamPrompt(box) for box in (boxes if self.every else boxes[:1]))


class VlmSam(VlmAdapter):
    """See ``model.yaml`` for the arguments."""

    def manner(self) -> BoxManner:
        """From the arguments ``question``, ``system``, ``coordinates``, ``order`` and ``objects``."""
        question, frame, order = (self.args.text(name) for name in ("question", "coordinates", "order"))
        if "{expression}" not in question:
            raise UsageError(f"the question of model {self.options.name} lacks the placeholder {{expression}}")
        if frame not in FRAMES or order not in ORDERS:
            raise UsageError(f"model {self.options.name} reads no boxes in {frame}, {order}")
        every = self.args.text("objects") == "all"
        return BoxManner(question, self.args.text("system"), frame, order, every)
