"""Which kernels attention runs on."""

from __future__ import annotations

from lens_bench.lens.modeling import LensModel


def attention(model: LensModel) -> str:
    """In words, as the parts of a model on its device have it; ``checkpoint.choose_attention`` chooses."""
    language, tower = model.qwen.model.language_model.config, model.qwen.model.visual.config
    names = {"language model": language, "vision tower": tower, "SAM 2": model.sam.sam2.config}
    return "attention: " + ", ".join(f"{name} {config._attn_implementation}" for name, config in names.items())
