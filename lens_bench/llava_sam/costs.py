"""Work of LISA and GLaMM by stage: CLIP, LLaMA, SAM. Only what an answer needs is counted, as in ``costs``."""

from __future__ import annotations

from collections.abc import Sequence

from lens_bench.costs.language import Language
from lens_bench.costs.sam import sam_image_flops, sam_mask_flops
from lens_bench.costs.weights import weight_bytes
from lens_bench.lens.config import whole
from lens_bench.llava_sam.engine import Answer, Ask
from lens_bench.llava_sam.modeling import LlavaSam
from lens_bench.perf.flops import attention, convolution, linear, mlp
from lens_bench.records import Cost
from lens_bench.sam.model import PROMPT_WIDTH


def tower_flops(model: LlavaSam) -> float:
    """CLIP's vision tower and the projector, of one image. All blocks run, also the one behind the layer selected."""
    clip = model.clip.config
    width, grid = whole(clip, "hidden_size"), whole(clip, "image_size") // whole(clip, "patch_size")
    tokens = grid * grid + 1
    block = linear(tokens, width, 4 * width) + attention(tokens, tokens, width)
    block += mlp(tokens, [width, whole(clip, "intermediate_size"), width])
    total = convolution(grid * grid, 3, width, whole(clip, "patch_size")) + whole(clip, "num_hidden_layers") * block
    layers = model.config.family.projector
    return total + mlp(model.image_tokens, [width, *[model.config.width] * layers])


def llava_costs(model: LlavaSam, asks: Sequence[Ask], answers: Sequence[Answer]) -> dict[str, Cost]:
    """Work of one call by stage.

    Args:
        model: That answered.
        asks: What it was asked.
        answers: What it answered, in order.
    """
    item = model.embedding.weight.element_size()
    language = Language.of(model.llama.config, model.llama.model.layers, model.llama.lm_head, item)
    images = {ask.image for ask in asks}
    prefix = len(asks[0].prompt.before) + model.image_tokens if asks else 0
    rows = [(prefix, len(ask.prompt.after), len(answer.ids)) for ask, answer in zip(asks, answers, strict=True)]
    read = language.read([(after, before + after) for before, after, _ in rows])
    written = language.write([(before + after, count) for before, after, count in rows])
    masks = sum(len(answer.masks) for answer in answers)
    painted = len({ask.image for ask, answer in zip(asks, answers, strict=True) if answer.masks})
    sam, width = model.sam, model.config.width
    decoder = weight_bytes(sam.mask_decoder) * painted
    head = masks * mlp(1, [width, width, PROMPT_WIDTH])
    return {
        "vision tower": Cost(len(images) * tower_flops(model), weight_bytes(model.clip, model.projector)),
        "prefix": language.read([(prefix, prefix)] * len(images)),
        "language": read + written,
        "SAM features": Cost(painted * sam_image_flops(model.config.sam), painted * weight_bytes(sam.image_encoder)),
        "masks": Cost(masks * sam_mask_flops() + head, decoder),
    }
