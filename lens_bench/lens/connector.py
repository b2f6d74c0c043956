"""The head of LENS: context queries, connector, pooling, projection to a prompt token of SAM 2.

Shapes after the released checkpoints (arXiv 2508.14153; keys ``learnable_query``, ``connector``, ``conv_1d``,
``proj_to_sam``): the queries' last hidden states pass four bidirectional transformer blocks with a learned position
embedding, a convolution over the queries collapses them to one token, and an MLP leads to SAM 2's width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lens_bench.lens.config import HeadConfig


class QuickGelu(nn.Module):
    """``x * sigmoid(1.702 x)``, the approximation that CLIP's and Qwen2-VL's towers use."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply to any shape."""
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Bidirectional self-attention without a mask: every query sees every other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over the middle axis of [B, M, D]."""
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return out


class Mlp(nn.Module):
    """Two linear layers with quick-GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = QuickGelu()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to the last axis."""
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.eps)
        self.norm2 = nn.LayerNorm(config.width, eps=config.eps)
        self.attn = Attention(config.width, config.heads)
        self.mlp = Mlp(config.width, int(config.width * config.mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """[B, M, D] to [B, M, D]."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Connector(nn.Module):
    """Learned position embedding and ``depth`` blocks."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, config.queries, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))

    def forward(self, x: Tensor) -> Tensor:
        """[B, M, D] to [B, M, D]."""
        x = x + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return x


class ContextHead(nn.Module):
    """Context queries and the way from their hidden states to one sparse prompt of SAM 2.

    Args:
        config: Widths and depths.
        model_width: Width of the language model, in which the queries live.
    """

    def __init__(self, config: HeadConfig, model_width: int) -> None:
        super().__init__()
        self.config = config
        self.queries = nn.Parameter(torch.zeros(1, config.queries, model_width))
        self.entry = nn.Linear(model_width, config.width) if model_width != config.width else nn.Identity()
        self.connector = Connector(config) if config.depth else nn.Identity()
        self.pool = nn.Conv1d(config.width, config.width, kernel_size=config.queries)
        self.project = nn.Sequential(
            nn.Linear(config.width, config.width), nn.GELU(), nn.Linear(config.width, config.prompt_width)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """Turn hidden states [B, M, D] at the queries into prompt tokens [B, 1, prompt_width]."""
        states = self.connector(self.entry(hidden))
        pooled = self.pool(states.transpose(1, 2)).transpose(1, 2)
        out: Tensor = self.project(pooled)
        return out

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Fresh weights for training: normal with deviation 0.02, norms at one, biases and positions at zero.

        The deviation of queries and pooling is the authors'; their linear layers keep PyTorch's default instead.
        """
        for name, parameter in self.named_parameters():
            if name.endswith("bias") or name.endswith("pos_embed"):
                parameter.zero_()
            elif ".norm" in name:
                parameter.fill_(1.0)
            else:
                values = torch.empty(parameter.shape, dtype=torch.float32).normal_(0.0, 0.02, generator=generator)
                parameter.copy_(values)
