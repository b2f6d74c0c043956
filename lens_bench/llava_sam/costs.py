"""Work of LISA and GLaMM by stage: CLIP, LLaMA, SAM. Only what an answer needs is counted, as in ``lens.costs``."""

from __future__ import annotations

from collections.abc import Sequence

from lens_bench.lens.config import whole
from lens_bench.lens.costs import Language
from lens_bench.lens.sam_costs import weight_bytes
from lens_bench.llava_sam.engine import Answer, Ask
from lens_bench.llava_sam.modeling import LlavaSam
from lens_bench.perf.flops import attention, convolution, linear, mlp, padded
from lens_bench.records import Cost
from lens_bench.sam.model import PATCH, PROMPT_WIDTH, SIDE, WINDOW, SamSize


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


def sam_image_flops(size: SamSize) -> float:
    """SAM's ViT on one image (arXiv 2304.02643): windows are padded, relative positions cost two small products."""
    side, width = SIDE // PATCH, size.width
    total = convolution(side * side, 3, width, PATCH)
    for block in range(size.depth):
        within = side if block in size.global_blocks else WINDOW
        tokens = side * side if within == side else padded(side, WINDOW) ** 2
        total += linear(tokens, width, 4 * width) + attention(tokens, within * within, width)
        total += 2 * linear(tokens, width, within) + mlp(side * side, [width, 4 * width, width])
    return (
        total
        + convolution(side * side, width, PROMPT_WIDTH, 1)
        + convolution(side * side, PROMPT_WIDTH, PROMPT_WIDTH, 3)
    )


def sam_mask_flops(sparse: int = 1) -> float:
    """SAM's decoder for one mask with so many sparse tokens."""
    width, inner, pixels, tokens = PROMPT_WIDTH, PROMPT_WIDTH // 2, (SIDE // PATCH) ** 2, sparse + 5

    def attend(queries: int, keys: int, inside: int) -> float:
        return linear(2 * queries + 2 * keys, width, inside) + attention(queries, keys, inside)

    block = attend(tokens, tokens, width) + mlp(tokens, [width, 2048, width])
    block += attend(tokens, pixels, inner) + attend(pixels, tokens, inner)
    upscaled = linear(4 * pixels, width, width // 4) + linear(16 * pixels, width // 4, width // 8)
    heads = 4 * mlp(1, [width, width, width, width // 8]) + mlp(1, [width, 256, 256, 4])
    return 2 * block + attend(tokens, pixels, inner) + upscaled + heads + linear(16 * pixels, width // 8, 4)


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
