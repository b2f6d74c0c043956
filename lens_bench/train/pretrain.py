"""The two stages before a language model is trained from nothing: SAM 2 from boxes, the vision tower from things.

Neither belongs to LENS, which starts from pretrained parts; they make such parts on a generated suite, whose
annotations say for every thing where it is and what it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lens_bench import masks
from lens_bench.errors import UsageError
from lens_bench.lens.images import QWEN_MEAN, QWEN_STD, Prepared
from lens_bench.records import Box, Size
from lens_bench.train.album import Truth, truth_of
from lens_bench.train.config import TrainRecipe
from lens_bench.train.data import Draw
from lens_bench.train.draws import stream
from lens_bench.train.labels import ATTRIBUTES, Thing
from lens_bench.train.meter import summed
from lens_bench.train.supervised import compare, coordinate_ids
from lens_bench.train.trainee import Sight
from lens_bench.train.workshop import Workshop

# How far a box's sides are moved at random, as a share of its width and height: the boxes of answers are not exact.
_JITTER = 0.05
# A patch belongs to a thing that covers at least this much of it.
_COVERED = 0.25
_NOT_ASKED = -100  # what torch's cross-entropy passes over


# ---------------------------------------------------------------------------------------------- SAM 2


@dataclass(frozen=True, slots=True)
class BoxBatch:
    """Boxes [S, 4] in pixels of SAM's square, their images [S], what the masks should be, masks of the whole step."""

    sights: Sequence[Sight]
    boxes: Tensor
    image_of: Tensor
    truths: Sequence[Truth]
    total: int


class FromBoxes:
    """SAM 2 learns to segment the thing in a box."""

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop

    def losses(self, draws: Sequence[Draw]) -> list[Callable[[], Tensor]]:
        """See ``Objective``."""
        return [partial(self._loss, batch) for batch in self._batches(draws)]

    def _batches(self, draws: Sequence[Draw]) -> list[BoxBatch]:
        """Micro batches of a rank's share of a step."""
        shop, size = self._shop, self._shop.recipe.batch.micro
        made = []
        for start in range(0, len(draws), size):
            part = draws[start : start + size]
            sights = shop.album.sights([draw.items[0] for draw in part])
            boxes, images, truths = [], [], []
            for number, (draw, sight) in enumerate(zip(part, sights, strict=True)):
                found = [truth_of(thing.truth) for thing in _things(shop, draw)]
                draws_of = stream(shop.recipe.seed, "boxes", draw.place)
                for truth in found:
                    noise = draws_of.uniform(-_JITTER, _JITTER, 4)
                    if truth.box is not None:
                        boxes.append(_jittered(truth.box, noise, sight.prepared.original, shop.lens.sam.image_size))
                        images.append(number)
                        truths.append(truth)
            made.append((sights, torch.tensor(boxes, dtype=torch.float32), torch.tensor(images), truths))
        total = summed(shop.accelerator, sum(len(t) for _, _, _, t in made))
        return [BoxBatch(s, b.to(shop.device), i.to(shop.device), t, total) for s, b, i, t in made]

    def _loss(self, batch: BoxBatch) -> Tensor:
        """A micro batch's share of the step's loss."""
        shop = self._shop
        logits = shop.trainee(batch.sights, boxes=(batch.boxes, batch.image_of))
        found = compare(logits, batch.truths, batch.image_of, shop.recipe.mask)
        shop.meter.add("loss/dice", found.loss.dice.detach().sum(), len(batch.truths))
        shop.meter.add("loss/bce", found.loss.bce.detach().sum(), len(batch.truths))
        shop.meter.add("train/mask_iou", found.iou.sum(), len(batch.truths))
        return (found.loss.dice + found.loss.bce).sum() / batch.total


def _jittered(box: Box, noise: np.ndarray[tuple[int, ...], np.dtype[np.float64]], size: Size, side: int) -> list[float]:
    """A box with its sides moved, in pixels of a square of ``side``."""
    width, height = box[2] - box[0], box[3] - box[1]
    moved = np.asarray(box) + noise * np.array([width, height, width, height])
    scaled = moved * np.array([side / size[1], side / size[0]] * 2)
    return [float(v) for v in np.clip(scaled, 0, side)]


