"""SAM from the ``segment-anything`` package, prompted with ready-made tokens or with boxes.

The package's own ``Sam`` and ``SamPredictor`` work in float32 and accept points, boxes and masks only. Models that
write their own prompt token, and that run SAM in bfloat16, need the three parts; they are the package's, under its
names, so that every checkpoint with Meta's names fits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from lens_bench.records import Box
from lens_bench.sam.images import SamImage
from lens_bench.torchvision_guard import guard_torchvision

guard_torchvision()

from segment_anything.modeling import (  # noqa: E402
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    TwoWayTransformer,
)

# The same for every size of SAM (Kirillov et al., "Segment Anything", 2023; segment_anything/build_sam.py).
PROMPT_WIDTH, PATCH, WINDOW, SIDE = 256, 16, 14, 1024


@dataclass(frozen=True, slots=True)
class SamSize:
    """What tells the sizes of SAM apart: the image encoder.

    Attributes:
        width: Of the transformer.
        depth: Its blocks.
        heads: Its attention heads.
        global_blocks: Blocks that attend to the whole image; the others to windows of 14 x 14 patches.
    """

    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]


VIT_H = SamSize(1280, 32, 16, (7, 15, 23, 31))
VIT_L = SamSize(1024, 24, 16, (5, 11, 17, 23))
VIT_B = SamSize(768, 12, 12, (2, 5, 8, 11))


class SamModel(nn.Module):
    """Image encoder, prompt encoder and mask decoder. Construct under ``torch.device("meta")`` for shapes only."""

    side = SIDE

    def __init__(self, size: SamSize) -> None:
        super().__init__()
        self.size = size
        grid = SIDE // PATCH
        self.image_encoder = ImageEncoderViT(
            depth=size.depth,
            embed_dim=size.width,
            img_size=SIDE,
            mlp_ratio=4,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            num_heads=size.heads,
            patch_size=PATCH,
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=size.global_blocks,
            window_size=WINDOW,
            out_chans=PROMPT_WIDTH,
        )
        self.prompt_encoder = PromptEncoder(
            embed_dim=PROMPT_WIDTH,
            image_embedding_size=(grid, grid),
            input_image_size=(SIDE, SIDE),
            mask_in_chans=16,
        )
        self.mask_decoder = MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=PROMPT_WIDTH, mlp_dim=2048, num_heads=8),
            transformer_dim=PROMPT_WIDTH,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        )

    @property
    def _no_mask(self) -> Tensor:
        weight: Tensor = self.prompt_encoder.no_mask_embed.weight
        return weight

    def features(self, pixels: Tensor) -> Tensor:
        """Encode images [B, 3, S, S], normalised and padded; gives [B, C, S/16, S/16] in the model's precision."""
        encoded: Tensor = self.image_encoder(pixels.to(self._no_mask))
        return encoded

    def positions(self) -> Tensor:
        """Encoding [1, C, S/16, S/16] of the grid's points, computed in the model's precision.

        The package computes the grid in float32 and cannot be run in bfloat16; LISA and GLaMM compute everything in
        the precision of the stored frequencies, which in bfloat16 rounds the phases. That is what their published
        masks were made with, so it is done here too. In float32 both are the same.
        """
        frequencies: Tensor = self.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
        points = (torch.arange(SIDE // PATCH, device=frequencies.device).to(frequencies) + 0.5) / (SIDE // PATCH)
        rows, columns = torch.meshgrid(points, points, indexing="ij")
        phases = 2 * math.pi * ((2 * torch.stack([columns, rows], dim=-1) - 1) @ frequencies)
        return torch.cat([phases.sin(), phases.cos()], dim=-1).permute(2, 0, 1).unsqueeze(0)

    def masks(self, features: Tensor, prompts: Tensor) -> Tensor:
        """Decode one mask per prompt: SAM's single-mask output, no choice by predicted quality.

        Args:
            features: [1, C, S/16, S/16] of the image all prompts belong to.
            prompts: [N, T, C] sparse tokens.

        Returns:
            Logits [N, S/4, S/4].
        """
        dense = self._no_mask.view(1, -1, 1, 1).expand(len(prompts), -1, *features.shape[2:])
        logits: Tensor = self.mask_decoder(
            image_embeddings=features,
            image_pe=self.positions(),
            sparse_prompt_embeddings=prompts.to(features),
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )[0]
        return logits[:, 0]

    def box_prompts(self, boxes: list[Box], image: SamImage) -> Tensor:
        """Sparse tokens [N, 2, C] of boxes (x1, y1, x2, y2) in pixels of the original image."""
        (height, width), (inside_height, inside_width) = image.original, image.inside
        frequencies: Tensor = self.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
        scale = torch.tensor([inside_width / width, inside_height / height] * 2, device=frequencies.device)
        corners = (torch.tensor(boxes, device=frequencies.device) * scale + 0.5).view(-1, 2, 2) / SIDE
        phases = 2 * math.pi * ((2 * corners - 1).to(frequencies) @ frequencies)
        encoded = torch.cat([phases.sin(), phases.cos()], dim=-1)
        labels = self.prompt_encoder.point_embeddings
        return encoded + torch.stack([labels[2].weight[0], labels[3].weight[0]])


def upsample(logits: Tensor, image: SamImage) -> Tensor:
    """Logits [N, h, w] of the padded square to the original size [N, H, W], in float32.

    To the input side, cut to the part that is image, then to the original size: bilinear, both times.
    """
    square = functional.interpolate(logits.float().unsqueeze(1), (SIDE, SIDE), mode="bilinear", align_corners=False)
    inside = square[..., : image.inside[0], : image.inside[1]]
    return functional.interpolate(inside, image.original, mode="bilinear", align_corners=False).squeeze(1)
