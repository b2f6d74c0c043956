"""Rows of a training batch: each image and its instructions once, all its expressions behind them.

A row is a prefix (text, image) and any number of segments (the rest of a prompt, an answer, the context queries). A
segment attends to the prefix and to itself, never to its neighbours, and its positions continue those of the prefix, so
the result is that of one row per expression (tested). Rows stand one behind the other, and nothing is padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lens_bench.lens.config import Positions
from lens_bench.lens.positions import Grid, image_tokens, next_position, prefix_positions
from lens_bench.lens.spans import Spans


@dataclass(frozen=True, slots=True)
class Segment:
    """One expression behind its image.

    Attributes:
        after: Prompt ids behind the image.
        answer: Ids of the answer.
    """

    after: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """What a model says about rows.

    Attributes:
        before: Prompt ids in front of the image.
        image_token: Id of the image placeholder.
        padding: Id that the context queries do not see.
        merge: Patches merged per token and axis.
        queries: Number of context queries.
        mode: Positions.
    """

    before: tuple[int, ...]
    image_token: int
    padding: int
    merge: int
    queries: int
    mode: Positions


@dataclass(frozen=True, slots=True)
class Pack:
    """N tokens of R rows with S segments in all; the longest answer has T tokens.

    Attributes:
        ids: [1, N] token ids, the padding's at queries.
        positions: [3, 1, N].
        spans: How the tokens divide into prefixes and segments, and what each segment sees.
        slots: Bool [1, N]: where the context queries stand.
        picture: Bool [1, N]: where the visual tokens stand. An answer may name the placeholder; it stays a word there.
        image_of: [S] number of each segment's image.
        images: Number of the image of each row.
        queries_at: [S, M] index of each query.
        read_at: [S, T] index of the token that predicts each answer token; 0 where masked.
        targets: [S, T] answer tokens; 0 where masked.
        real: Bool [S, T].
    """

    ids: Tensor
    positions: Tensor
    spans: Spans
    slots: Tensor
    picture: Tensor
    image_of: Tensor
    images: tuple[int, ...]
    queries_at: Tensor
    read_at: Tensor
    targets: Tensor
    real: Tensor

    @property
    def tokens(self) -> int:
        """Tokens that are read, the queries included."""
        return self.ids.shape[1]

    def to(self, device: torch.device) -> Pack:
        """A copy on a device."""
        return replace(
            self,
            ids=self.ids.to(device),
            positions=self.positions.to(device),
            spans=self.spans.to(device),
            slots=self.slots.to(device),
            picture=self.picture.to(device),
            image_of=self.image_of.to(device),
            queries_at=self.queries_at.to(device),
            read_at=self.read_at.to(device),
            targets=self.targets.to(device),
            real=self.real.to(device),
        )


@dataclass(slots=True)
class _Line:
    """The long row while it is being written: one entry per token, or per span."""

    ids: list[int] = field(default_factory=list)
    slots: list[bool] = field(default_factory=list)
    picture: list[bool] = field(default_factory=list)
    positions: list[Tensor] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    masks: list[Tensor] = field(default_factory=list)


def pack(layout: Layout, grids: Sequence[Grid], asked: Sequence[Sequence[Segment]], *, share: bool = True) -> Pack:
    """Lay out rows.

    Args:
        layout: Of the model.
        grids: Patch grid of each image.
        asked: Segments of each image, at least one in all.
        share: One row per image; else one row per segment.
    """
    groups = [(n, list(s)) for n, s in enumerate(asked) if s]
    if not share:
        groups = [(n, [segment]) for n, segments in groups for segment in segments]
    line, known = _Line(), dict[tuple[int, tuple[bool, ...]], Tensor]()
    sizes = tuple(_write(line, layout, grids[image], segments, known) for image, segments in groups)
    segments = [segment for _, group in groups for segment in group]
    read_at, targets, real = _answers(segments, line.starts)
    return Pack(
        ids=torch.tensor([line.ids]),
        positions=torch.cat(line.positions, dim=1).unsqueeze(1),
        spans=Spans(sizes, tuple(line.masks)),
        slots=torch.tensor([line.slots]),
        picture=torch.tensor([line.picture]),
        image_of=torch.tensor([image for image, group in groups for _ in group]),
        images=tuple(image for image, _ in groups),
        queries_at=_queries(segments, line.starts, layout.queries),
        read_at=read_at,
        targets=targets,
        real=real,
    )


def _write(
    line: _Line,
    layout: Layout,
    grid: Grid,
    segments: Sequence[Segment],
    known: dict[tuple[int, tuple[bool, ...]], Tensor],
) -> tuple[int, ...]:
    """Write one row; returns the sizes of its spans. ``known`` holds the masks made so far, most of which recur."""
    before, count = len(layout.before), image_tokens(grid, layout.merge)
    prefix = before + count
    line.ids += [*layout.before, *[layout.image_token] * count]
    line.slots += [False] * prefix
    line.picture += [*[False] * before, *[True] * count]
    line.positions.append(prefix_positions(layout.mode, before, grid, layout.merge))
    start = next_position(layout.mode, before, grid, layout.merge)
    sizes = [prefix]
    for segment in segments:
        text = (*segment.after, *segment.answer)
        # As at inference: the queries neither see padding in an answer nor count it.
        seen = (*[True] * len(segment.after), *(token != layout.padding for token in segment.answer))
        behind = start + sum(seen)
        steps = [*range(start, start + len(text)), *range(behind, behind + layout.queries)]
        line.starts.append(len(line.ids))
        line.ids += [*text, *[layout.padding] * layout.queries]
        line.slots += [*[False] * len(text), *[True] * layout.queries]
        line.picture += [False] * len(steps)
        line.positions.append(torch.tensor(steps).expand(3, -1))
        if (prefix, seen) not in known:
            known[prefix, seen] = _mask(prefix, seen, layout.queries)
        line.masks.append(known[prefix, seen])
        sizes.append(len(steps))
    return tuple(sizes)


def _mask(prefix: int, seen: Sequence[bool], queries: int) -> Tensor:
    """Mask [1, 1, t, prefix + t] of a segment: causal behind its prefix; queries leave out what is not seen."""
    text = len(seen)
    allowed = torch.ones(text + queries, prefix + text + queries, dtype=torch.bool).tril(prefix)
    allowed[text:, prefix : prefix + text] &= torch.tensor(seen, dtype=torch.bool)
    return torch.zeros(allowed.shape).masked_fill(~allowed, -torch.inf)[None, None]


def _queries(segments: Sequence[Segment], starts: Sequence[int], count: int) -> Tensor:
    """``queries_at`` of a pack."""
    first = [start + len(s.after) + len(s.answer) for s, start in zip(segments, starts, strict=True)]
    return torch.tensor(first).unsqueeze(1) + torch.arange(count)


def _answers(segments: Sequence[Segment], starts: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """``read_at``, ``targets`` and ``real`` of a pack."""
    longest = max(1, max(len(s.answer) for s in segments))
    sizes = torch.tensor([len(s.answer) for s in segments]).unsqueeze(1)
    first = torch.tensor([start + len(s.after) for s, start in zip(segments, starts, strict=True)]).unsqueeze(1)
    steps = torch.arange(longest)
    real = steps < sizes
    # A token is predicted by the one before it.
    read_at = torch.where(real, first - 1 + steps, 0)
    targets = torch.tensor([[*s.answer, *[0] * (longest - len(s.answer))] for s in segments])
    return read_at, targets, real
