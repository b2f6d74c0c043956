"""What is used of transformers, imported behind the torchvision guard; the rest of the package takes it from here."""

from __future__ import annotations

from lens_bench.torchvision_guard import guard_torchvision

guard_torchvision()

from transformers import (  # noqa: E402
    AttentionInterface,
    AttentionMaskInterface,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Sam2Config,
    Sam2Model,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward  # noqa: E402
from transformers.masking_utils import sdpa_mask  # noqa: E402
from transformers.utils.import_utils import is_flash_attn_2_available  # noqa: E402

__all__ = [
    "AttentionInterface",
    "AttentionMaskInterface",
    "AutoTokenizer",
    "PreTrainedTokenizerBase",
    "PreTrainedTokenizerFast",
    "Qwen2VLConfig",
    "Qwen2VLForConditionalGeneration",
    "Qwen2_5_VLConfig",
    "Qwen2_5_VLForConditionalGeneration",
    "Sam2Config",
    "Sam2Model",
    "is_flash_attn_2_available",
    "sdpa_attention_forward",
    "sdpa_mask",
]
