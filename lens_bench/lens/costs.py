"""Work of LENS by stage: vision tower, language model, context head; SAM 2's is in ``sam_costs``.

Only what an answer needs is counted: no padding of a batch, no rows that read along after their end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lens_bench.lens.config import HeadConfig, whole
from lens_bench.lens.images import Patching, longest_side_size, smart_size
from lens_bench.lens.positions import Grid, image_tokens
from lens_bench.lens.recipe import Recipe
from lens_bench.lens.sam_costs import SamCosts, weight_bytes
from lens_bench.perf.flops import attention, linear, mlp, window_pairs
from lens_bench.records import Cost, ImageTask, Prediction, Size

if TYPE_CHECKING:
    from torch import nn

    from lens_bench.lens.engine import Engine


def seen_grid(size: Size, recipe: Recipe, patching: Patching) -> Grid:
    """Patch grid of an image of ``size`` (height, width) as ``images.prepare`` makes it, without its pixels."""
    factor = patching.patch * patching.merge
    if recipe.sizing == "square":
        height, width = recipe.longest_side, recipe.longest_side
    else:
        size = longest_side_size(size, recipe.longest_side) if recipe.sizing == "longest-side" else size
        height, width = smart_size(size, factor, recipe.min_pixels, recipe.max_pixels)
    return (1, height // patching.patch, width // patching.patch)


# ---------------------------------------------------------------------------------------------- the vision tower


def tower_flops(config: object, grid: Grid) -> float:
    """Of one image in the tower of Qwen2.5-VL (windows, gated MLP) or Qwen2-VL (neither).

    Args:
        config: Its configuration as transformers has it.
        grid: Patch grid (t, h, w).
    """
    windowed = hasattr(config, "fullatt_block_indexes")
    width = whole(config, "hidden_size" if windowed else "embed_dim")
    out = whole(config, "out_hidden_size" if windowed else "hidden_size")
    patch, merge, depth = (whole(config, n) for n in ("patch_size", "spatial_merge_size", "depth"))
    tokens = grid[0] * grid[1] * grid[2]
    channels = whole(config, "in_channels" if hasattr(config, "in_channels") else "in_chans")
    total = linear(tokens, channels * whole(config, "temporal_patch_size") * patch**2, width)
    if windowed:
        inner = 3 * linear(tokens, width, whole(config, "intermediate_size"))
    else:
        inner = 2 * linear(tokens, width, int(width * float(getattr(config, "mlp_ratio", 4))))
    total += depth * (linear(tokens, width, 4 * width) + inner)
    pairs = float(grid[0] * (grid[1] * grid[2]) ** 2)
    everywhere = set(getattr(config, "fullatt_block_indexes", range(depth)))
    if len(everywhere) < depth:
        side = whole(config, "window_size") // merge // patch * merge
        near = float(grid[0] * window_pairs(grid[1], grid[2], side))
        total += (depth - len(everywhere)) * attention(near, 1, width)
    total += len(everywhere) * attention(pairs, 1, width)
    merged = merge**2 * width
    return total + mlp(tokens / merge**2, [merged, merged, out])


# ---------------------------------------------------------------------------------------------- the language model


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
        total = Cost()
        for step in range(max((tokens for _, tokens in rows), default=0)):
            live = [before for before, tokens in rows if tokens > step]
            total += Cost(len(live) * linear(1, self.width, self.vocabulary), self.output_bytes)
            if step:
                total += self.read([(1, before + step) for before in live])
        return total


# ---------------------------------------------------------------------------------------------- the head


def head_flops(config: HeadConfig, model_width: int) -> float:
    """Of one expression: connector, pooling, projection."""
    queries, width = config.queries, config.width
    entry = linear(queries, model_width, width) if model_width != width else 0.0
    block = linear(queries, width, 4 * width) + attention(queries, queries, width)
    block += mlp(queries, [width, int(width * config.mlp_ratio), width])
    pool = 2.0 * queries * width * width
    return entry + config.depth * block + pool + mlp(1, [width, width, config.prompt_width])


# ---------------------------------------------------------------------------------------------- all of it


def lens_costs(engine: Engine, tasks: Sequence[ImageTask], predictions: Sequence[Prediction]) -> dict[str, Cost]:
    """Work of one call of the engine by stage; ``answer`` is left out where another engine writes it.

    Args:
        engine: That answered.
        tasks: What was asked.
        predictions: What it answered, in order.
    """
    model, prompter = engine.model, engine.prompter
    qwen, vision = model.qwen, model.qwen.model.visual
    item = model.embedding.weight.element_size()
    language = Language.of(qwen.config.text_config, qwen.model.language_model.layers, qwen.lm_head, item)
    grids = [seen_grid(task.size, prompter.recipe, engine.patching) for task in tasks]
    prefixes = [len(prompter.before) + image_tokens(grid, model.merge) for grid in grids]
    rows: list[tuple[int, int, int]] = []  # columns of the image's prefix, tokens behind it, tokens written
    answers = iter(predictions)
    for task, columns in zip(tasks, prefixes, strict=True):
        for found in (next(answers) for _ in task.queries):
            if found.tokens is not None:
                rows.append((columns, found.tokens.prompt - columns, found.tokens.completion))
    queries, shared = model.head.config.queries, engine.mode == "mrope"
    ours = engine.writer.wants_prefixes
    prefix = language.read([(p, p) for p in prefixes])
    answer = language.read([(after, p + after) for p, after, _ in rows])
    answer += language.write([(p + after, written) for p, after, written in rows])
    if shared and ours:
        behind = language.read([(1 + queries, p + after + written + queries) for p, after, written in rows])
    else:
        behind = language.read(
            [(after + written + queries, p + after + written + queries) for p, after, written in rows]
        )
    sam = SamCosts.of(model.sam)
    heads = Cost(len(rows) * head_flops(model.head.config, model.width), weight_bytes(model.head))
    costs: dict[str, Cost] = {
        "vision tower": Cost(sum(tower_flops(qwen.config.vision_config, g) for g in grids), weight_bytes(vision)),
        "prefix": prefix + prefix if ours and not shared else prefix,
        "SAM 2 features": sam.images(len(tasks)),
        "masks": heads + sam.masks(len(rows)),
    }
    if ours:
        costs["answer"] = answer + behind if shared else answer
    if not (shared and ours):
        costs["mask pass"] = behind
    return costs