def _things(shop: Workshop, draw: Draw) -> tuple[Thing, ...]:
    return shop.data.things[draw.items[0].image]


# ---------------------------------------------------------------------------------------------- vision tower


@dataclass(frozen=True, slots=True)
class Cells:
    """What each visual token of an image should say.

    Attributes:
        words: Class of each attribute [n, attributes]; 0 where nothing is there, else 1 + number of the word.
        box: Of the thing, in steps of the coordinates [n, 4].
        covered: Whether something is there, bool [n].
    """

    words: Tensor
    box: Tensor
    covered: Tensor


class Probe(nn.Module):
    """Four linear maps that turn a visual token into queries for the coordinates of its thing's box."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        self.corners = nn.Linear(width, 4 * width)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.corners.weight.copy_(torch.randn(self.corners.weight.shape, generator=generator) / width**0.5)
            self.corners.bias.zero_()

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, n, D] to [B, n, 5, D]: the tokens themselves, then one query for each corner coordinate."""
        corners = self.corners(tokens).unflatten(-1, (4, tokens.shape[-1]))
        return torch.cat([tokens.unsqueeze(2), corners], dim=2)


@dataclass(frozen=True, slots=True)
class CellBatch:
    """Images, what their tokens should say, tokens and covered tokens of the whole step."""

    sights: Sequence[Sight]
    cells: Sequence[Cells]
    total: int
    covered: int


