"""The model as it trains: one module whose forward does everything that needs gradients.

Everything goes through ``forward``, because that is where the wrappers of several devices hook in. The reference policy
runs the same code on the same rows, so that with equal weights the KL divergence is exactly 0.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lens_bench.lens.images import Prepared
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.prompts import Prompter
from lens_bench.lens.sam import SamFeatures
from lens_bench.train.pack import Layout, Pack


@dataclass(frozen=True, slots=True)
class Sight:
    """One image for both towers; where a tower is frozen its features may be there already.

    Attributes:
        prepared: Sizes, and pixels for the towers that are not cached.
        visual: Visual tokens [n, D], or None.
        sam: SAM 2's features of this image, or None.
    """

    prepared: Prepared
    visual: Tensor | None = None
    sam: SamFeatures | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """Answers under the policy; [S, T], 0 where masked.

    Attributes:
        logps: Log-probability of each answer token, in float32, at the sampling temperature.
        entropy: Of the distribution that it was drawn from; without gradient.
    """

    logps: Tensor
    entropy: Tensor


@dataclass(frozen=True, slots=True)
class Soft:
    """Soft targets: at each answer token [S, T] the ids [S, T, K] that count, with weights [S, T, K]."""

    ids: Tensor
    weights: Tensor


@dataclass(frozen=True, slots=True)
class Outputs:
    """What one pass over a pack gives; a part is None where it was not asked for.

    Attributes:
        scored: Answers.
        masks: Logits [S, h, w] at the decoder's size.
    """

    scored: Scored | None
    masks: Tensor | None


def layout_of(model: LensModel, prompter: Prompter) -> Layout:
    """What ``pack`` has to know of a model."""
    config = model.config
    return Layout(
        prompter.before, model.image_token, config.padding, model.merge, config.head.queries, config.positions
    )


class Trainee(nn.Module):
    """A model in training.

    Args:
        lens: The model.
        probe: Further layers that train along and are thrown away (stage vision).
        chunk: Tokens whose vocabulary scores are in memory at once.
    """

    def __init__(self, lens: LensModel, probe: nn.Module | None = None, chunk: int = 1024) -> None:
        super().__init__()
        self.lens = lens
        self.probe = probe
        self.chunk = chunk

    def forward(
        self,
        sights: Sequence[Sight],
        pack: Pack | None = None,
        *,
        temperature: float = 1.0,
        texts: bool = True,
        masks: bool = True,
        soft: Soft | None = None,
        boxes: tuple[Tensor, Tensor] | None = None,
    ) -> Outputs | Tensor:
        """Read a pack, or decode masks from boxes, or run the probe on visual tokens.

        Args:
            sights: Images.
            pack: Rows to read.
            temperature: Scores are divided by it before the softmax.
            texts: Score the answers.
            masks: Decode the masks.
            soft: Soft targets in place of the answers themselves.
            boxes: Boxes [S, 4] in pixels of SAM's square and the image [S] of each (stage sam).
        """
        if boxes is not None:
            return self._from_boxes(sights, *boxes)
        visual = see(self.lens, sights)
        if pack is None:
            if self.probe is None:
                raise ValueError("nothing to do: neither rows nor boxes nor a probe")
            out: Tensor = self.probe(torch.stack(visual))
            return out
        hidden = read(self.lens, pack, visual)
        scored = score(self.lens, hidden, pack, temperature, self.chunk, soft) if texts else None
        if not masks:
            return Outputs(scored, None)
        prompts = self.lens.prompts(hidden[pack.queries_at])
        return Outputs(scored, self.lens.sam.masks(sam_features(self.lens, sights).rows(pack.image_of), prompts))

    def _from_boxes(self, sights: Sequence[Sight], boxes: Tensor, image_of: Tensor) -> Tensor:
        sam = self.lens.sam
        sparse, _ = sam.sam2.prompt_encoder(None, None, boxes[:, None], None)
        return sam.masks(sam_features(self.lens, sights).rows(image_of), sparse[:, 0])


# ---------------------------------------------------------------------------------------------- the towers


def see(lens: LensModel, sights: Sequence[Sight]) -> list[Tensor]:
    """Visual tokens of each image: those that are there, else by the vision tower."""
    ready = [sight.visual for sight in sights]
    if all(v is not None for v in ready):
        return [v.to(lens.device) for v in ready if v is not None]
    patches = torch.cat([s.prepared.patches for s in sights])
    return lens.see(patches, [s.prepared.grid for s in sights])


def sam_features(lens: LensModel, sights: Sequence[Sight]) -> SamFeatures:
    """SAM 2's features of the images; without gradients where its image encoder is frozen."""
    ready = [sight.sam for sight in sights]
    if all(f is not None for f in ready):
        found = SamFeatures.stack([f for f in ready if f is not None])
        return SamFeatures(*(t.to(lens.device) for t in (found.image, found.fine, found.middle)))
    embedding = lens.sam.sam2.no_memory_embedding
    squares = torch.stack([s.prepared.square for s in sights]).to(lens.device, embedding.dtype)
    with nullcontext() if embedding.requires_grad else torch.no_grad():
        return lens.sam.features(squares)


