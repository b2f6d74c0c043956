"""The inference engine: what belongs to an image once per image, what belongs to an expression in large batches.

Per image: resizing, the vision tower, SAM 2's features, keys and values of the prompt up to the end of the image. Per
expression: the rest of the prompt, the answer, the context queries, one mask. The result is the same as asking one
expression at a time with a full forward (tested in both position modes), whatever the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from torch import Tensor

from lens_bench.answers import box_in_image, first_box
from lens_bench.finite import MASK_SCORES, TOKEN_SCORES, finite_rows
from lens_bench.lens.batching import Budget, padded_rows, row_budget, row_bytes
from lens_bench.lens.cache import KeyValues, Prefix
from lens_bench.lens.config import Positions
from lens_bench.lens.host import Host
from lens_bench.lens.images import Patching, Prepared
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.positions import image_tokens, next_position, prefix_positions
from lens_bench.lens.prompts import Prompter
from lens_bench.lens.sam import SamFeatures, upsample
from lens_bench.lens.writer import HfWriter, Row, TextEngine, Written, query_states
from lens_bench.perf.clock import StageClock
from lens_bench.records import Box, Pixels, Rle

_ROW_TOKENS = 1024  # of a prompt with its image, and an answer


@dataclass(frozen=True, slots=True)
class Batches:
    """How much is done at once; None lets the engine choose from the memory at hand.

    Attributes:
        images: Images whose features are held together.
        rows: Expressions decoded together.
        masks: Masks decoded together.
    """

    images: int | None = None
    rows: int | None = None
    masks: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says about one expression.

    Attributes:
        text: The answer as text.
        ids: Its token ids.
        box: In pixels of the original image, where the text names one.
        mask: At the original size; None where ``error`` says why there is none.
        prompt_tokens: Tokens of the prompt, the image's included.
        error: Why the expression could not be asked, or not be answered in finite numbers.
    """

    text: str
    ids: tuple[int, ...]
    box: Box | None
    mask: Rle | None
    prompt_tokens: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class _Encoded:
    """One image behind the encoders. ``generation`` and ``reading`` are one object where positions agree."""

    prepared: Prepared
    generation: Prefix | None
    reading: Prefix
    sam: SamFeatures


@dataclass(frozen=True, slots=True)
class _Asked:
    """One expression on one image of the chunk."""

    image: int
    row: Row
    prompt_tokens: int
    refused: str = ""