class FromThings:
    """The vision tower learns to say in words what is where.

    A visual token is compared with the word embeddings, the same that the language model reads and writes with, so
    that the language model later finds visual tokens which already speak its language.
    """

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop
        self._ladder = coordinate_ids(shop, shop.recipe.answer.step)
        self._vocabulary = [
            sorted({thing.words[n] for found in shop.data.things.values() for thing in found})
            for n in range(len(ATTRIBUTES))
        ]
        none = shop.lens.config.padding
        self._words = [(none, *(_single(shop, word) for word in words)) for words in self._vocabulary]
        self._kept: dict[str, Cells] = {}

    def losses(self, draws: Sequence[Draw]) -> list[Callable[[], Tensor]]:
        """See ``Objective``."""
        return [partial(self._loss, batch) for batch in self._batches(draws)]

    def _batches(self, draws: Sequence[Draw]) -> list[CellBatch]:
        """Micro batches of a rank's share of a step."""
        shop, size = self._shop, self._shop.recipe.batch.micro
        made = []
        for start in range(0, len(draws), size):
            part = draws[start : start + size]
            sights = shop.album.sights([draw.items[0] for draw in part])
            cells = [self._cells(draw, sight.prepared) for draw, sight in zip(part, sights, strict=True)]
            pairs = [self._recoloured(*pair) for pair in zip(part, sights, cells, strict=True)]
            made.append(([sight for sight, _ in pairs], [c for _, c in pairs]))
        total = summed(shop.accelerator, sum(len(c.covered) for _, cells in made for c in cells))
        covered = summed(shop.accelerator, sum(int(c.covered.sum()) for _, cells in made for c in cells))
        return [CellBatch(sights, cells, total, covered) for sights, cells in made]

    def _loss(self, batch: CellBatch) -> Tensor:
        """A micro batch's share of the step's loss."""
        shop = self._shop
        queries = shop.trainee(batch.sights).flatten(0, 1).float()
        words = torch.cat([c.words for c in batch.cells]).to(shop.device)
        boxes = torch.cat([c.box for c in batch.cells]).to(shop.device)
        covered = torch.cat([c.covered for c in batch.cells]).to(shop.device)
        table = shop.lens.embedding.weight.float()
        total = torch.zeros((), device=shop.device)
        for number, name in enumerate(ATTRIBUTES):
            scores = queries[:, 0] @ table[list(self._words[number])].T
            total = total + functional.cross_entropy(scores, words[:, number], reduction="sum") / batch.total
            asked = covered & (words[:, number] != _NOT_ASKED)
            right = (scores.argmax(dim=1) == words[:, number])[asked]
            shop.meter.add(f"train/{name}_right", right.sum(), len(right))
        scores = queries[covered, 1:] @ table[list(self._ladder)].T
        aim = boxes[covered].clamp(0, len(self._ladder) - 1)
        steps = torch.arange(len(self._ladder), device=shop.device)
        soft = torch.softmax(-0.5 * (steps - aim.unsqueeze(-1)) ** 2, dim=-1)
        place = -(soft * torch.log_softmax(scores, dim=-1)).sum()
        shop.meter.add("loss/place", place.detach(), 4 * int(covered.sum()))
        off = (scores.argmax(dim=-1) - aim).abs() * shop.recipe.answer.step
        shop.meter.add("train/place_off_px", off.sum(), 4 * int(covered.sum()))
        return total + place / (4 * max(1, batch.covered))

    def _recoloured(self, draw: Draw, sight: Sight, cells: Cells) -> tuple[Sight, Cells]:
        """Now and then an image in other colours, of which only shapes, sizes and places are asked."""
        draws = stream(self._shop.recipe.seed, "recolour", draw.place)
        if draws.random() >= self._shop.recipe.data.recolour:
            return sight, cells
        order = [int(n) for n in draws.permutation(3)]
        patches = recoloured(sight.prepared.patches, order, invert=bool(draws.random() < 0.5))
        return replace(sight, prepared=replace(sight.prepared, patches=patches)), without_colours(cells)

    def _cells(self, draw: Draw, prepared: Prepared) -> Cells:
        image = draw.items[0].image
        if image not in self._kept:
            lens = self._shop.lens
            grid = (prepared.grid[1] // lens.merge, prepared.grid[2] // lens.merge)
            self._kept[image] = cells_of(
                _things(self._shop, draw), prepared, grid, self._vocabulary, self._shop.recipe.answer.step
            )
        return self._kept[image]


def recoloured(patches: Tensor, order: list[int], *, invert: bool) -> Tensor:
    """Flattened patches [n, 3 * rest] with the colour channels in another order, and as a negative."""
    mean, deviation = (torch.tensor(values).view(1, 3, 1) for values in (QWEN_MEAN, QWEN_STD))
    pixels = (patches.view(len(patches), 3, -1) * deviation + mean)[:, order]
    shown: Tensor = ((1 - pixels if invert else pixels) - mean) / deviation
    return shown.flatten(1)


def without_colours(cells: Cells) -> Cells:
    """The same, but the colours of things are not asked."""
    words = cells.words.clone()
    words[cells.covered, ATTRIBUTES.index("color")] = _NOT_ASKED
    return replace(cells, words=words)


def cells_of(
    things: Sequence[Thing], prepared: Prepared, grid: Size, vocabulary: Sequence[Sequence[str]], step: int
) -> Cells:
    """What each cell of a grid should say: the thing that covers most of it, if any covers enough."""
    height, width = grid
    best = np.full((height, width), _COVERED, dtype=np.float32)
    words = np.zeros((height, width, len(vocabulary)), dtype=np.int64)
    boxes = np.zeros((height, width, 4), dtype=np.float32)
    scale = np.array([prepared.seen[1] / prepared.original[1], prepared.seen[0] / prepared.original[0]] * 2) / step
    for thing in things:
        union, _, _ = masks.merge_truth(thing.truth)
        box = masks.truth_box(thing.truth, union)
        share = cv2.resize(masks.decode(union).astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        here = share > best
        if box is None:
            continue
        best[here] = share[here]
        words[here] = [1 + list(known).index(word) for word, known in zip(thing.words, vocabulary, strict=True)]
        boxes[here] = np.asarray(box) * scale
    covered = (words[:, :, 0] > 0).reshape(-1)
    return Cells(
        torch.from_numpy(words.reshape(-1, len(vocabulary))),
        torch.from_numpy(boxes.reshape(-1, 4)),
        torch.from_numpy(covered),
    )


def make_probe(recipe: TrainRecipe, width: int) -> Probe | None:
    """The layers that stage vision trains along and throws away."""
    return Probe(width, recipe.seed) if recipe.stage == "vision" else None


def _single(shop: Workshop, word: str) -> int:
    ids = shop.tokenizer.encode(word)
    if len(ids) != 1:
        raise UsageError(f"stage vision needs a token for {word!r}", "see model.fresh")
    return ids[0]
