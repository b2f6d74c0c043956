"""How a model is asked: prompt texts, image sizes, answer limits, the frame of its coordinates.

A recipe belongs to a model card or a checkpoint and is part of a run's identity: the same weights under another recipe
are another entry of the leaderboard. The values of the released evaluations are documented where they are set
(``baselines/lens/model.yaml``). Nothing heavy is imported.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# Text of Qwen2-VL's and Qwen2.5-VL's chat template around one image and one question.
QWEN_BEFORE_IMAGE = "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n<|vision_start|>"
QWEN_AFTER_IMAGE = "<|vision_end|>{question}<|im_end|>\n<|im_start|>assistant\n"

GROUNDING_QUESTION = "Output the bounding box of the {expression} in the image."


class Recipe(BaseModel):
    """Everything between an image with an expression and the tensors of the model.

    Attributes:
        system: System text. The released checkpoints were trained with the trailing space.
        question: Question with the placeholder ``{expression}``.
        before_image: Prompt up to the image tokens; may hold ``{system}``.
        after_image: Prompt behind the image tokens; holds ``{question}``.
        strip_caption: Apply the caption stripping of the authors' GroundingSuite evaluation (``prompts.py``).
        sizing: How the language model's image is sized: ``smart`` (both sides multiples of the patch grid, area between
            ``min_pixels`` and ``max_pixels``), ``longest-side`` (longest side to ``longest_side`` pixels, up or down,
            then as ``smart``) or ``square`` (stretched to ``longest_side`` in both directions).
        sam_resize: Kernel that stretches the image for SAM 2: ``pillow`` (antialiased) or ``opencv`` (not).
        max_length: Limit of prompt (image tokens included) plus answer, in tokens.
        max_new_tokens: Limit of the answer alone. At least one of the two limits is set.
        coordinates: Frame of the numbers in an answer: pixels of the resized image, or thousandths of its sides.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    system: str = "You are a helpful assistant. "
    question: str = GROUNDING_QUESTION
    before_image: str = QWEN_BEFORE_IMAGE
    after_image: str = QWEN_AFTER_IMAGE
    strip_caption: bool = False
    sizing: Literal["smart", "longest-side", "square"] = "smart"
    min_pixels: int = Field(default=56 * 56, ge=1)
    max_pixels: int = Field(default=1_000_000, ge=1)
    longest_side: int = Field(default=640, ge=1)
    sam_resize: Literal["pillow", "opencv"] = "pillow"
    max_length: int | None = Field(default=768, ge=1)
    max_new_tokens: int | None = Field(default=None, ge=1)
    coordinates: Literal["pixels", "thousandths"] = "pixels"

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if "{expression}" not in self.question:
            raise ValueError("question needs the placeholder {expression}")
        if "{question}" not in self.after_image:
            raise ValueError("after_image needs the placeholder {question}")
        if self.max_length is None and self.max_new_tokens is None:
            raise ValueError("set max_length or max_new_tokens: an answer needs a limit")
        if self.min_pixels > self.max_pixels:
            raise ValueError("min_pixels is larger than max_pixels")
        return self

    def answer_budget(self, prompt_tokens: int) -> int:
        """How many tokens an answer may have behind a prompt of ``prompt_tokens``; may be zero or negative."""
        limits = []
        if self.max_length is not None:
            limits.append(self.max_length - prompt_tokens)
        if self.max_new_tokens is not None:
            limits.append(self.max_new_tokens)
        return min(limits)
