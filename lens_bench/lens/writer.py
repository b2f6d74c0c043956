"""Writing answers: the protocol of a text engine, and the one on transformers' layers.

The engine decodes many rows at once behind prefixes that were computed once per image. Where the mask pass shares the
generation's positions (``mrope``), it continues right behind an answer on the same keys and values: the last sampled
token, which no step has read yet, then the context queries. Columns behind a row's end are never attended to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from lens_bench.lens.batching import padded_rows
from lens_bench.lens.cache import Cache, KeyValues, Prefix
from lens_bench.lens.decode import Decoder, GrowingDecoder, StaticDecoder
from lens_bench.lens.images import Prepared
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.steps import Decode, runner

# Picks tokens [B] from scores [B, V] of the given rows; called once per step with the numbers of the rows still live.
Choose: TypeAlias = Callable[[Tensor, Sequence[int]], Tensor]


@dataclass(frozen=True, slots=True)
class Row:
    """One expression to be answered.

    Attributes:
        number: Identity of the row, passed on to ``Choose``.
        image: The prepared image.
        prefix: Keys and values of the prompt up to the end of the image in the backbone's own positions; None for
            engines that read the image themselves.
        next: Position of the first token behind the image.
        after: Prompt ids behind the image.
        text: The same as text, for engines that tokenise themselves.
        budget: Most tokens an answer may have, at least 1.
    """

    number: int
    image: Prepared
    prefix: Prefix | None
    next: int
    after: tuple[int, ...]
    text: str
    budget: int


@dataclass(frozen=True, slots=True)
class Written:
    """An answer.

    Attributes:
        ids: Token ids, the end token included where there is one.
        queries: Hidden states [M, D] at the context queries where the engine got them on the way, else None.
        finite: Whether the score of every token was a finite number; an answer ends at the first that was not.
    """

    ids: tuple[int, ...]
    queries: Tensor | None = None
    finite: bool = True


class TextEngine(Protocol):
    """Something that answers rows."""

    @property
    def wants_prefixes(self) -> bool:
        """Whether rows need ``prefix``."""
        ...

    def write(self, rows: Sequence[Row]) -> list[Written]:
        """Answer every row, in order."""
        ...

    def preparation(self) -> float:
        """Seconds spent on compiling or recording since this was last asked."""
        ...

    def forget(self) -> None:
        """Drop what is kept of earlier rows: the next call is other work, also where it asks the same."""
        ...

    def close(self) -> None:
        """Free what the engine holds beside the model."""
        ...


def greedy(scores: Tensor, rows: Sequence[int]) -> Tensor:
    """The likeliest token of every row; ``rows`` is not looked at."""
    return scores.argmax(dim=-1)


@dataclass(slots=True)
class _Batch:
    """Rows that are being decoded together."""

    cache: KeyValues
    rows: list[Row]
    last: Tensor  # [B, D] hidden states that give the next token
    position: Tensor  # [B] of the next token
    ids: list[list[int]] = field(default_factory=list)
    finite: list[bool] = field(default_factory=list)

    def finished(self, ends: frozenset[int]) -> list[bool]:
        return [
            bool(ids) and (ids[-1] in ends or len(ids) >= row.budget or not finite)
            for ids, row, finite in zip(self.ids, self.rows, self.finite, strict=True)
        ]


class HfWriter:
    """Decoding on transformers' layers with our own cache and loop.

    Args:
        model: The model.
        ends: Ids that end an answer.
        padding: Id that the mask pass leaves out.
        with_queries: Continue to the context queries (only right where the mask pass has the same positions).
        choose: Picks tokens; greedy by default.
        decoder: Holds keys and values and reads tokens; by default as eager decoding does.
    """

    def __init__(
        self,
        model: LensModel,
        ends: frozenset[int],
        padding: int,
        with_queries: bool,
        choose: Choose = greedy,
        decoder: Decoder | None = None,
    ) -> None:
        self._model = model
        self._ends = ends
        self._padding = padding
        self._with_queries = with_queries
        self._choose = choose
        self._decoder = decoder or make_decoder(model, "eager")

    @property
    def wants_prefixes(self) -> bool:
        """Rows need ``prefix``."""
        return True

    def preparation(self) -> float:
        """Seconds spent on compiling or recording since this was last asked."""
        return self._decoder.preparation()

    def forget(self) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Free what the decoder holds."""
        self._decoder.release()

    @torch.inference_mode()
    def write(self, rows: Sequence[Row]) -> list[Written]:
        """Answer the rows as one batch, in order."""
        try:
            return self._write(rows)
        except (RuntimeError, MemoryError):
            # Where memory ran out, what is held for a batch of this size must not stand in the way of a smaller one.
            self._decoder.release()
            raise

    def _write(self, rows: Sequence[Row]) -> list[Written]:
        batch = self._begin(list(rows))
        done: dict[int, Written] = {}
        names = {id(row): place for place, row in enumerate(rows)}
        while batch.rows:
            finished = self._step(batch)
            # Half of the rows computing for nothing costs more than copying the other half.
            if all(finished) or 2 * sum(finished) >= len(finished):
                for row, written in self._retire(batch, finished):
                    done[names[id(row)]] = written
                batch = self._keep(batch, finished)
                finished = [False] * len(batch.rows)
            if batch.rows:
                self._feed(batch, finished)
        return [done[place] for place in range(len(rows))]

    # ------------------------------------------------------------------------------------------ steps

    def _begin(self, rows: list[Row]) -> _Batch:
        """Read the prompts behind the images."""
        prefixes = [row.prefix for row in rows]
        if any(p is None for p in prefixes):
            raise ValueError("rows without a prefix")
        ids, real = padded_rows([row.after for row in rows])
        longest = ids.shape[1]
        fixed = longest + self._model.head.config.queries + 1
        answer = max(row.budget for row in rows)
        cache = self._decoder.begin([p for p in prefixes if p is not None], fixed, answer)
        device = self._model.device
        ids, real = ids.to(device), real.to(device)
        start = torch.tensor([row.next for row in rows], device=device)
        positions = (start[:, None] + torch.arange(longest, device=device)).expand(3, -1, -1)
        hidden = self._model.read(self._model.embed(ids, []), positions, cache.open(real), cache)
        lengths = real.sum(dim=1)
        last = hidden[torch.arange(len(rows), device=device), lengths - 1]
        return _Batch(cache, rows, last, start + lengths, [[] for _ in rows], [True for _ in rows])

    def _step(self, batch: _Batch) -> list[bool]:
        """Choose a token for every row that is not finished; says which rows are finished now."""
        before = batch.finished(self._ends)
        scores = self._model.logits(batch.last).float()
        tokens = self._choose(scores, [row.number for row in batch.rows])
        # A score that is no number wins: the greatest of a row is finite only if none of them is NaN or infinite.
        finite = scores.amax(dim=-1).isfinite()
        chosen = torch.stack([tokens.long(), finite.long()], dim=1).tolist()
        for place, ((token, sound), over) in enumerate(zip(chosen, before, strict=True)):
            if not over:
                batch.ids[place].append(token)
                batch.finite[place] = bool(sound)
        return batch.finished(self._ends)

    def _feed(self, batch: _Batch, finished: Sequence[bool]) -> None:
        """Read the tokens just chosen; finished rows read along without leaving a trace."""
        device = self._model.device
        tokens = torch.tensor([[ids[-1]] for ids in batch.ids], device=device)
        live = torch.tensor([[not over] for over in finished], device=device)
        batch.last = self._decoder.feed(batch.cache, tokens, live, batch.position)
        batch.position = batch.position + live[:, 0]

    def _retire(self, batch: _Batch, finished: Sequence[bool]) -> list[tuple[Row, Written]]:
        """Answers of the finished rows, with the states of their queries where wanted."""
        places = [place for place, over in enumerate(finished) if over]
        states: Sequence[Tensor | None] = [None] * len(places)
        if self._with_queries and places:
            index = torch.tensor(places, device=self._model.device)
            last = torch.tensor([[batch.ids[p][-1]] for p in places], device=self._model.device)
            kept = last != self._padding
            whole = len(places) == len(batch.rows)
            cache = batch.cache if whole else batch.cache.select(index)
            states = list(query_states(self._model, cache, last, kept, batch.position[index]))
        return [
            (batch.rows[p], Written(tuple(batch.ids[p]), state, batch.finite[p]))
            for p, state in zip(places, states, strict=True)
        ]

    def _keep(self, batch: _Batch, finished: Sequence[bool]) -> _Batch:
        """The batch without its finished rows."""
        places = [place for place, over in enumerate(finished) if not over]
        if not places:
            return _Batch(batch.cache, [], batch.last, batch.position)
        index = torch.tensor(places, device=self._model.device)
        return _Batch(
            self._decoder.keep(batch.cache, index),
            [batch.rows[p] for p in places],
            batch.last[index],
            batch.position[index],
            [batch.ids[p] for p in places],
            [batch.finite[p] for p in places],
        )


