"""Images and annotations as tensors, and features of frozen towers kept in memory.

A feature that may be cached is always computed for its image alone, so that it is the same whether it was kept or not,
whatever was in the batch before a resume.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from lens_bench import masks
from lens_bench.errors import DataError
from lens_bench.lens.images import Patching, Prepared, prepare
from lens_bench.lens.modeling import LensModel
from lens_bench.records import Box, GroundTruth, ImageSource
from lens_bench.train.config import TrainRecipe
from lens_bench.train.data import Item
from lens_bench.train.rewards import Rewards
from lens_bench.train.trainee import Sight

# What a stage does with a tower. Features are kept of a frozen one; of an unused one not even the pixels.
Use: TypeAlias = Literal["unused", "trained", "frozen"]
_NOTHING = torch.empty(0)


@dataclass(frozen=True, slots=True)
class Truth:
    """What a mask should be.

    Attributes:
        mask: Bool [H, W].
        valid: Bool [H, W], False at pixels that are to be ignored.
        box: See ``masks.truth_box``.
    """

    mask: Tensor
    valid: Tensor
    box: Box | None


def truth_of(annotation: GroundTruth) -> Truth:
    """Rasterise an annotation: the union of its parts."""
    union, _, ignore = masks.merge_truth(annotation)
    wanted = torch.from_numpy(masks.decode(union).astype(np.bool_))
    valid = ~torch.from_numpy(masks.decode(ignore).astype(np.bool_))
    return Truth(wanted, valid, masks.truth_box(annotation, union))


def uses(recipe: TrainRecipe) -> tuple[Use, Use]:
    """What a stage does with the vision tower and with SAM 2's image encoder."""
    rates, stage = recipe.optimiser.rates, recipe.stage
    visual: Use = "unused" if stage == "sam" else "trained" if "vision" in rates else "frozen"
    masks = stage == "sam" or (stage in ("supervised", "grpo") and recipe.mask.weight > 0)
    masks = masks or (recipe.grpo is not None and Rewards(recipe.grpo.rewards).reads_masks)
    sam: Use = "unused" if not masks else "trained" if "sam_image" in rates else "frozen"
    return visual, sam


class Album:
    """Loads images, one step ahead where asked.

    Args:
        lens: The model whose towers see them.
        visual: Use of the vision tower.
        sam: Use of SAM 2's image encoder.
        budget: Bytes that may be kept; 0: features are computed with the batch.
        shown: Pixels are asked for though the vision tower's features are kept: a sampler has a tower of its own.

    Attributes:
        patching: Geometry of the vision tower.
    """

    def __init__(self, lens: LensModel, *, visual: Use, sam: Use, budget: float, shown: bool = False) -> None:
        self._lens = lens
        self._visual = visual
        self._sam = sam
        self._shown = shown
        self._keeps = budget > 0 and "frozen" in (visual, sam)
        self._left = budget
        temporal = getattr(lens.qwen.config.vision_config, "temporal_patch_size", 2)
        self.patching = Patching(lens.patch, lens.merge, int(temporal))
        self._kept: dict[str, Sight] = {}
        self._coming: dict[str, Future[Prepared]] = {}
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="images")

    def announce(self, items: Sequence[Item]) -> None:
        """Begin to read images that will be asked for next."""
        for item in items:
            if item.image not in self._kept and item.image not in self._coming:
                self._coming[item.image] = self._reader.submit(self._prepare, item.sample.image)

    def sights(self, items: Sequence[Item]) -> list[Sight]:
        """The images of items, in order."""
        return [self._sight(item) for item in items]

    def failure(self, item: Item) -> DataError | None:
        """Wait until an item's image is read; why it cannot be read, or None."""
        if item.image in self._kept:
            return None
        self.announce([item])
        try:
            self._coming[item.image].result()
        except DataError as error:
            del self._coming[item.image]
            return error
        return None

    def close(self) -> None:
        """Stop reading ahead."""
        self._reader.shutdown(wait=True, cancel_futures=True)

    def _sight(self, item: Item) -> Sight:
        kept = self._kept.get(item.image)
        if kept is not None:
            return kept
        coming = self._coming.pop(item.image, None)
        prepared = coming.result() if coming is not None else self._prepare(item.sample.image)
        sight = self._featured(prepared)
        if not self._keeps:
            return sight
        size = sum(t.numel() * t.element_size() for t in _tensors(sight))
        if size <= self._left:
            self._left -= size
            self._kept[item.image] = sight
        return sight

    def _prepare(self, source: ImageSource) -> Prepared:
        return prepare(source.read(), self._lens.config.recipe, self.patching, self._lens.sam.image_size, source.name)

    @torch.no_grad()
    def _featured(self, prepared: Prepared) -> Sight:
        lens, sight = self._lens, Sight(prepared)
        if self._visual == "frozen" and self._keeps:
            (tokens,) = lens.see(prepared.patches, [prepared.grid])
            sight = replace(sight, visual=tokens.clone())
        if self._sam == "frozen" and self._keeps:
            dtype = lens.sam.sam2.no_memory_embedding.dtype
            sight = replace(sight, sam=lens.sam.features(prepared.square[None].to(lens.device, dtype)))
        seen = self._visual == "unused" or sight.visual is not None
        patches = _NOTHING if seen and not self._shown else prepared.patches
        square = _NOTHING if self._sam == "unused" or sight.sam is not None else prepared.square
        return replace(sight, prepared=replace(prepared, patches=patches, square=square))


def _tensors(sight: Sight) -> list[Tensor]:
    found = [sight.prepared.patches, sight.prepared.square]
    found += [sight.visual] if sight.visual is not None else []
    found += [sight.sam.image, sight.sam.fine, sight.sam.middle] if sight.sam is not None else []
    return found