# ---------------------------------------------------------------------------------------------- the language model


def read(lens: LensModel, pack: Pack, visual: Sequence[Tensor]) -> Tensor:
    """Last hidden states [N, D] of every token of a pack."""
    embeds = lens.embed(pack.ids, [])
    pictures = torch.cat([visual[n] for n in pack.images]).to(embeds)
    embeds = embeds.masked_scatter(pack.picture.unsqueeze(-1), pictures)
    queries = lens.head.queries[0].to(embeds.dtype)
    embeds = embeds.masked_scatter(pack.slots.unsqueeze(-1), queries.repeat(len(pack.queries_at), 1))
    return lens.read(embeds, pack.positions, pack.spans)[0]


def score(
    lens: LensModel, hidden: Tensor, pack: Pack, temperature: float, chunk: int, soft: Soft | None = None
) -> Scored:
    """Log-probabilities and entropies of the answer tokens; scores of no other token are computed."""
    states = hidden[pack.read_at[pack.real]]
    if soft is None:
        ids, weights = pack.targets[pack.real].unsqueeze(1), hidden.new_ones(len(states), 1, dtype=torch.float32)
    else:
        ids, weights = soft.ids[pack.real], soft.weights[pack.real]
    logps, entropies = [], []
    for start in range(0, len(states), chunk):
        part = slice(start, start + chunk)
        arguments = (lens, states[part], ids[part], weights[part], temperature)
        if torch.is_grad_enabled() and len(states) > chunk:
            found = checkpoint(_score_chunk, *arguments, use_reentrant=False)
        else:
            found = _score_chunk(*arguments)
        logps.append(found[0])
        entropies.append(found[1])
    empty = torch.zeros(pack.real.shape, dtype=torch.float32, device=hidden.device)
    return Scored(
        empty.masked_scatter(pack.real, torch.cat(logps)), empty.masked_scatter(pack.real, torch.cat(entropies))
    )


def _score_chunk(
    lens: LensModel, states: Tensor, ids: Tensor, weights: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    # float32 from here on: a softmax in bfloat16 is off by as much as the KL divergence that it is used for.
    scores = torch.log_softmax(lens.logits(states).float() / temperature, dim=-1)
    with torch.no_grad():
        entropy = -(scores.exp() * scores).sum(dim=-1)
    return (scores.gather(1, ids) * weights).sum(dim=1), entropy


# ---------------------------------------------------------------------------------------------- the reference


class _Queries(nn.Module):
    """A copy of the context queries: what reading rows needs of the head."""

    def __init__(self, lens: LensModel) -> None:
        super().__init__()
        self.queries = nn.Parameter(lens.head.queries.detach().clone(), requires_grad=False)
        self.config = lens.head.config


def frozen_copy(lens: LensModel, chunk: int) -> Trainee:
    """The policy as it is now, for the KL divergence: language model and vision tower copied, no mask decoder."""
    twin = copy.copy(lens)
    twin._modules = {"qwen": copy.deepcopy(lens.qwen), "head": _Queries(lens)}
    return Trainee(twin.requires_grad_(False).eval(), chunk=chunk)
