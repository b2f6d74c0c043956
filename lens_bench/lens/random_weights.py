"""Models at their full size without a checkpoint: weights drawn on the device, and words that need no vocabulary file.

For measuring speed, which does not depend on what the weights are as long as no number overflows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from lens_bench.lens.config import LensConfig
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.placing import BLOCKS, Precision, choose_attention, finish
from lens_bench.lens.prompts import HubTokenizer
from lens_bench.lens.spread import Spread, link

# Ids of the special tokens of Qwen2-VL and Qwen2.5-VL (tokenizer_config.json of the released models).
QWEN_SPECIAL: Mapping[str, int] = {
    "<|endoftext|>": 151643,
    "<|im_start|>": 151644,
    "<|im_end|>": 151645,
    "<|vision_start|>": 151652,
    "<|vision_end|>": 151653,
    "<|vision_pad|>": 151654,
    "<|image_pad|>": 151655,
    "<|video_pad|>": 151656,
}


def random_lens(config: LensConfig, seed: int, device: str | Sequence[str], precision: Precision) -> LensModel:
    """A LENS of this shape on its devices, in evaluation mode; its weights are a function of seed and device kind."""
    devices = [device] if isinstance(device, str) else list(device)
    with torch.device("meta"):
        model = LensModel(config)
    language = model.qwen.model.language_model
    spread = Spread.over(devices, language.layers, model)
    draw(model, seed, devices[0], precision.of, lambda name: spread.place(name, BLOCKS))
    finish(model, devices[0])
    link(language, spread, devices)
    choose_attention(model)
    return model.eval()


@torch.no_grad()
def draw(
    module: nn.Module,
    seed: int,
    device: str,
    dtype: Callable[[str], torch.dtype],
    place: Callable[[str], torch.device] | None = None,
) -> None:
    """Give a module that lies on the meta device its parameters and stored buffers, one at a time.

    Matrices are normal with the deviation that keeps signals at their size; vectors are near one (weights) or zero.

    Args:
        module: On the meta device.
        seed: Of all draws.
        device: Where to, and where everything is drawn.
        dtype: Precision by name.
        place: Where to by name, if elsewhere.
    """
    generator = torch.Generator(device=device).manual_seed(seed)
    for where, part in module.named_modules():
        for kind, tensors in (("parameter", part._parameters), ("buffer", part._buffers)):
            for leaf, tensor in tensors.items():
                if tensor is None or not tensor.is_meta or leaf in part._non_persistent_buffers_set:
                    continue
                name = f"{where}.{leaf}" if where else leaf
                floating = tensor.is_floating_point()
                value = torch.empty(tensor.shape, device=device, dtype=dtype(name) if floating else tensor.dtype)
                _fill(value, leaf, generator)
                value = value if place is None else value.to(place(name))
                tensors[leaf] = nn.Parameter(value, requires_grad=floating) if kind == "parameter" else value


def _fill(value: Tensor, leaf: str, generator: torch.Generator) -> None:
    if not value.is_floating_point():
        value.zero_()
    elif value.ndim < 2:
        value.normal_(float(leaf.endswith("weight")), 0.05, generator=generator)
    else:
        value.normal_(0.0, 1 / math.sqrt(math.prod(value.shape[1:])), generator=generator)


def word_tokenizer(special: Mapping[str, int] = QWEN_SPECIAL, end: str = "<|im_end|>") -> HubTokenizer:
    """A tokenizer that needs no file: every word, digit and punctuation mark is a token, and all have the same id.

    That is about as many tokens as the released vocabularies make of English; speed does not depend on which they are.

    Args:
        special: Special tokens with their ids, ``<|endoftext|>`` and ``end`` among them.
        end: The one that ends an answer.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    from lens_bench.lens.hf import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel(vocab={"word": 0, **special}, unk_token="word"))  # noqa: S106
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"), "isolated")
    inner.add_special_tokens(list(special))
    names = {"pad_token": "<|endoftext|>", "eos_token": end, "unk_token": "word"}
    return HubTokenizer(PreTrainedTokenizerFast(tokenizer_object=inner, **names))  # type: ignore[no-untyped-call]
