"""The inference engine: what belongs to an image once per image, what belongs to an expression in large batches.

Per image: resizing, the vision tower, keys and values of the prompt up to the end of the image, SAM's features. Per
expression: the rest of the prompt, the answer where it is not forced, one mask. A mask's prompt is the hidden state at
the position before [SEG], the one that predicts it; it is picked up where it arises, in either mode. The result is the
same as with whole rows, whatever the batch (tested).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from lens_bench.finite import finite_rows
from lens_bench.lens.batching import Budget, padded_rows, row_budget, row_bytes
from lens_bench.lens.cache import KeyValues, Prefix
from lens_bench.lens.host import Host
from lens_bench.llava_sam.conversation import Prompt
from lens_bench.llava_sam.images import clip_pixels
from lens_bench.llava_sam.modeling import LlavaSam
from lens_bench.perf.clock import StageClock
from lens_bench.records import Pixels, Rle
from lens_bench.sam.images import prepare
from lens_bench.sam.model import upsample

_ROW_TOKENS = 768  # of a prompt with its image, and an answer
# A mask, and whether its scores are finite, on the device.
_Painted: TypeAlias = "tuple[Future[Rle], Tensor]"


@dataclass(frozen=True, slots=True)
class Ask:
    """One conversation about one image.

    Attributes:
        image: Number of the image.
        prompt: Its ids. All prompts of a call have the same ids before the image.
        budget: Tokens the model may write behind the prompt; 0 where every answer is forced.
    """

    image: int
    prompt: Prompt
    budget: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says.

    Attributes:
        masks: One per [SEG] at the image's original size: of the forced answers, in order, or of the written one. None
            where its scores are not finite.
        ids: Ids that the model wrote, the end included where there is one.
        prompt_tokens: Tokens of the prompt, the image's included.
        finite: Whether the score of every written token was finite; the answer ends at the first that was not.
    """

    masks: tuple[Rle | None, ...]
    ids: tuple[int, ...]
    prompt_tokens: int
    finite: bool = True


@dataclass(slots=True)
class _Read:
    """What reading and writing a row gave: states before each [SEG], and the ids written."""

    states: list[Tensor]
    ids: list[int] = field(default_factory=list)
    finite: bool = True


