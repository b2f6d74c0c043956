"""Rollouts: sampled answers behind a protocol, and the sampler on transformers' layers; ``vllm_sampler`` has another.

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

from lens_bench.lens.batching import Budget, row_budget, row_bytes
from lens_bench.lens.cache import GROWTH, KeyValues, Prefix
from lens_bench.lens.config import whole
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.positions import Grid, next_position, prefix_positions
from lens_bench.lens.prompts import Prompter
from lens_bench.lens.writer import HfWriter, Row, Written
from lens_bench.train.draws import stream
from lens_bench.train.trainee import Sight, see

# Answers decoded together at most, and tokens of prompts read together.
_MOST_ROWS = 256
_TOKENS = 4096
# Bytes of a step for each score of a row: in float32 as they come, divided and as log-probabilities (and once more for
# models in float32, whose scores are no copy), and three times in float64 for the draw.
_SCORE = 4 * 4 + 3 * 8


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

    def rest(self) -> None:
        """All rollouts of a step are there: make room for gradients until ``sync`` or ``sample`` is called."""
        ...

    def close(self) -> None:
        """Let go of what is held beside the policy."""
        ...


class HfSampler:
    """Samples with the policy itself, on the inference engine's decoding loop; image and prompt are read once a group.

    Args:
        lens: The policy; put into evaluation mode while sampling.
        prompter: Of its prompts.
        temperature: Scores are divided by it.
        longest: Most tokens of an answer.
        rows: Answers decoded together; None: what fits when they are sampled.
    """

    def __init__(
        self, lens: LensModel, prompter: Prompter, temperature: float, longest: int, rows: int | None = None
    ) -> None:
        self._lens = lens
        self._prompter = prompter
        self._temperature = temperature
        self._longest = longest
        self._asked = rows
        self._most = rows or _MOST_ROWS

    def sync(self) -> None:
        """Nothing to do: the weights are the policy's own."""

    def rest(self) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing is held."""

    @torch.no_grad()
    def sample(self, asks: Sequence[Ask], members: int, seed: int) -> list[list[Rollout]]:
        """``members`` answers to each group, in order."""
        was_training = self._lens.training
        self._lens.eval()
        prompts = read_prompts(self._lens, self._prompter.before, asks)
        rows = [self._row(n * members + m, ask, prompts[n]) for n, ask in enumerate(asks) for m in range(members)]
        keys = [(asks[row.number // members].place, row.number % members) for row in rows]
        choose = _Inverse(self._temperature, seed, keys, self._longest)
        writer = HfWriter(self._lens, self._prompter.ends, self._prompter.padding, with_queries=False, choose=choose)

        def write(part: Sequence[Row]) -> list[Written]:
            choose.begin([row.number for row in part])
            return writer.write(part)

        fits = self._fits(prompts)
        budget = Budget(fits, "rollouts")
        written = budget.run(rows, write)
        if budget.size < fits:
            self._most = budget.size  # memory ran out: never as many again
        self._lens.train(was_training)
        found = [
            Rollout(w.ids, tuple(choose.logps[row.number][: len(w.ids)])) for row, w in zip(rows, written, strict=True)
        ]
        return [found[n * members : (n + 1) * members] for n in range(len(asks))]

    def _fits(self, prompts: Sequence[Prefix]) -> int:
        """Answers to decode together, by the memory that is free now: moments were not there when this was made."""
        device = self._lens.device
        if self._asked is not None or device.type != "cuda":
            return self._most
        return row_budget(device, rollout_bytes(self._lens, prompts, self._longest), cap=self._most)

    def _row(self, number: int, ask: Ask, prompt: Prefix) -> Row:
        last = _start(self._lens, self._prompter.before, ask) + len(ask.after) - 1
        return Row(number, ask.sight.prepared, prompt, last, ask.after[-1:], ask.text, self._longest)


def rollout_bytes(lens: LensModel, prompts: Sequence[Prefix], longest: int) -> int:
    """Most memory that decoding takes for each answer: keys and values with what copies them, states, scores.

    Args:
        lens: The policy.
        prompts: What is held of the prompts, all read; the longest counts.
        longest: Most tokens of an answer.
    """
    text = lens.qwen.config.text_config
    # As ``HfWriter`` reserves them: room for queries, which rollouts do not read, and for growing.
    columns = max(p.length for p in prompts) + lens.head.config.queries + 2 + longest + GROWTH
    states = 4 * (4 * lens.width + 3 * whole(text, "intermediate_size"))
    return row_bytes(text, prompts[0].keys[0].dtype, columns) + states + _SCORE * whole(text, "vocab_size")


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


def read_prompts(lens: LensModel, before: tuple[int, ...], asks: Sequence[Ask]) -> list[Prefix]:
    """Keys and values of each group's prompt but for its last token, in the model's own positions."""
    same: dict[Grid, list[int]] = {}
    for number, ask in enumerate(asks):
        same.setdefault(ask.sight.prepared.grid, []).append(number)
    found: dict[int, Prefix] = {}
    for grid, numbers in same.items():
        positions = prefix_positions(lens.config.positions, len(before), grid, lens.merge)
        size = max(1, _TOKENS // positions.shape[1])
        for start in range(0, len(numbers), size):
            part = numbers[start : start + size]
            read = _read_images(lens, before, [asks[n].sight for n in part], positions)
            found |= dict(zip(part, read, strict=True))
    return _read_questions(lens, before, asks, [found[n] for n in range(len(asks))])


def _read_images(lens: LensModel, before: tuple[int, ...], sights: Sequence[Sight], positions: Tensor) -> list[Prefix]:
    """Keys and values of prompts up to the end of their images, which have one size."""
    lead = lens.embed(torch.tensor(before, dtype=torch.long, device=lens.device), [])
    embeds = torch.stack([torch.cat([lead, see(lens, [sight])[0].to(lead)]) for sight in sights])
    cache = KeyValues.empty(len(lens.qwen.model.language_model.layers), len(sights), lens.device)
    real = torch.ones(embeds.shape[:2], dtype=torch.bool, device=lens.device)
    lens.read(embeds, positions[:, None].expand(-1, len(sights), -1).to(lens.device), cache.open(real), cache)
    return [cache.prefix(row) for row in range(len(sights))]


def _read_questions(
    lens: LensModel, before: tuple[int, ...], asks: Sequence[Ask], prefixes: Sequence[Prefix]
) -> list[Prefix]:
    """The same with what stands behind the image, but for the last token: its scores are where answers begin."""
    longest = max(len(ask.after) for ask in asks) - 1
    if not longest:
        return list(prefixes)
    ids = torch.tensor([[*ask.after[:-1], *[0] * (longest + 1 - len(ask.after))] for ask in asks])
    sizes = torch.tensor([len(ask.after) - 1 for ask in asks])
    starts = torch.tensor([_start(lens, before, ask) for ask in asks])
    ids, steps = ids.to(lens.device), torch.arange(longest)
    positions = (starts[:, None] + steps).expand(3, -1, -1).to(lens.device)
    cache = KeyValues.of_prefixes(prefixes, longest)
    lens.read(lens.embed(ids, []), positions, cache.open((steps < sizes[:, None]).to(lens.device)), cache)
    return [cache.prefix(row) for row in range(len(asks))]


def _start(lens: LensModel, before: tuple[int, ...], ask: Ask) -> int:
    """Position of the first token behind the image."""
    return next_position(lens.config.positions, len(before), ask.sight.prepared.grid, lens.merge)
