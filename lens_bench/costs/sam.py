"""Work of the first SAM: its ViT, and the mask decoder."""

from __future__ import annotations

from lens_bench.perf.flops import attention, convolution, linear, mlp, padded
from lens_bench.sam.model import PATCH, PROMPT_WIDTH, SIDE, WINDOW, SamSize


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
