"""Supervised learning: the perfect answer as text, the referent's mask, or both.

Stage 1 of LENS is the mask loss alone, behind the perfect answer; the control of stage 2 is both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lens_bench.answers import whole_numbers
from lens_bench.errors import UsageError
from lens_bench.lens.images import Prepared
from lens_bench.records import Box
from lens_bench.train.album import Truth, truth_of
from lens_bench.train.config import Answer, Mask
from lens_bench.train.data import Draw, Item
from lens_bench.train.losses import MaskLoss, mask_iou, mask_loss, shrink, stretch
from lens_bench.train.meter import summed
from lens_bench.train.pack import Pack, Segment, pack
from lens_bench.train.trainee import Outputs, Sight, Soft
from lens_bench.train.workshop import Workshop

Frame: TypeAlias = Literal["pixels", "thousandths"]


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro batch.

    Attributes:
        sights: Images, one per draw.
        pack: Their rows.
        truths: One per segment; none where no masks are learned.
        tokens: Answer tokens of the whole step, over all ranks.
        masks: Masks of the whole step.
    """

    sights: Sequence[Sight]
    pack: Pack
    truths: Sequence[Truth]
    tokens: int
    masks: int


class Supervised:
    """Cross-entropy of the perfect answer and mask loss."""

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop
        recipe = shop.recipe
        # The queries are only read for masks.
        self._layout = shop.layout if recipe.mask.weight else replace(shop.layout, queries=0)
        smooth = recipe.text.smoothing > 0
        self._ladder = coordinate_ids(shop, recipe.answer.step) if smooth else ()
        self._segments: dict[tuple[str, str], Segment] = {}

    def losses(self, draws: Sequence[Draw]) -> list[Callable[[], Tensor]]:
        """See ``Objective``."""
        return [partial(self._loss, batch) for batch in self._batches(draws)]

    def _batches(self, draws: Sequence[Draw]) -> list[Batch]:
        """Micro batches of a rank's share of a step."""
        shop, size = self._shop, self._shop.recipe.batch.micro
        made: list[tuple[list[Sight], Pack, list[Truth]]] = []
        for start in range(0, len(draws), size):
            part = draws[start : start + size]
            sights = shop.album.sights([draw.items[0] for draw in part])
            asked = [
                [self._segment(item, sight.prepared) for item in draw.items]
                for draw, sight in zip(part, sights, strict=True)
            ]
            packed = pack(self._layout, [s.prepared.grid for s in sights], asked)
            items = [item for draw in part for item in draw.items] if shop.recipe.mask.weight else []
            made.append((sights, packed, [truth_of(item.sample.truth) for item in items]))
        tokens = summed(shop.accelerator, sum(int(p.real.sum()) for _, p, _ in made))
        masks = summed(shop.accelerator, sum(len(p.real) for _, p, _ in made))
        return [Batch(sights, packed.to(shop.device), truths, tokens, masks) for sights, packed, truths in made]

    def _loss(self, batch: Batch) -> Tensor:
        """A micro batch's share of the step's loss."""
        shop, recipe = self._shop, self._shop.recipe
        soft = self._soft(batch.pack) if self._ladder else None
        with_text, with_mask = recipe.text.weight > 0, recipe.mask.weight > 0
        out = shop.trainee(batch.sights, batch.pack, texts=with_text, masks=with_mask, soft=soft)
        if not isinstance(out, Outputs):
            raise TypeError("a pack was read, but no outputs came")
        shop.meter.add("length/read", batch.pack.tokens, len(batch.pack.real))
        total = torch.zeros((), device=shop.device)
        if out.scored is not None:
            text = -out.scored.logps.sum()
            shop.meter.add("loss/text", text.detach(), int(batch.pack.real.sum()))
            total = total + recipe.text.weight * text / batch.tokens
        if out.masks is not None:
            lost = compare(out.masks, batch.truths, batch.pack.image_of, recipe.mask)
            shop.meter.add("loss/dice", lost.loss.dice.detach().sum(), len(batch.truths))
            shop.meter.add("loss/bce", lost.loss.bce.detach().sum(), len(batch.truths))
            shop.meter.add("train/mask_iou", lost.iou.sum(), len(batch.truths))
            total = total + recipe.mask.weight * (lost.loss.dice + lost.loss.bce).sum() / batch.masks
        return total

    def _segment(self, item: Item, prepared: Prepared) -> Segment:
        """The segment of an item; every epoch asks for the same ones."""
        key = (item.image, item.sample.id)
        if key not in self._segments:
            shop = self._shop
            coordinates = shop.lens.config.recipe.coordinates
            box = truth_of(item.sample.truth).box
            text = answer_text(shop.recipe.answer, item, box, prepared, coordinates)
            ids = (*shop.tokenizer.encode(text), shop.lens.config.ends[0])
            self._segments[key] = Segment(shop.prompter.after(item.sample.expression), ids)
        return self._segments[key]

    def _soft(self, packed: Pack) -> Soft:
        """A normal distribution over neighbouring coordinates where the target is one, else the target itself."""
        sigma = self._shop.recipe.text.smoothing
        reach = math.ceil(2 * sigma)
        ladder = torch.tensor(self._ladder, device=packed.targets.device)
        is_step = packed.targets.unsqueeze(-1) == ladder
        at = is_step.int().argmax(dim=-1)
        offsets = torch.arange(-reach, reach + 1, device=at.device)
        places = at.unsqueeze(-1) + offsets
        weights = torch.exp(-0.5 * (offsets / sigma) ** 2).expand(places.shape).clone()
        weights[(places < 0) | (places >= len(ladder))] = 0
        weights = weights / weights.sum(dim=-1, keepdim=True)
        ids = ladder[places.clamp(0, len(ladder) - 1)]
        hard = ~is_step.any(dim=-1)
        ids[hard] = packed.targets[hard].unsqueeze(-1)
        weights[hard] = (offsets == 0).to(weights.dtype)
        return Soft(ids, weights)


