"""The loop that one writes first: per expression one ``generate`` of transformers, then one mask.

Unlike the authors' loop it batches nothing, but it does not read the prompt twice where it need not: under the
backbone's own positions (``mrope``) the context queries continue on the keys and values that ``generate`` returns. The
released checkpoints' positions (``lens-1d``) are not those of generation: there a second full pass gives the queries.
It runs on our modules, so that only the way of working differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from lens_bench.lens.cache import Cache
from lens_bench.lens.images import Patching, Prepared, prepare
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.positions import image_tokens, next_position
from lens_bench.lens.prompts import Prompter
from lens_bench.lens.sam import upsample
from lens_bench.records import BoolMask, Pixels


@dataclass(frozen=True)
class Result:
    ids: tuple[int, ...]
    text: str
    mask: BoolMask


@torch.inference_mode()
def segment(model: LensModel, prompter: Prompter, pixels: Pixels, expression: str) -> Result:
    """Answer one expression, sharing nothing with any other."""
    recipe, device = prompter.recipe, model.device
    image = prepare(pixels, recipe, Patching(model.patch, model.merge), model.sam.image_size)
    placeholders = [model.image_token] * image_tokens(image.grid, model.merge)
    prompt = [*prompter.before, *placeholders, *prompter.after(expression)]
    ids = torch.tensor([prompt], device=device)
    budget = recipe.max_new_tokens if recipe.max_new_tokens is not None else recipe.answer_budget(len(prompt))
    out = model.qwen.generate(  # type: ignore[misc]  # a mixin that is typed for one class
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=image.patches.to(device, model.text_dtype),
        image_grid_thw=torch.tensor([image.grid], device=device),
        mm_token_type_ids=(ids == model.image_token).int(),
        max_new_tokens=budget,
        do_sample=False,
        eos_token_id=sorted(prompter.ends),
        pad_token_id=prompter.padding,
        return_dict_in_generate=True,
    )
    assert not isinstance(out, Tensor)
    answer = tuple(out.sequences[0, len(prompt) :].tolist())
    if model.config.positions == "mrope":
        queries = _continued(model, prompter, image, prompt, answer, cast("Cache", out.past_key_values))
    else:
        whole = out.sequences
        visual = model.see(image.patches.to(device), [image.grid])
        queries = model.joint(whole, (whole != prompter.padding).long(), visual, [image.grid]).queries
    prompts = model.prompts(queries)
    features = model.sam.features(image.square[None].to(device, prompts.dtype))
    mask = (upsample(model.sam.masks(features, prompts)[0], image.original) > 0).cpu().numpy()
    return Result(answer, prompter.text(answer), np.asarray(mask))


def _continued(
    model: LensModel, prompter: Prompter, image: Prepared, prompt: list[int], answer: tuple[int, ...], cache: Cache
) -> Tensor:
    """States [1, M, D] at the queries, read behind what ``generate`` has read: all but the last token."""
    count, device = model.head.config.queries, model.device
    behind = len(prompt) - len(prompter.before) - image_tokens(image.grid, model.merge) + len(answer) - 1
    start = next_position("mrope", len(prompter.before), image.grid, model.merge) + behind
    embeds = model.head.queries.to(model.text_dtype)
    if answer[-1] != prompter.padding:
        last = model.embed(torch.tensor([[answer[-1]]], device=device), [])
        embeds = torch.cat([last, embeds], dim=1)
    length, past = embeds.shape[1], len(prompt) + len(answer) - 1
    positions = torch.arange(start, start + length, device=device).expand(3, 1, -1)
    mask = torch.ones(length, past + length, dtype=torch.bool, device=device).tril(past)
    return model.read(embeds, positions, mask[None, None], cache)[:, -count:]