class Engine:
    """Answers expressions on images with one model.

    Args:
        model: In evaluation mode, on its device.
        prompter: Writes prompts and reads answers.
        writer: Text engine; by default ours on transformers' layers.
        batches: Sizes.

    Attributes:
        seconds: Time that each stage of the last ``answer`` took, by the device's clock; ``compile`` is what compiling
            or recording decoding steps took, at the first step of a shape.
    """

    def __init__(
        self, model: LensModel, prompter: Prompter, writer: TextEngine | None = None, batches: Batches | None = None
    ) -> None:
        self.model = model
        self.prompter = prompter
        self.mode: Positions = model.config.positions
        self.writer: TextEngine = writer or HfWriter(model, prompter.ends, prompter.padding, self.mode == "mrope")
        vision = model.qwen.config.vision_config
        temporal = getattr(vision, "temporal_patch_size", 2)
        self.patching = Patching(model.patch, model.merge, int(temporal))
        self.seconds: dict[str, float] = {}
        self._clock, self._prepared = StageClock(str(model.device)), 0.0
        self._host = Host(model.device)
        sizes = batches or Batches()
        cuda = model.device.type == "cuda"
        self._images = Budget(sizes.images or (32 if cuda else 8), "images")
        self._towers = Budget(self._images.size if cuda else 2, "SAM 2 features")
        per_row = row_bytes(model.qwen.config.text_config, model.text_dtype, _ROW_TOKENS)
        self._rows = Budget(sizes.rows or row_budget(model.device, per_row), "expressions")
        self._masks = Budget(sizes.masks or (64 if cuda else 4), "masks")

    @torch.inference_mode()
    def answer(self, images: Sequence[Pixels], asks: Sequence[tuple[int, str]]) -> list[Answer]:
        """Answer expressions.

        Args:
            images: RGB uint8 [H, W, 3].
            asks: (number of the image, expression) pairs.

        Returns:
            One answer per pair, in order.

        Raises:
            DataError: An image cannot be asked about at all.
            OutOfMemoryError: A single expression does not fit.
        """
        self.seconds, self._clock, self._prepared = {}, StageClock(str(self.model.device)), 0.0
        by_image: dict[int, list[int]] = {}
        for place, (image, _) in enumerate(asks):
            by_image.setdefault(image, []).append(place)
        out: dict[int, Answer] = {}

        def chunk(numbers: Sequence[int]) -> list[None]:
            places = [p for n in numbers for p in by_image[n]]
            local = {n: i for i, n in enumerate(numbers)}
            answers = self._chunk([images[n] for n in numbers], [(local[asks[p][0]], asks[p][1]) for p in places])
            out.update(zip(places, answers, strict=True))
            return [None] * len(numbers)

        self._images.run(sorted(by_image), chunk)
        self.writer.forget()
        self.seconds = self._clock.seconds()
        if self._prepared:
            self.seconds["answer"] -= self._prepared
            self.seconds["compile"] = self._prepared
        return [out[place] for place in range(len(asks))]

    # ------------------------------------------------------------------------------------------ stages

    def _chunk(self, images: Sequence[Pixels], asks: Sequence[tuple[int, str]]) -> list[Answer]:
        encoded = self._encode(images)
        with self._clock.stage("prompt"):
            asked = [self._ask(number, image, encoded[image], text) for number, (image, text) in enumerate(asks)]
        fine = [a for a in asked if not a.refused]
        with self._clock.stage("answer"):
            written = self._rows.run([a.row for a in fine], self.writer.write, _row_length)
            self._prepared += self.writer.preparation()
        with self._clock.stage("mask pass"):
            states = self._states(fine, written, encoded)
        with self._clock.stage("masks"):
            found = self._paint(fine, states, encoded)
        answers = iter([self._answer(a, w, m, encoded[a.image]) for a, w, m in zip(fine, written, found, strict=True)])
        refused = [Answer("", (), None, None, a.prompt_tokens, a.refused) for a in asked]
        return [answer if a.refused else next(answers) for a, answer in zip(asked, refused, strict=True)]

    def _encode(self, images: Sequence[Pixels]) -> list[_Encoded]:
        recipe, size = self.prompter.recipe, self.model.sam.image_size
        with self._clock.stage("resize"):
            prepared = self._host.prepare(images, recipe, self.patching, size)
        with self._clock.stage("vision tower"):
            patches = torch.cat([p.patches.to(self.model.device, non_blocking=True) for p in prepared])
            visual = self.model.see(patches, [p.grid for p in prepared])
        with self._clock.stage("prefix"):
            reading = self._prefixes(self.mode, prepared, visual)
            generation: Sequence[Prefix | None] = reading
            if not self.writer.wants_prefixes:
                generation = [None] * len(reading)
            elif self.mode != "mrope":
                generation = self._prefixes("mrope", prepared, visual)
        with self._clock.stage("SAM 2 features"):
            sam = self._towers.run(prepared, self._features)
        return [_Encoded(*parts) for parts in zip(prepared, generation, reading, sam, strict=True)]

    def _features(self, prepared: Sequence[Prepared]) -> list[SamFeatures]:
        dtype = self.model.sam.sam2.no_memory_embedding.dtype
        squares = torch.stack([p.square.to(self.model.device, non_blocking=True) for p in prepared]).to(dtype)
        features = self.model.sam.features(squares)
        return [features.row(n) for n in range(len(prepared))]

    def _prefixes(self, mode: Positions, prepared: Sequence[Prepared], visual: Sequence[Tensor]) -> list[Prefix]:
        """Read the prompt up to the end of each image."""
        before = torch.tensor(self.prompter.before, dtype=torch.long, device=self.model.device)
        lead = self.model.embed(before, [])
        longest = len(before) + max(len(v) for v in visual)
        embeds = lead.new_zeros(len(visual), longest, lead.shape[1])
        positions = torch.zeros(3, len(visual), longest, dtype=torch.long)
        real = torch.zeros(len(visual), longest, dtype=torch.bool)
        for row, (image, tokens) in enumerate(zip(prepared, visual, strict=True)):
            end = len(before) + len(tokens)
            embeds[row, : len(before)], embeds[row, len(before) : end] = lead, tokens.to(lead)
            positions[:, row, :end] = prefix_positions(mode, len(before), image.grid, self.model.merge)
            real[row, :end] = True
        layers = len(self.model.qwen.model.language_model.layers)
        cache = KeyValues.empty(layers, len(visual), self.model.device)
        self.model.read(embeds, positions.to(embeds.device), cache.open(real.to(embeds.device)), cache)
        return [cache.prefix(row) for row in range(len(visual))]

    def _ask(self, number: int, image: int, encoded: _Encoded, expression: str) -> _Asked:
        after = self.prompter.after(expression)
        before, grid, merge = len(self.prompter.before), encoded.prepared.grid, self.model.merge
        tokens = before + image_tokens(grid, merge) + len(after)
        start = next_position("mrope", before, grid, merge)
        budget = self.prompter.recipe.answer_budget(tokens)
        text = self.prompter.after_text(expression)
        row = Row(number, encoded.prepared, encoded.generation, start, after, text, budget)
        return _Asked(image, row, tokens, self.prompter.refusal(expression, tokens))

    def _states(self, asked: Sequence[_Asked], written: Sequence[Written], encoded: Sequence[_Encoded]) -> list[Tensor]:
        """Hidden states [M, D] at the queries of every row; computed here where the text engine has none."""
        todo = [n for n, w in enumerate(written) if w.queries is None]

        def read(numbers: Sequence[int]) -> list[Tensor]:
            rows = [(asked[n].row.after + self.prompter.kept(written[n].ids), encoded[asked[n].image]) for n in numbers]
            return list(self._mask_pass(rows))

        length = {
            n: len(asked[n].row.after) + len(written[n].ids) + encoded[asked[n].image].reading.length for n in todo
        }
        states = dict(zip(todo, self._rows.run(todo, read, lambda n: length[n]), strict=True))
        for n, w in enumerate(written):
            if w.queries is not None:
                states[n] = w.queries
        return [states[n] for n in range(len(written))]

    def _mask_pass(self, rows: Sequence[tuple[tuple[int, ...], _Encoded]]) -> Tensor:
        """Read prompt and answer behind the images, then the queries; [B, M, D]."""
        device, (ids, real) = self.model.device, padded_rows([ids for ids, _ in rows])
        before, merge = len(self.prompter.before), self.model.merge
        start = torch.tensor([next_position(self.mode, before, e.prepared.grid, merge) for _, e in rows], device=device)
        cache = KeyValues.of_prefixes([e.reading for _, e in rows], ids.shape[1] + self.model.head.config.queries)
        return query_states(self.model, cache, ids.to(device), real.to(device), start)

    def _paint(
        self, asked: Sequence[_Asked], states: Sequence[Tensor], encoded: Sequence[_Encoded]
    ) -> list[Rle | None]:
        """Masks; None where the scores are not finite."""
        if not asked:
            return []
        prompts = self.model.prompts(torch.stack(list(states)))

        def paint(numbers: Sequence[int]) -> list[tuple[Future[Rle], Tensor]]:
            features = SamFeatures.stack([encoded[asked[n].image].sam for n in numbers])
            logits = self.model.sam.masks(features, prompts[torch.tensor(numbers, device=prompts.device)])
            sizes = [encoded[asked[n].image].prepared.original for n in numbers]
            found = [self._host.encode(upsample(low, size) > 0) for low, size in zip(logits, sizes, strict=True)]
            return list(zip(found, finite_rows(logits), strict=True))

        painted = self._masks.run(range(len(asked)), paint)
        finite = torch.stack([row for _, row in painted]).tolist()
        return [mask.result() if sound else None for (mask, _), sound in zip(painted, finite, strict=True)]

    # ------------------------------------------------------------------------------------------ answers

    def _answer(self, asked: _Asked, written: Written, mask: Rle | None, encoded: _Encoded) -> Answer:
        text = self.prompter.text(written.ids)
        if mask is None or not written.finite:
            why = MASK_SCORES if written.finite else TOKEN_SCORES
            return Answer(text, written.ids, None, None, asked.prompt_tokens, why)
        said = first_box(text, self.prompter.recipe.coordinates)
        box = None if said is None else box_in_image(said, encoded.prepared.seen, encoded.prepared.original)
        return Answer(text, written.ids, box, mask, asked.prompt_tokens)


def _row_length(row: Row) -> int:
    """What makes rows alike: the keys they attend to, then the prompt they read."""
    return (row.prefix.length if row.prefix is not None else 0) + len(row.after)
