"""Rows of a training batch: each image and its instructions once, all its expressions behind them.

A row is a prefix (text, image) and any number of segments (the rest of a prompt, an answer, the context queries). A
segment attends to the prefix and to itself, never to its neighbours, and its positions continue those of the prefix, so
the result is that of one row per expression (tested). Nothing is padded inside a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lens_bench.lens.config import Positions
from lens_bench.lens.positions import Grid, image_tokens, next_position, prefix_positions


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
    """R rows with S segments in all; the longest answer has T tokens.

    Attributes:
        ids: [R, L] token ids, the padding's at queries and behind a row's end.
        positions: [3, R, L].
        mask: Bool [R, 1, L, L]: what each token attends to.
        slots: Bool [R, L]: where the context queries stand.
        picture: Bool [R, L]: where the visual tokens stand. An answer may name the placeholder; it stays a word there.
        image_of: [S] number of each segment's image.
        images: Number of the image of each row.
        queries_at: [S, M] index of each query in the flattened rows.
        read_at: [S, T] index, in the flattened rows, of the token that predicts each answer token; 0 where masked.
        targets: [S, T] answer tokens; 0 where masked.
        real: Bool [S, T].
        tokens: Tokens that are read, the queries included.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    slots: Tensor
    picture: Tensor
    image_of: Tensor
    images: tuple[int, ...]
    queries_at: Tensor
    read_at: Tensor
    targets: Tensor
    real: Tensor
    tokens: int

    def to(self, device: torch.device) -> Pack:
        """A copy on a device."""
        return replace(
            self,
            ids=self.ids.to(device),
            positions=self.positions.to(device),
            mask=self.mask.to(device),
            slots=self.slots.to(device),
            picture=self.picture.to(device),
            image_of=self.image_of.to(device),
            queries_at=self.queries_at.to(device),
            read_at=self.read_at.to(device),
            targets=self.targets.to(device),
            real=self.real.to(device),
        )


@dataclass(slots=True)
class _Row:
    """A row while it is being written: one entry per token."""

    ids: list[int]
    segment: list[int]
    seen: list[bool]
    positions: list[Tensor]


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
    rows = [_row(layout, grids[image], segments) for image, segments in groups]
    length = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), length), layout.padding)
    segment_of = torch.full((len(rows), length), -1)
    seen = torch.zeros(len(rows), length, dtype=torch.bool)
    positions = torch.zeros(3, len(rows), length, dtype=torch.long)
    for number, row in enumerate(rows):
        end = len(row.ids)
        ids[number, :end], segment_of[number, :end] = torch.tensor(row.ids), torch.tensor(row.segment)
        seen[number, :end] = torch.tensor(row.seen)
        positions[:, number, :end] = torch.cat(row.positions, dim=1)
    slots = _slots(layout, rows, length)
    picture = torch.zeros_like(seen)
    for number, (image, _) in enumerate(groups):
        first = len(layout.before)
        picture[number, first : first + image_tokens(grids[image], layout.merge)] = True
    answers = _answers(layout, groups, rows, length)
    return Pack(
        ids=ids,
        positions=positions,
        mask=_mask(segment_of, seen, slots),
        slots=slots,
        picture=picture,
        image_of=torch.tensor([image for image, group in groups for _ in group]),
        images=tuple(image for image, _ in groups),
        queries_at=answers[0],
        read_at=answers[1],
        targets=answers[2],
        real=answers[3],
        tokens=sum(len(row.ids) for row in rows),
    )


def _row(layout: Layout, grid: Grid, segments: Sequence[Segment]) -> _Row:
    before, count = len(layout.before), image_tokens(grid, layout.merge)
    row = _Row(
        [*layout.before, *[layout.image_token] * count],
        [0] * (before + count),
        [True] * (before + count),
        [prefix_positions(layout.mode, before, grid, layout.merge)],
    )
    start = next_position(layout.mode, before, grid, layout.merge)
    for number, segment in enumerate(segments, start=1):
        text = [*segment.after, *segment.answer]
        # As at inference: the queries neither see padding in an answer nor count it.
        seen = [True] * len(segment.after) + [token != layout.padding for token in segment.answer]
        row.ids += [*text, *[layout.padding] * layout.queries]
        row.segment += [number] * (len(text) + layout.queries)
        row.seen += [*seen, *[True] * layout.queries]
        behind = start + sum(seen)
        steps = [*range(start, start + len(text)), *range(behind, behind + layout.queries)]
        row.positions.append(torch.tensor(steps).expand(3, -1))
    return row


def _slots(layout: Layout, rows: Sequence[_Row], length: int) -> Tensor:
    slots = torch.zeros(len(rows), length, dtype=torch.bool)
    for number, row in enumerate(rows):
        segment = torch.tensor(row.segment)
        last = torch.cat([segment[1:] != segment[:-1], torch.tensor([True])]) & (segment > 0)
        for end in last.nonzero().flatten().tolist():
            slots[number, end + 1 - layout.queries : end + 1] = True
    return slots


def _mask(segment_of: Tensor, seen: Tensor, slots: Tensor) -> Tensor:
    """Causal, inside a row's prefix and own segment; queries leave out what is not seen; everything sees itself."""
    length = segment_of.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    key, query = segment_of[:, None, :], segment_of[:, :, None]
    allowed = causal & (key >= 0) & ((key == 0) | (key == query))
    allowed &= seen[:, None, :] | ~slots[:, :, None]
    return (allowed | torch.eye(length, dtype=torch.bool))[:, None]


def _answers(
    layout: Layout, groups: Sequence[tuple[int, Sequence[Segment]]], rows: Sequence[_Row], length: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``queries_at``, ``read_at``, ``targets`` and ``real`` of a pack whose rows are ``length`` long."""
    count = sum(len(group) for _, group in groups)
    longest = max(1, max(len(s.answer) for _, group in groups for s in group))
    read_at = torch.zeros(count, longest, dtype=torch.long)
    targets, real = torch.zeros_like(read_at), torch.zeros(count, longest, dtype=torch.bool)
    queries_at = torch.zeros(count, layout.queries, dtype=torch.long)
    number = 0
    for row, (_, group) in enumerate(groups):
        at = row * length + rows[row].segment.count(0)
        for segment in group:
            size, first = len(segment.answer), at + len(segment.after)
            # A token is predicted by the one before it.
            read_at[number, :size] = torch.arange(first - 1, first + size - 1)
            targets[number, :size] = torch.tensor(segment.answer, dtype=torch.long)
            real[number, :size] = True
            at = first + size
            queries_at[number] = torch.arange(at, at + layout.queries)
            at += layout.queries
            number += 1
    return queries_at, read_at, targets, real
