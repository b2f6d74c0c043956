"""GLaMM's questions and answers about one referent (tools/utils of groundingLMM at e74865f), for ``glamm-paper``."""

from __future__ import annotations

_PUNCTUATED = (
    "Can you segment the {expression} in this image?",
    "Please segment {expression} in this image.",
    "What is {expression} in this image? Please respond with segmentation mask.",
    "What is {expression} in this image? Please output segmentation mask.",
    "Could you provide a segmentation mask for the {expression} in this image?",
    "Please identify and segment the {expression} in this image.",
    "Where is the {expression} in this picture? Please respond with a segmentation mask.",
    "Can you highlight the {expression} in this image with a segmentation mask?",
)
# Each comes a second time without its last character.
QUESTIONS = (*_PUNCTUATED, *(question[:-1] for question in _PUNCTUATED))
ANSWERS = (
    "It is [SEG].",
    "Sure, [SEG].",
    "Sure, it is [SEG].",
    "Sure, the segmentation result is [SEG].",
    "[SEG].",
)
