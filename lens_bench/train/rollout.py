"""Rollouts: sampled answers behind a protocol, and the sampler on transformers' layers.

Nothing is truncated (no top-p, no top-k), so that the policy's log-probabilities are those of the distribution that was
sampled from. A draw is a function of (seed, step, unit, member): it depends neither on what else is in the batch nor on
the number of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lens_bench.lens.batching import Budget, row_budget
from lens_bench.lens.cache import KeyValues, Prefix
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.positions import next_position, prefix_positions
from lens_bench.lens.prompts import Prompter
from lens_bench.lens.writer import HfWriter, Row, Written
from lens_bench.train.draws import stream
from lens_bench.train.trainee import Sight, see


@dataclass(frozen=True, slots=True)
class Ask:
    """One group to sample.

    Attributes:
        sight: The image.
        after: Prompt ids behind it.
        text: The same as text.
        place: The unit's place in training; the key of its draws.
    """

    sight: Sight
    after: tuple[int, ...]
    text: str
    place: int


@dataclass(frozen=True, slots=True)
class Rollout:
    """A sampled answer: its ids, the end token included, and the sampler's log-probability of each."""

    ids: tuple[int, ...]
    logps: tuple[float, ...]


class Sampler(Protocol):
    """Something that samples answers from the current policy."""

    def sample(self, asks: Sequence[Ask], members: int, seed: int) -> list[list[Rollout]]:
        """``members`` answers to each group, in order."""
        ...

    def sync(self) -> None:
        """Take over the policy's weights, after every update and on every rank."""
        ...


class HfSampler:
    """Samples with the policy itself, on the inference engine's decoding loop; image and prompt are read once a group.

    Args:
        lens: The policy; put into evaluation mode while sampling.
        prompter: Of its prompts.
        temperature: Scores are divided by it.
        longest: Most tokens of an answer.
        rows: Answers decoded together; None: what fits.
    """

    def __init__(
        self, lens: LensModel, prompter: Prompter, temperature: float, longest: int, rows: int | None = None
    ) -> None:
        self._lens = lens
        self._prompter = prompter
        self._temperature = temperature
        self._longest = longest
        self._rows = Budget(rows or row_budget(lens.device, 4 * lens.width * 1024), "rollouts")

    def sync(self) -> None:
        """Nothing to do: the weights are the policy's own."""

    @torch.no_grad()
    def sample(self, asks: Sequence[Ask], members: int, seed: int) -> list[list[Rollout]]:
        """``members`` answers to each group, in order."""
        was_training = self._lens.training
        self._lens.eval()
        prefixes = [prefix(self._lens, self._prompter.before, ask.sight) for ask in asks]
        rows = [self._row(n * members + m, ask, prefixes[n]) for n, ask in enumerate(asks) for m in range(members)]
        keys = [(asks[row.number // members].place, row.number % members) for row in rows]
        choose = _Inverse(self._temperature, seed, keys, self._longest)
        writer = HfWriter(self._lens, self._prompter.ends, self._prompter.padding, with_queries=False, choose=choose)

        def write(part: Sequence[Row]) -> list[Written]:
            choose.begin([row.number for row in part])
            return writer.write(part)

        written = self._rows.run(rows, write)
        self._lens.train(was_training)
        found = [
            Rollout(w.ids, tuple(choose.logps[row.number][: len(w.ids)])) for row, w in zip(rows, written, strict=True)
        ]
        return [found[n * members : (n + 1) * members] for n in range(len(asks))]

    def _row(self, number: int, ask: Ask, prefix: Prefix) -> Row:
        lens, before = self._lens, len(self._prompter.before)
        start = next_position(lens.config.positions, before, ask.sight.prepared.grid, lens.merge)
        return Row(number, ask.sight.prepared, prefix, start, ask.after, ask.text, self._longest)


class _Inverse:
    """Draws tokens by inverting the cumulative distribution at one uniform number per row and token."""

    def __init__(self, temperature: float, seed: int, keys: Sequence[tuple[int, int]], longest: int) -> None:
        self._temperature = temperature
        self._uniform: list[NDArray[np.float64]] = [
            stream(seed, "rollout", place, member).random(longest) for place, member in keys
        ]
        self.logps: list[list[float]] = [[] for _ in keys]

    def begin(self, rows: Sequence[int]) -> None:
        """Start rows over: a batch that did not fit into memory is tried again in parts."""
        for row in rows:
            self.logps[row] = []

    def __call__(self, scores: Tensor, rows: Sequence[int]) -> Tensor:
        """Pick tokens [B] from scores [B, V]; called once per step for rows that may be over already."""
        logps = torch.log_softmax(scores / self._temperature, dim=-1)
        drawn = [self._uniform[row][min(len(self.logps[row]), len(self._uniform[row]) - 1)] for row in rows]
        # float64: the sum over a large vocabulary must not end visibly below 1.
        heap = logps.double().exp().cumsum(dim=-1)
        at = torch.tensor(drawn, dtype=torch.float64, device=scores.device).unsqueeze(1) * heap[:, -1:]
        tokens = torch.searchsorted(heap, at, right=True).clamp(max=scores.shape[1] - 1)
        for row, value in zip(rows, logps.gather(1, tokens)[:, 0].tolist(), strict=True):
            self.logps[row].append(value)
        return tokens[:, 0]


def prefix(lens: LensModel, before: tuple[int, ...], sight: Sight) -> Prefix:
    """Keys and values of the prompt up to the end of an image, in the model's own positions."""
    (visual,) = see(lens, [sight])
    lead = lens.embed(torch.tensor(before, dtype=torch.long, device=lens.device), [])
    embeds = torch.cat([lead, visual.to(lead)])[None]
    positions = prefix_positions(lens.config.positions, len(before), sight.prepared.grid, lens.merge)
    cache = KeyValues.empty(len(lens.qwen.model.language_model.layers), 1, lens.device)
    real = torch.ones(1, embeds.shape[1], dtype=torch.bool, device=lens.device)
    lens.read(embeds, positions[:, None].to(lens.device), cache.open(real), cache)
    return cache.prefix(0)
