"""Work of the vision towers of the Qwen-VL families."""

from __future__ import annotations

from lens_bench.lens.config import whole
from lens_bench.lens.positions import Grid
from lens_bench.perf.flops import attention, linear, mlp, window_pairs


def tower_flops(config: object, grid: Grid) -> float:
    """Of one image in the tower of Qwen2-VL, of Qwen2.5-VL (windows, gated MLP) or of Qwen3-VL (several mergers).

    Args:
        config: Its configuration as transformers has it.
        grid: Patch grid (t, h, w).
    """
    windowed = hasattr(config, "fullatt_block_indexes")
    mergers = 1 + len(getattr(config, "deepstack_visual_indexes", ()))
    first = hasattr(config, "embed_dim")  # Qwen2-VL
    width = whole(config, "embed_dim" if first else "hidden_size")
    out = whole(config, "hidden_size" if first else "out_hidden_size")
    patch, merge, depth = (whole(config, n) for n in ("patch_size", "spatial_merge_size", "depth"))
    tokens = grid[0] * grid[1] * grid[2]
    channels = whole(config, "in_channels" if hasattr(config, "in_channels") else "in_chans")
    total = linear(tokens, channels * whole(config, "temporal_patch_size") * patch**2, width)
    if first:
        inner = 2 * linear(tokens, width, int(width * float(getattr(config, "mlp_ratio", 4))))
    else:
        inner = (3 if windowed else 2) * linear(tokens, width, whole(config, "intermediate_size"))
    total += depth * (linear(tokens, width, 4 * width) + inner)
    pairs = float(grid[0] * (grid[1] * grid[2]) ** 2)
    everywhere = set(getattr(config, "fullatt_block_indexes", range(depth)))
    if len(everywhere) < depth:
        side = whole(config, "window_size") // merge // patch * merge
        near = float(grid[0] * window_pairs(grid[1], grid[2], side))
        total += (depth - len(everywhere)) * attention(near, 1, width)
    total += len(everywhere) * attention(pairs, 1, width)
    merged = merge**2 * width
    return total + mergers * mlp(tokens / merge**2, [merged, merged, out])