# ---------------------------------------------------------------------------------------------- answers


def answer_text(answer: Answer, item: Item, box: Box | None, prepared: Prepared, frame: Frame) -> str:
    """The perfect answer to an expression about a box of the original image."""
    corners = whole_numbers(box or (0.0, 0.0, 0.0, 0.0), prepared.original, prepared.seen, frame)
    x1, y1, x2, y2 = (answer.step * round(value / answer.step) for value in corners)
    said = answer.box.format(x1=x1, y1=y1, x2=x2, y2=y2)
    return answer.text.format(expression=item.sample.expression, rationale=item.rationale, box=said).strip()


def coordinate_ids(shop: Workshop, step: int) -> tuple[int, ...]:
    """The token of each coordinate in order, where a coordinate with the comma behind it is one token.

    Raises:
        UsageError: It is not.
    """
    recipe = shop.lens.config.recipe
    if recipe.sizing != "square":
        raise UsageError("coordinates as a ladder of tokens need images of one size (model.prompt.sizing: square)")
    found = [shop.tokenizer.encode(f"{value},") for value in range(0, recipe.longest_side + 1, step)]
    if any(len(ids) != 1 for ids in found) or len({ids[0] for ids in found}) != len(found):
        raise UsageError("this tokenizer has no token of its own for every coordinate", "set text.smoothing to 0")
    return tuple(ids[0] for ids in found)


# ---------------------------------------------------------------------------------------------- masks


@dataclass(frozen=True, slots=True)
class Compared:
    """Losses and IoU [S] of masks with what they should be."""

    loss: MaskLoss
    iou: Tensor


def compare(logits: Tensor, truths: Sequence[Truth], image_of: Tensor, mask: Mask) -> Compared:
    """Compare masks [S, h, w] with their truths; the IoU is always of the image's own pixels.

    Segments of one image, which lie next to each other, are scaled together.
    """
    images = image_of.tolist()
    dice, bce, iou = [], [], []
    start = 0
    while start < len(images):
        end = start + 1
        while end < len(images) and images[end] == images[start]:
            end += 1
        wanted = torch.stack([t.mask for t in truths[start:end]]).to(logits.device)
        valid = torch.stack([t.valid for t in truths[start:end]]).to(logits.device)
        part = logits[start:end]
        large = stretch(part, (wanted.shape[1], wanted.shape[2]))
        iou.append(mask_iou(large.detach(), wanted, valid))
        if mask.size == "original":
            lost = mask_loss(large, wanted, valid)
        else:
            small = (part.shape[1], part.shape[2])
            lost = mask_loss(part, shrink(wanted & valid, small), shrink(valid, small) > 0.5)
        dice.append(lost.dice)
        bce.append(lost.bce)
        start = end
    return Compared(MaskLoss(torch.cat(dice), torch.cat(bce)), torch.cat(iou))
