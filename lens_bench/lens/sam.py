"""SAM 2 as LENS uses it: image features once per image, then one mask per prompt token.

transformers' ``Sam2Model`` holds the weights; its own forward is not used, because it computes features without
gradients and accepts points, boxes and masks but no ready-made prompt token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lens_bench.lens.config import whole
from lens_bench.lens.hf import Sam2Config, Sam2Model


@dataclass(frozen=True, slots=True)
class SamFeatures:
    """What the mask decoder reads of B images.

    Attributes:
        image: [B, C, S/16, S/16], the memory-free embedding added.
        fine: [B, C/8, S/4, S/4].
        middle: [B, C/4, S/8, S/8].
    """

    image: Tensor
    fine: Tensor
    middle: Tensor

    def rows(self, index: Tensor) -> SamFeatures:
        """Features of the images at ``index`` [N], repeated where an index repeats."""
        return SamFeatures(self.image[index], self.fine[index], self.middle[index])

    def row(self, number: int) -> SamFeatures:
        """Features of one image, still with a leading axis."""
        return SamFeatures(*(t[number : number + 1] for t in (self.image, self.fine, self.middle)))

    @staticmethod
    def stack(parts: list[SamFeatures]) -> SamFeatures:
        """Join along the image axis."""
        return SamFeatures(
            torch.cat([p.image for p in parts]),
            torch.cat([p.fine for p in parts]),
            torch.cat([p.middle for p in parts]),
        )


class VideoLeftovers(nn.Module):
    """Tensors of SAM 2's video tracker that released LENS checkpoints carry and no image ever reads.

    They are kept so that a checkpoint can be exported with every tensor it came with.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.no_memory_positional_encoding = nn.Parameter(torch.zeros(1, 1, width))
        self.no_object_pointer = nn.Parameter(torch.zeros(1, width))
        self.mask_downsample = nn.Conv2d(1, 1, kernel_size=4, stride=4)
        self.object_pointer_proj = nn.ModuleList(nn.Linear(width, width) for _ in range(3))


class SamPart(nn.Module):
    """SAM 2 behind two functions: ``features`` and ``masks``."""

    def __init__(self, config: Sam2Config) -> None:
        super().__init__()
        self.sam2 = Sam2Model(config)
        # One random matrix in Meta's model, two independent ones in transformers'.
        self.sam2.prompt_encoder.shared_embedding = self.sam2.shared_image_embedding
        self.leftovers = VideoLeftovers(whole(config.prompt_encoder_config, "hidden_size"))
        self.image_size = whole(config.prompt_encoder_config, "image_size")

    def features(self, pixels: Tensor) -> SamFeatures:
        """Encode images.

        Args:
            pixels: [B, 3, S, S], normalised with ImageNet's mean and deviation.
        """
        decoder = self.sam2.mask_decoder
        levels = self.sam2.vision_encoder(pixels, return_dict=True).fpn_hidden_states
        fine, middle, image = levels
        embedding = self.sam2.no_memory_embedding.view(1, -1, 1, 1)
        return SamFeatures(image + embedding, decoder.conv_s0(fine), decoder.conv_s1(middle))

    def masks(self, features: SamFeatures, prompts: Tensor) -> Tensor:
        """Decode one mask per prompt token.

        In evaluation mode the decoder picks dynamically between its single mask and the best of three, as SAM 2 does;
        in training mode it always gives the single mask.

        Args:
            features: Of N images, one per prompt.
            prompts: [N, 1, C], one sparse token each.

        Returns:
            Logits [N, S/4, S/4].
        """
        positions = self.sam2.get_image_wide_positional_embeddings().to(prompts.dtype)
        dense = self.sam2.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1)
        logits: Tensor = self.sam2.mask_decoder(
            image_embeddings=features.image,
            image_positional_embeddings=positions.expand(len(prompts), -1, -1, -1),
            sparse_prompt_embeddings=prompts.unsqueeze(1),
            dense_prompt_embeddings=dense.expand_as(features.image),
            multimask_output=False,
            high_resolution_features=[features.fine, features.middle],
        )[0]
        return logits[:, 0, 0]


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Stretch logits [h, w] to ``size`` (height, width), bilinear in float32 without antialiasing; LENS' own rule."""
    return functional.interpolate(logits.float()[None, None], size, mode="bilinear", align_corners=False)[0, 0]
