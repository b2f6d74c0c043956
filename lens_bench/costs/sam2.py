"""Work of SAM 2: the Hiera encoder with its feature pyramid, and the mask decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from lens_bench.costs.weights import weight_bytes
from lens_bench.lens.config import whole
from lens_bench.perf.flops import attention, convolution, linear, mlp, padded
from lens_bench.records import Cost

if TYPE_CHECKING:
    from lens_bench.lens.sam import SamPart


@dataclass(frozen=True, slots=True)
class SamCosts:
    """Work of one SAM 2.

    Attributes:
        image_flops: Of encoding one image, the decoder's two 1x1 convolutions over its features included.
        mask_flops: Of decoding one mask without sparse prompt tokens, ``token_flops`` more for each.
        encoder_bytes: Weights of the encoder.
        decoder_bytes: Weights of the decoder.
    """

    image_flops: float
    mask_flops: float
    token_flops: float
    encoder_bytes: float
    decoder_bytes: float

    @staticmethod
    def of(part: SamPart) -> SamCosts:
        """Of a model, on whatever device."""
        config = part.sam2.config
        bare, one = decoder_flops(config, 0), decoder_flops(config, 1)
        return SamCosts(
            image_flops=encoder_flops(config),
            mask_flops=bare,
            token_flops=one - bare,
            encoder_bytes=weight_bytes(part.sam2.vision_encoder),
            decoder_bytes=weight_bytes(part.sam2.mask_decoder),
        )

    def images(self, count: int) -> Cost:
        """Encoding images, the weights read once."""
        return Cost(count * self.image_flops, self.encoder_bytes) if count else Cost()

    def masks(self, tokens: Sequence[int]) -> Cost:
        """Decoding masks with so many sparse prompt tokens, the weights read once."""
        flops = len(tokens) * self.mask_flops + sum(tokens) * self.token_flops
        return Cost(flops, self.decoder_bytes) if tokens else Cost()


def encoder_flops(config: object) -> float:
    """Of one image, from a ``Sam2Config``: patches, blocks, the pyramid, the decoder's ``conv_s0`` and ``conv_s1``."""
    vision = _part(config, "vision_config")
    trunk = _part(vision, "backbone_config")
    widths, blocks, windows = (_whole_list(trunk, n) for n in _PER_STAGE)
    everywhere, stride = set(_whole_list(trunk, "global_attention_blocks")), _first(_part(trunk, "query_stride"))
    kernel, step = _first(_part(trunk, "patch_kernel_size")), _first(_part(trunk, "patch_stride"))
    side = _first(_part(trunk, "image_size")) // step
    total = convolution(side * side, whole(trunk, "num_channels"), whole(trunk, "hidden_size"), kernel)
    number = 0
    grids: list[int] = []
    for stage, count in enumerate(blocks):
        for block in range(count):
            first = stage > 0 and block == 0
            before = widths[stage - 1] if first else widths[stage]
            window = 0 if number in everywhere else windows[stage - 1] if first else windows[stage]
            pooled = stride if first and stage <= whole(trunk, "num_query_pool_stages") else 1
            total += _block(
                side, before, widths[stage], window, pooled, float(cast("float", _part(trunk, "mlp_ratio")))
            )
            side //= pooled
            number += 1
        grids.append(side)
    fpn = whole(vision, "fpn_hidden_size")
    for grid, width in zip(grids, widths, strict=True):
        total += convolution(grid * grid, width, fpn, whole(vision, "fpn_kernel_size"))
    return total + convolution(grids[0] ** 2, fpn, fpn // 8, 1) + convolution(grids[1] ** 2, fpn, fpn // 4, 1)


def decoder_flops(config: object, sparse: int) -> float:
    """Of one mask with so many sparse prompt tokens: two-way transformer, upscaling, hypernetworks, heads."""
    decoder, prompt = _part(config, "mask_decoder_config"), _part(config, "prompt_encoder_config")
    width, hidden = whole(decoder, "hidden_size"), whole(decoder, "mlp_dim")
    depth, layers = whole(decoder, "num_hidden_layers"), whole(decoder, "num_hidden_layers")
    inner = width // whole(decoder, "attention_downsample_rate")
    outputs = whole(decoder, "num_multimask_outputs") + 1
    tokens = sparse + outputs + 2
    grid = _first(_part(prompt, "image_size")) // _first(_part(prompt, "patch_size"))
    pixels = grid * grid
    block = _attend(tokens, tokens, width, width) + mlp(tokens, [width, *[hidden] * (layers - 1), width])
    block += _attend(tokens, pixels, width, inner) + _attend(pixels, tokens, width, inner)
    upscaled = linear(4 * pixels, width, width // 4) + linear(16 * pixels, width // 4, width // 8)
    hyper = outputs * mlp(1, [width, width, width, width // 8])
    heads = mlp(1, [width, *[whole(decoder, "iou_head_hidden_dim")] * (whole(decoder, "iou_head_depth") - 1), outputs])
    heads += mlp(1, [width, width, width, 1])
    return (
        depth * block
        + _attend(tokens, pixels, width, inner)
        + upscaled
        + hyper
        + linear(16 * pixels, width // 8, outputs)
        + heads
    )


_PER_STAGE = ("embed_dim_per_stage", "blocks_per_stage", "window_size_per_stage")


def _block(side: int, before: int, width: int, window: int, pooled: int, ratio: float) -> float:
    """One block of Hiera over a grid of ``side`` (arXiv 2306.00989); windows are padded, as SAM 2 pads them."""
    seen = padded(side, window) if window else side
    tokens, keys = seen * seen, window * window if window else side * side
    queries = tokens // pooled**2
    after = side // pooled
    total = linear(tokens, before, 3 * width) + attention(queries, keys, width) + linear(queries, width, width)
    total += mlp(after * after, [width, int(width * ratio), width])
    return total + (linear(side * side, before, width) if before != width else 0.0)


def _attend(queries: int, keys: int, width: int, inner: int) -> float:
    """SAM's attention: projections of queries, keys and values to ``inner``, and back."""
    return linear(2 * queries + 2 * keys, width, inner) + attention(queries, keys, inner)


def _part(config: object, name: str) -> object:
    """A field of one of transformers' configuration objects, whose parts are typed loosely."""
    value: object = getattr(config, name)
    return value


def _first(value: object) -> int:
    """A side: one number, or a list of equal ones."""
    found = value[0] if isinstance(value, Sequence) else value
    if not isinstance(found, int):
        raise TypeError(f"a size is {value!r}")
    return found


def _whole_list(config: object, name: str) -> list[int]:
    return [int(v) for v in cast("Sequence[int]", getattr(config, name))]
