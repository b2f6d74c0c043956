"""Work of LENS by stage; that of its parts is in ``lens_bench.costs``, that of the context head here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lens_bench.costs.language import Language
from lens_bench.costs.qwen_tower import tower_flops
from lens_bench.costs.sam2 import SamCosts
from lens_bench.costs.weights import weight_bytes
from lens_bench.lens.config import HeadConfig
from lens_bench.lens.images import Patching, longest_side_size, smart_size
from lens_bench.lens.positions import Grid, image_tokens
from lens_bench.lens.recipe import Recipe
from lens_bench.perf.flops import attention, linear, mlp
from lens_bench.records import Cost, ImageTask, Prediction, Size

if TYPE_CHECKING:
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


def head_flops(config: HeadConfig, model_width: int) -> float:
    """Of one expression: connector, pooling, projection."""
    queries, width = config.queries, config.width
    entry = linear(queries, model_width, width) if model_width != width else 0.0
    block = linear(queries, width, 4 * width) + attention(queries, queries, width)
    block += mlp(queries, [width, int(width * config.mlp_ratio), width])
    pool = 2.0 * queries * width * width
    return entry + config.depth * block + pool + mlp(1, [width, width, config.prompt_width])


def lens_costs(engine: Engine, tasks: Sequence[ImageTask], predictions: Sequence[Prediction]) -> dict[str, Cost]:
    """Work of one call of the engine by stage. Another text engine reads the images itself, as part of ``answer``.

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
    tower = Cost(sum(tower_flops(qwen.config.vision_config, g) for g in grids), weight_bytes(vision))
    sam = SamCosts.of(model.sam)
    heads = Cost(len(rows) * head_flops(model.head.config, model.width), weight_bytes(model.head))
    costs: dict[str, Cost] = {
        "vision tower": tower,
        "prefix": prefix + prefix if ours and not shared else prefix,
        "SAM 2 features": sam.images(len(tasks)),
        "masks": heads + sam.masks([1] * len(rows)),
    }
    if not ours:
        return {**costs, "answer": tower + prefix + answer, "mask pass": behind}
    return {**costs, "answer": answer + behind} if shared else {**costs, "answer": answer, "mask pass": behind}
