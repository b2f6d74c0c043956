"""Position indices of a prompt with one image, in both modes.

``mrope``: Qwen2-VL's three axes (arXiv 2409.12191, section 2.1): text counts up equally on all three, the tokens of an
image share the temporal index and spread over height and width, and the text behind continues after the largest index.
``lens-1d``: the mask pass of the released LENS checkpoints, in which every token counts up by one on all axes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lens_bench.lens.config import Positions

Grid = tuple[int, int, int]


def image_tokens(grid: Grid, merge: int) -> int:
    """Number of language-model tokens of an image whose patch grid is ``grid`` (t, h, w)."""
    return grid[0] * (grid[1] // merge) * (grid[2] // merge)


def prefix_positions(mode: Positions, before: int, grid: Grid, merge: int) -> Tensor:
    """Positions [3, before + image tokens] of the text before an image and of the image itself."""
    total = before + image_tokens(grid, merge)
    if mode == "lens-1d":
        return torch.arange(total).expand(3, -1).clone()
    time, height, width = torch.meshgrid(
        torch.arange(grid[0]), torch.arange(grid[1] // merge), torch.arange(grid[2] // merge), indexing="ij"
    )
    image = torch.stack([time.flatten(), height.flatten(), width.flatten()]) + before
    return torch.cat([torch.arange(before).expand(3, -1), image], dim=1)


def next_position(mode: Positions, before: int, grid: Grid, merge: int) -> int:
    """Index of the first token behind the image."""
    if mode == "lens-1d":
        return before + image_tokens(grid, merge)
    return before + max(grid[0], grid[1] // merge, grid[2] // merge)


def row_positions(mode: Positions, before: int, grid: Grid, merge: int, after: int) -> Tensor:
    """Positions [3, L] of a whole row with ``after`` tokens behind its image."""
    start = next_position(mode, before, grid, merge)
    tail = torch.arange(start, start + after).expand(3, -1)
    return torch.cat([prefix_positions(mode, before, grid, merge), tail], dim=1)


def padded_positions(
    mode: Positions, ids: Tensor, mask: Tensor, grids: list[Grid], image_id: int, merge: int
) -> Tensor:
    """Positions [3, B, L] of padded rows that hold one image each; padding gets 0 and is skipped in the count.

    The image is the first run of placeholders. A sampled answer may hold the placeholder again; there it is a word.

    Args:
        mode: Which positions.
        ids: [B, L] token ids with the image placeholders expanded.
        mask: [B, L], 1 at real tokens, 0 at padding on either side.
        grids: Patch grid of each row's image.
        image_id: Id of the placeholder.
        merge: Patches merged per token and axis.

    Raises:
        ValueError: A row does not hold its image in one run of placeholders.
    """
    out = torch.zeros((3, *ids.shape), dtype=torch.long, device=ids.device)
    for row, grid in enumerate(grids):
        real = mask[row].bool()
        is_image = ids[row][real] == image_id
        count = image_tokens(grid, merge)
        before = int(is_image.int().argmax())
        run = is_image[before : before + count]
        if len(run) != count or not bool(run.all()):
            raise ValueError(f"row {row} does not hold one image of {count} tokens")
        positions = row_positions(mode, before, grid, merge, len(is_image) - before - count)
        out[:, row, real] = positions.to(ids.device)
    return out
