"""A straightforward evaluation loop, as the authors' evaluation works; the peer our engine is measured with.

For the expressions of one referent at a time: tokenise with the image repeated for each, left-pad, generate; then a
second full forward over prompt and answer with the context queries appended, vision tower included; SAM 2's features
for every expression; one mask after the other. Nothing is shared between expressions or kept between the passes.
It runs on our modules, so that only the way of working differs. transformers' own ``generate`` writes the text, which
also makes this an independent check of our decoding loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lens_bench.lens.images import Patching, prepare
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.positions import image_tokens
from lens_bench.lens.prompts import Prompter
from lens_bench.lens.sam import upsample
from lens_bench.records import BoolMask, Pixels


@dataclass(frozen=True)
class Result:
    ids: tuple[int, ...]
    text: str
    mask: BoolMask
    queries: Tensor


@torch.inference_mode()
def segment_referent(model: LensModel, prompter: Prompter, pixels: Pixels, expressions: Sequence[str]) -> list[Result]:
    """Answer the expressions of one referent as one batch."""
    recipe, device, count = prompter.recipe, model.device, len(expressions)
    image = prepare(pixels, recipe, Patching(model.patch, model.merge), model.sam.image_size)
    tokens = [model.image_token] * image_tokens(image.grid, model.merge)
    rows = [[*prompter.before, *tokens, *prompter.after(text)] for text in expressions]
    longest = max(len(r) for r in rows)
    ids = torch.tensor([[prompter.padding] * (longest - len(r)) + r for r in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(r)) + [1] * len(r) for r in rows], device=device)
    patches = torch.cat([image.patches] * count).to(device)
    budget = recipe.max_new_tokens if recipe.max_new_tokens is not None else recipe.answer_budget(longest)
    out = model.qwen.generate(  # type: ignore[misc]  # a mixin that is typed for one class
        input_ids=ids,
        attention_mask=mask,
        pixel_values=patches.to(model.text_dtype),
        image_grid_thw=torch.tensor([image.grid] * count, device=device),
        mm_token_type_ids=(ids == model.image_token).int(),
        max_new_tokens=budget,
        do_sample=False,
        eos_token_id=sorted(prompter.ends),
        pad_token_id=prompter.padding,
    )
    assert isinstance(out, Tensor)
    grids = [image.grid] * count
    whole = (out != prompter.padding).long()
    visual = model.see(patches, grids)
    joint = model.joint(out, whole, visual, grids)
    prompts = model.prompts(joint.queries)
    squares = torch.stack([image.square] * count).to(device, prompts.dtype)
    features = model.sam.features(squares)
    results = []
    for n in range(count):
        logits = model.sam.masks(features.row(n), prompts[n : n + 1])[0]
        found = (upsample(logits, image.original) > 0).cpu().numpy()
        answer = _cut(out[n, longest:].tolist(), prompter)
        results.append(Result(answer, prompter.text(answer), np.asarray(found), joint.queries[n]))
    return results


def _cut(ids: list[int], prompter: Prompter) -> tuple[int, ...]:
    """An answer up to its end token; what generate pads behind it falls away."""
    for place, token in enumerate(ids):
        if token in prompter.ends:
            return tuple(ids[: place + 1])
    return tuple(ids)