def make_decoder(model: LensModel, decode: Decode) -> Decoder:
    """The decoder of one of the ways to decode, for a model on its device."""

    def read(ids: Tensor, positions: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        axes = positions.view(1, -1, 1).expand(3, -1, -1)
        return model.read(model.embed(ids, []), axes, mask, cache)[:, 0]

    return GrowingDecoder(read) if decode == "eager" else StaticDecoder(runner(decode, read, model.device))


def query_states(model: LensModel, cache: KeyValues, ids: Tensor, real: Tensor, start: Tensor) -> Tensor:
    """Read tokens and then the context queries behind what a cache holds.

    Args:
        model: The model.
        cache: Everything before, in the same positions.
        ids: [B, T] tokens that the cache does not hold yet, real ones first.
        real: Bool [B, T].
        start: [B] position of each row's first token.

    Returns:
        Hidden states [B, M, D] at the queries, which take the positions behind each row's last real token.
    """
    rows, width = ids.shape
    count = model.head.config.queries
    steps = torch.arange(width + count, device=ids.device).expand(rows, -1)
    gap = width - real.sum(dim=1, keepdim=True)
    offset = torch.where(steps < width, steps, steps - gap)
    embeds = model.embed(ids, [])
    queries = model.head.queries.to(embeds.dtype).expand(rows, -1, -1)
    everything = torch.cat([real, real.new_ones(rows, count)], dim=1)
    hidden = model.read(
        torch.cat([embeds, queries], dim=1), (start[:, None] + offset).expand(3, -1, -1), cache.open(everything), cache
    )
    return hidden[:, -count:]