class Engine:
    """Answers conversations about images with one model.

    Args:
        model: In evaluation mode, on its device.
        seg: Id of [SEG].
        eos: Id that ends an answer.
        rows: Conversations read together; None lets the engine choose from the memory at hand.
        forced: Write every answer up to its budget and let its last token alone be [SEG], so that the work is known.

    Attributes:
        seconds: Time that each stage of the last ``answer`` took, by the device's clock.
    """

    def __init__(self, model: LlavaSam, seg: int, eos: int, rows: int | None = None, *, forced: bool = False) -> None:
        self.model, self._seg, self._eos, self._forced = model, seg, eos, forced
        self.seconds: dict[str, float] = {}
        self._clock = StageClock(str(model.device))
        cuda = model.device.type == "cuda"
        per_row = row_bytes(model.llama.config, model.embedding.weight.dtype, _ROW_TOKENS)
        self._rows = Budget(rows or row_budget(model.device, per_row), "expressions")
        self._masks = Budget(32 if cuda else 4, "masks")
        self._host = Host(model.device)

    @torch.inference_mode()
    def answer(self, images: Sequence[Pixels], asks: Sequence[Ask]) -> list[Answer]:
        """Answer conversations.

        Args:
            images: RGB uint8 [H, W, 3].
            asks: Conversations, each about one of the images.

        Returns:
            One answer per conversation, in order.

        Raises:
            OutOfMemoryError: A single conversation or mask does not fit.
        """
        self.seconds, self._clock = {}, StageClock(str(self.model.device))
        if not asks:
            return []
        numbers = sorted({ask.image for ask in asks})
        prefixes = dict(zip(numbers, self._prefixes(images, numbers, asks[0].prompt.before), strict=True))
        with self._clock.stage("language"):
            read = self._rows.run(asks, lambda part: self._read(part, prefixes), lambda ask: len(ask.prompt.after))
        painted = self._paint(images, asks, read)
        self.seconds = self._clock.seconds()
        before = next(iter(prefixes.values())).length
        return [
            Answer(found, tuple(row.ids), before + len(ask.prompt.after), row.finite)
            for ask, row, found in zip(asks, read, painted, strict=True)
        ]

    # ------------------------------------------------------------------------------------------ language

    def _prefixes(self, images: Sequence[Pixels], numbers: Sequence[int], before: tuple[int, ...]) -> list[Prefix]:
        """Read the prompt up to the end of each image."""
        model, side = self.model, self.model.config.clip_side
        with self._clock.stage("resize"):
            pixels = torch.stack([clip_pixels(images[n], side) for n in numbers])
        with self._clock.stage("vision tower"):
            visual = model.see(pixels.to(model.device))
        with self._clock.stage("prefix"):
            lead = model.embedding(torch.tensor(before, device=model.device)).expand(len(numbers), -1, -1)
            embeds = torch.cat([lead, visual], dim=1)
            cache = KeyValues.empty(len(model.llama.model.layers), len(numbers), model.device)
            real = torch.ones(embeds.shape[:2], dtype=torch.bool, device=model.device)
            model.read(embeds, _positions(real, 0), cache.open(real), cache)
            return [cache.prefix(row) for row in range(len(numbers))]

    def _read(self, asks: Sequence[Ask], prefixes: dict[int, Prefix]) -> list[_Read]:
        """Read prompts behind their images, padded on the right, and let the model write where it may."""
        device, (ids, real) = self.model.device, padded_rows([ask.prompt.after for ask in asks])
        real = real.to(device)
        most = max(ask.budget for ask in asks)
        cache = KeyValues.of_prefixes([prefixes[ask.image] for ask in asks], ids.shape[1] + min(most, 64))
        start = prefixes[asks[0].image].length
        hidden = self.model.read(self.model.embedding(ids.to(device)), _positions(real, start), cache.open(real), cache)
        out = [_Read([hidden[row, seg - 1] for seg in ask.prompt.segs]) for row, ask in enumerate(asks)]
        if most:
            length = real.sum(dim=1)
            last = hidden[torch.arange(len(asks), device=device), length - 1]
            self._write([(ask.budget, read) for ask, read in zip(asks, out, strict=True)], last, start + length, cache)
        return out

    def _write(self, rows: list[tuple[int, _Read]], last: Tensor, position: Tensor, cache: KeyValues) -> None:
        """Write greedily, all rows together; fills ``_Read`` in place.

        Args:
            rows: Budget of each row and where its answer goes.
            last: [B, D] states that predict the next token.
            position: [B] of the next token.
            cache: Keys and values of the prompts.
        """
        while True:
            top, tokens = self.model.logits(last).float().max(dim=-1)
            # A score that is no number wins, so the greatest of a row tells of all.
            chosen = torch.stack([tokens, top.isfinite().long()], dim=1).tolist()
            live = [not self._over(budget, read) for budget, read in rows]
            for row, (budget, read) in enumerate(rows):
                if live[row]:
                    ends = len(read.ids) + 1 == budget
                    read.ids.append(self._seg if self._forced and ends else chosen[row][0])
                    read.finite = bool(chosen[row][1])
                    if read.ids[-1] == self._seg and (ends or not self._forced):
                        read.states.append(last[row])
            live = [not self._over(budget, read) for budget, read in rows]
            if not any(live):
                return
            # Half of the rows computing for nothing costs more than copying the other half.
            if 2 * sum(live) <= len(live):
                kept = torch.tensor([row for row, alive in enumerate(live) if alive], device=last.device)
                rows = [pair for pair, alive in zip(rows, live, strict=True) if alive]
                cache, position, live = cache.select(kept), position[kept], [True] * len(rows)
            newest = torch.tensor([[read.ids[-1]] for _, read in rows], device=last.device)
            real = torch.tensor([[alive] for alive in live], device=last.device)
            hidden = self.model.read(self.model.embedding(newest), position[:, None], cache.open(real), cache)
            last, position = hidden[:, 0], position + real[:, 0]

    def _over(self, budget: int, read: _Read) -> bool:
        ended = bool(read.ids) and read.ids[-1] == self._eos and not self._forced
        return len(read.ids) >= budget or ended or not read.finite

    # ------------------------------------------------------------------------------------------ masks

    def _paint(
        self, images: Sequence[Pixels], asks: Sequence[Ask], read: Sequence[_Read]
    ) -> list[tuple[Rle | None, ...]]:
        """Paint the masks image by image, so that the features of one image are held at a time."""
        out: list[tuple[_Painted, ...]] = [()] * len(asks)
        for image in sorted({ask.image for ask in asks}):
            rows = [row for row, ask in enumerate(asks) if ask.image == image and read[row].states]
            if not rows:
                continue
            found = iter(self._masks_of(images[image], [state for row in rows for state in read[row].states]))
            for row in rows:
                out[row] = tuple(next(found) for _ in read[row].states)
        # Waited for at the end: encoding goes on beside the next image.
        with self._clock.stage("masks"):
            sound = iter(torch.stack([ok for row in out for _, ok in row]).tolist() if any(out) else [])
            return [tuple(mask.result() if next(sound) else None for mask, _ in row) for row in out]

    def _masks_of(self, pixels: Pixels, states: list[Tensor]) -> list[_Painted]:
        sam = self.model.sam
        with self._clock.stage("resize"):
            seen = prepare(pixels, sam.side)
        with self._clock.stage("SAM features"):
            features = sam.features(seen.pixels.unsqueeze(0).to(self.model.device))
        prompts = self.model.prompts(torch.stack(states))

        def paint(numbers: Sequence[int]) -> list[_Painted]:
            low = sam.masks(features, prompts[list(numbers)])
            found = [self._host.encode(mask) for mask in upsample(low, seen) > 0]
            return list(zip(found, finite_rows(low), strict=True))

        with self._clock.stage("masks"):
            return self._masks.run(range(len(states)), paint)


def _positions(real: Tensor, start: int) -> Tensor:
    """Consecutive positions [B, Q] from ``start`` on."""
    return start + torch.arange(real.shape[1], device=real.device).expand(len(real), -1)
