"""Work of the layers that models are made of, from shapes alone.

A multiply-add counts two operations; only matrix products and convolutions count. Attention counts every query against
every key that it is computed with, the causal half that a mask discards included, as is usual for model FLOPs
utilisation (PaLM, arXiv 2204.02311, appendix B) and as torch's own counter does.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise


def linear(tokens: float, inputs: int, outputs: int) -> float:
    """A linear layer over ``tokens`` vectors."""
    return 2.0 * tokens * inputs * outputs


def attention(queries: float, keys: float, width: int) -> float:
    """Scores and mixing of ``queries`` over ``keys``; ``width`` is that of all query heads together."""
    return 4.0 * queries * keys * width


def convolution(outputs: float, inputs: int, channels: int, kernel: int) -> float:
    """A square convolution that gives ``outputs`` positions of ``channels`` channels from ``inputs`` channels."""
    return 2.0 * outputs * inputs * channels * kernel * kernel


def mlp(tokens: float, widths: Iterable[int]) -> float:
    """Linear layers one after the other: ``widths`` are those between them, input and output included."""
    return sum(linear(tokens, a, b) for a, b in pairwise(widths))


def window_pairs(height: int, width: int, side: int) -> int:
    """Query-key pairs of attention inside windows of ``side``, the cut ones at the edges included."""

    def squares(length: int) -> int:
        return (length // side) * side**2 + (length % side) ** 2

    return squares(height) * squares(width)


def padded(length: int, side: int) -> int:
    """The next multiple of ``side``: what a grid is padded to before it is cut into windows."""
    return -(-length // side) * side
