"""Work of a decoder: reading prompts, writing answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lens_bench.costs.weights import weight_bytes
from lens_bench.lens.config import whole
from lens_bench.perf.flops import attention, linear
from lens_bench.records import Cost

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Language:
    """A decoder of gated blocks (Qwen's, LLaMA's).

    Attributes:
        width: Of its hidden states.
        layers: Number of blocks.
        query_width: Of all query heads together; ``key_width`` of all key-value heads.
        inner: Width inside an MLP.
        vocabulary: Rows of the output layer.
        block_bytes: Weights of all blocks; ``output_bytes`` of the output layer.
        item: Bytes of one number.
    """

    width: int
    layers: int
    query_width: int
    key_width: int
    inner: int
    vocabulary: int
    block_bytes: float
    output_bytes: float
    item: int

    @staticmethod
    def of(config: object, blocks: nn.Module, output: nn.Module, item: int) -> Language:
        """From a text configuration of transformers and the modules that hold the weights."""
        width, heads = whole(config, "hidden_size"), whole(config, "num_attention_heads")
        side = getattr(config, "head_dim", None) or width // heads
        return Language(
            width=width,
            layers=whole(config, "num_hidden_layers"),
            query_width=heads * int(side),
            key_width=whole(config, "num_key_value_heads") * int(side),
            inner=whole(config, "intermediate_size"),
            vocabulary=whole(config, "vocab_size"),
            block_bytes=weight_bytes(blocks),
            output_bytes=weight_bytes(output),
            item=item,
        )

    def read_flops(self, tokens: int, keys: int) -> float:
        """Of reading ``tokens`` of one row, each attending to ``keys`` columns, itself and those behind included."""
        block = linear(tokens, self.width, 2 * self.query_width + 2 * self.key_width)
        block += 3 * linear(tokens, self.width, self.inner) + attention(tokens, keys, self.query_width)
        return self.layers * block

    def key_bytes(self, columns: int) -> float:
        """Keys and values of so many columns in all layers."""
        return 2.0 * self.layers * self.key_width * columns * self.item

    def read(self, rows: Sequence[tuple[int, int]]) -> Cost:
        """One pass over rows of (tokens, columns attended to): weights once, every row's keys and values once."""
        if not rows:
            return Cost()
        flops = sum(self.read_flops(tokens, keys) for tokens, keys in rows)
        return Cost(flops, self.block_bytes + sum(self.key_bytes(keys) for _, keys in rows))

    def write(self, rows: Sequence[tuple[int, int]]) -> Cost:
        """Writing answers of rows given as (columns before, tokens), all rows together, one pass a token.

        The first token comes out of the pass that read the prompt, and the last one is not read here.
        """
        return self.score(sum(tokens > 0 for _, tokens in rows)) + self.steps(rows)

    def score(self, count: int) -> Cost:
        """Scores of the whole vocabulary at so many states, the weights read once."""
        return Cost(count * linear(1, self.width, self.vocabulary), self.output_bytes) if count else Cost()

    def steps(self, rows: Sequence[tuple[int, int]]) -> Cost:
        """What ``write`` does behind the first tokens: a pass for each further one, all rows together."""
        total = Cost()
        for step in range(1, max((tokens for _, tokens in rows), default=0)):
            live = [before for before, tokens in rows if tokens > step]
            total += self.score(len(live)) + self.read([(1, before + step) for before in live])
        return total
