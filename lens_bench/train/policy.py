"""Stage 2: group-relative policy optimisation of the answer, together with the mask loss of every rollout.

One forward with gradients per rollout gives the log-probabilities and the masks; rewards are computed from both, so the
mask reward costs nothing. A group shares its image, expression and prompt, and is never split over micro batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat

import torch
from torch import Tensor

from lens_bench import masks as box_maths
from lens_bench.errors import RunError
from lens_bench.train import grpo
from lens_bench.train.album import Truth, truth_of, uses
from lens_bench.train.config import Grpo
from lens_bench.train.data import Draw, Item, Order
from lens_bench.train.history import History
from lens_bench.train.lora import disabled
from lens_bench.train.meter import summed
from lens_bench.train.pack import Pack, Segment, pack
from lens_bench.train.rewards import Judged, Rewards, answer_box, target_reward
from lens_bench.train.rollout import Ask, Rollout, Sampler
from lens_bench.train.supervised import Compared, compare
from lens_bench.train.trainee import Outputs, Scored, Sight, Trainee
from lens_bench.train.workshop import Workshop


@dataclass(frozen=True, slots=True)
class Batch:
    """Some groups of a step, with their rollouts.

    Attributes:
        sights: Images, one per group.
        items: What each group is about.
        rollouts: Of each group.
        truths: Of each group.
        pack: Rows of all rollouts.
        sequences: Rollouts of the whole step, over all ranks.
        tokens: Tokens of them.
    """

    sights: Sequence[Sight]
    items: Sequence[Item]
    rollouts: Sequence[Sequence[Rollout]]
    truths: Sequence[Truth]
    pack: Pack
    sequences: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Group:
    """A draw with its sampled answers."""

    draw: Draw
    sight: Sight
    ask: Ask
    rollouts: Sequence[Rollout]


class Policy:
    """GRPO with a mask loss; without one where neither the recipe nor a reward asks for masks (``album.uses``)."""

    def __init__(self, shop: Workshop, config: Grpo, sampler: Sampler) -> None:
        self._shop = shop
        self._config = config
        self._sampler = sampler
        self._rewards = Rewards(config.rewards)
        self.history = History(self._rewards.lengths)
        self._masks = uses(shop.recipe)[1] != "unused"
        # The queries are only read for masks.
        self._layout = shop.layout if self._masks else replace(shop.layout, queries=0)
        self._order = Order(shop.data.units, shop.recipe.data, shop.recipe.batch.units, shop.recipe.seed)

    def close(self) -> None:
        """Let go of the sampler."""
        self._sampler.close()

    # ------------------------------------------------------------------------------------------ rollouts

    def losses(self, draws: Sequence[Draw]) -> list[Callable[[], Tensor]]:
        """See ``Objective``."""
        with self._shop.whole():
            self._sampler.sync()
            batches = self._batches(self._redrawn(self._sample(draws)))
            self._sampler.rest()
        return [partial(self._loss, batch) for batch in batches]

    def _sample(self, draws: Sequence[Draw]) -> list[Group]:
        """Sample a rank's share of a step with the weights as they are now."""
        shop = self._shop
        sights = shop.album.sights([draw.items[0] for draw in draws])
        asks = [self._ask(draw, sight) for draw, sight in zip(draws, sights, strict=True)]
        with shop.autocast():
            rollouts = self._sampler.sample(asks, self._config.num_generations, shop.recipe.seed)
        return [Group(*parts) for parts in zip(draws, sights, asks, rollouts, strict=True)]

    def _redrawn(self, groups: list[Group]) -> list[Group]:
        """Groups of equal rewards replaced by others, as often as ``grpo.redraws`` allows (DAPO, section 3.2).

        What stands in is a function of seed, place and attempt. Ranks do not wait for each other here: each replaces
        its own groups with weights that it holds as a whole.
        """
        if not self._config.redraws:
            return groups
        flat, redrawn = self._flat(groups), 0
        for attempt in range(self._config.redraws):
            places = [place for place, is_flat in enumerate(flat) if is_flat]
            draws = {place: self._order.redraw(groups[place].draw.place, attempt) for place in places}
            # An image that cannot be read costs an attempt.
            usable = {p: d for p, d in draws.items() if self._shop.album.failure(d.items[0]) is None}
            if not usable:
                continue
            redrawn += len(usable)
            found = self._sample(list(usable.values()))
            for place, group, is_flat in zip(usable, found, self._flat(found), strict=True):
                groups[place], flat[place] = group, is_flat
        self._shop.meter.add("rate/redrawn", redrawn, len(groups))
        return groups

    @torch.no_grad()
    def _flat(self, groups: Sequence[Group]) -> list[bool]:
        """Whether each group's rewards are equal, from a pass of its own."""
        shop, found = self._shop, list[bool]()
        reader = Trainee(shop.lens)  # no wrapper: other ranks may have nothing to read
        for batch in self._lay_out(groups, 0, 0):
            with shop.autocast():
                out = reader(batch.sights, batch.pack, texts=False) if self._masks else None
            judged = self._judge(batch, self._compare(batch, out.masks if isinstance(out, Outputs) else None))
            values = self.history.ranked(self._rewards(judged))
            table = torch.tensor(self._rewards.total(values)).view(len(batch.items), -1)
            found += grpo.flat_groups(table).tolist()
        return found

    def _batches(self, groups: Sequence[Group]) -> list[Batch]:
        """The micro batches of a rank's share of a step."""
        accelerator = self._shop.accelerator
        sequences = summed(accelerator, len(groups) * self._config.num_generations)
        tokens = summed(accelerator, sum(len(r.ids) for group in groups for r in group.rollouts))
        return self._lay_out(groups, sequences, tokens)

    def _lay_out(self, groups: Sequence[Group], sequences: int, tokens: int) -> list[Batch]:
        made, size = [], self._shop.recipe.batch.micro
        for start in range(0, len(groups), size):
            part = groups[start : start + size]
            asked = [[Segment(group.ask.after, rollout.ids) for rollout in group.rollouts] for group in part]
            sights, items = [group.sight for group in part], [group.draw.items[0] for group in part]
            grids = [sight.prepared.grid for sight in sights]
            packed = pack(self._layout, grids, asked, share=self._config.share_prefix).to(self._shop.device)
            truths = [truth_of(item.sample.truth) for item in items]
            made.append(Batch(sights, items, [group.rollouts for group in part], truths, packed, sequences, tokens))
        return made

    def _ask(self, draw: Draw, sight: Sight) -> Ask:
        expression, prompter = draw.items[0].sample.expression, self._shop.prompter
        return Ask(sight, prompter.after(expression), prompter.after_text(expression), draw.place)

    # ------------------------------------------------------------------------------------------ the loss

    def _loss(self, batch: Batch) -> Tensor:
        """A micro batch's share of the step's loss."""
        shop, config, mask = self._shop, self._config, self._shop.recipe.mask
        out = shop.trainee(batch.sights, batch.pack, temperature=config.temperature, masks=self._masks)
        if not isinstance(out, Outputs) or out.scored is None or (out.masks is None and self._masks):
            raise TypeError("a pack was read for answers and masks, but one is missing")
        found = self._compare(batch, out.masks)
        judged = self._judge(batch, found)
        advantage = self._advantages(judged)
        reference = self._reference(batch)
        policy = config.weight * self._policy_loss(batch, out.scored, advantage, reference)
        self._note(batch, out.scored, judged, reference)
        if found is None:
            return policy
        each = found.loss.dice + found.loss.bce
        weights = torch.tensor([_correctness(j, mask.correctness) for j in judged], device=each.device)
        shop.meter.add("loss/dice", found.loss.dice.detach().sum(), len(judged))
        shop.meter.add("loss/bce", found.loss.bce.detach().sum(), len(judged))
        shop.meter.add("train/mask_iou", sum(j.mask_iou for j in judged), len(judged))
        return policy + mask.weight * (weights * each).sum() / batch.sequences

    def _compare(self, batch: Batch, logits: Tensor | None) -> Compared | None:
        """Masks of a batch beside their truths; None where none are decoded."""
        if logits is None:
            return None
        truths = [truth for truth in batch.truths for _ in range(self._config.num_generations)]
        return compare(logits, truths, batch.pack.image_of, self._shop.recipe.mask)

    def _policy_loss(self, batch: Batch, scored: Scored, advantage: Tensor, reference: Tensor | None) -> Tensor:
        """Every rollout is used once, so what sampled it is the policy itself: the ratio is 1, its gradient is not.

        vLLM samples with the same weights, but its own arithmetic. That difference is weighted, or with ``ratio_to:
        sampler`` it is the ratio, which the surrogate bounds.
        """
        config, real, old = self._config, batch.pack.real, scored.logps.detach()
        weight = None
        if config.ratio_to == "sampler":
            old = _sampled(batch)
        elif config.rollouts == "vllm" and config.importance_cap:
            weight = grpo.importance(old, _sampled(batch), real, config.importance_cap)
        losses = grpo.token_loss(
            scored.logps,
            old,
            advantage,
            real,
            reference=reference,
            beta=config.beta,
            weight=weight,
            low=config.epsilon,
            high=config.epsilon if config.epsilon_high is None else config.epsilon_high,
            kind=config.loss_type,
            level=config.importance_sampling_level,
        )
        return grpo.reduce_loss(
            losses,
            real,
            config.loss_type,
            sequences=batch.sequences,
            tokens=batch.tokens,
            max_tokens=config.max_completion_length,
        )

    def _advantages(self, judged: Sequence[Judged]) -> Tensor:
        """Advantages [S] within each group, from the weighted sum of rewards."""
        raw = self._rewards(judged)
        self.history.add(raw)
        values = self.history.ranked(raw)
        members = self._config.num_generations
        table = torch.tensor(self._rewards.total(values), dtype=torch.float32).view(-1, members)
        self._note_rewards(raw, table)
        return grpo.advantages(table, self._config.scale_rewards).flatten().to(self._shop.device)

    @torch.no_grad()
    def _reference(self, batch: Batch) -> Tensor | None:
        """Log-probabilities [S, T] under the start: the frozen copy, or the model without its adapters."""
        if not self._config.beta:
            return None
        shop = self._shop
        lora = shop.recipe.lora is not None
        reader = shop.trainee if lora else shop.reference
        if reader is None:
            raise ValueError("beta needs a reference policy")
        with disabled(shop.trainee) if lora else nullcontext(), shop.autocast():
            out = reader(batch.sights, batch.pack, temperature=self._config.temperature, masks=False)
        if not isinstance(out, Outputs) or out.scored is None:
            raise TypeError("the reference read a pack, but gave no log-probabilities")
        return out.scored.logps

    # ------------------------------------------------------------------------------------------ rewards

    def _judge(self, batch: Batch, compared: Compared | None) -> list[Judged]:
        shop = self._shop
        values = repeat(math.nan) if compared is None else iter(compared.iou.tolist())
        coordinates = shop.lens.config.recipe.coordinates
        found = []
        for sight, item, truth, group in zip(batch.sights, batch.items, batch.truths, batch.rollouts, strict=True):
            prompt, columns = shop.prompter.after_text(item.sample.expression), _columns(item, truth)
            for rollout in group:
                text = shop.prompter.text(rollout.ids)
                box = answer_box(text, sight.prepared.seen, sight.prepared.original, coordinates)
                value = next(values)
                more = {**columns, "mask_iou": value, "predicted_box": box}
                found.append(Judged(prompt, text, rollout.ids, box, truth.box, value, more))
        return found

    def measure(self, draws: Sequence[Draw]) -> list[float]:
        """Mean reward of each draw's rollouts as a share of the largest possible, without learning from them.

        NaN where nothing scored any of them.
        """
        shares: list[float] = []
        with self._shop.whole():
            batches = self._batches(self._sample(draws))
        with torch.no_grad():
            for batch in batches:
                out = self._shop.trainee(batch.sights, batch.pack, texts=False) if self._masks else None
                judged = self._judge(batch, self._compare(batch, out.masks if out is not None else None))
                totals = torch.tensor(self._rewards.total(self._rewards(judged))).view(len(batch.items), -1)
                shares += (totals.nanmean(dim=1) / max(self._rewards.largest, 1e-9)).clamp(0, 1).tolist()
        return shares

    # ------------------------------------------------------------------------------------------ numbers

    def _note_rewards(self, values: Mapping[str, Sequence[float]], table: Tensor) -> None:
        meter = self._shop.meter
        for name, column in values.items():
            known = [v for v in column if not math.isnan(v)]
            meter.add(f"reward/{name}", sum(known), len(known))
        scored = ~table.isnan()
        meter.add("reward/total", table.nansum(), int(scored.sum()))
        spread = [row[known].std() for row, known in zip(table, scored, strict=True) if known.sum() > 1]
        meter.add("reward/std_in_group", sum(spread), len(spread))
        meter.add("rate/flat_groups", grpo.flat_groups(table).sum(), len(table))
        if self._rewards.may_abstain:
            meter.add("rate/unscored", table.numel() - int(scored.sum()), table.numel())

    def _note(self, batch: Batch, scored: Scored, judged: Sequence[Judged], reference: Tensor | None) -> None:
        meter, real = self._shop.meter, batch.pack.real
        tokens = int(real.sum())
        ends = self._shop.prompter.ends
        meter.add("entropy", scored.entropy.sum(), tokens)
        meter.add("length/answer", tokens, len(judged))
        meter.add("length/read", batch.pack.tokens, len(judged))
        meter.add("rate/truncated", sum(j.ids[-1] not in ends for j in judged), len(judged))
        meter.add("rate/box_right", sum(_box_iou(j) > 0.5 for j in judged), len(judged))
        difference = (scored.logps.detach() - _sampled(batch))[real].abs().sum()
        meter.add("sampler_difference", difference, tokens)
        tolerance = self._config.sampler_tolerance
        if tolerance and float(difference) > tolerance * tokens:
            raise RunError(
                f"the sampler's log-probabilities are {float(difference) / tokens:.3g} nats a token off the trainer's",
                "its weights or positions are not the policy's; grpo.sampler_tolerance (0: off), or grpo.rollouts: hf",
            )
        if reference is not None:
            meter.add("kl", grpo.k3(scored.logps.detach(), reference)[real].sum(), tokens)


def _sampled(batch: Batch) -> Tensor:
    """Log-probabilities [S, T] as the sampler had them, 0 where masked."""
    real = batch.pack.real
    flat = torch.tensor([p for group in batch.rollouts for r in group for p in r.logps], device=real.device)
    return torch.zeros(real.shape, device=real.device).masked_scatter(real, flat)


def _box_iou(judged: Judged) -> float:
    if judged.box is None or judged.truth is None:
        return target_reward(judged.box, judged.truth)
    return box_maths.box_iou(judged.box, judged.truth)


def _correctness(judged: Judged, kind: str) -> float:
    """How much the decoder may learn from a rollout."""
    return _box_iou(judged) if kind == "box" else 1.0


def _columns(item: Item, truth: Truth) -> dict[str, object]:
    """What rewards of the user's own are told beside prompt and completion."""
    sample = item.sample
    return {
        "sample_id": sample.id,
        "image": sample.image.name,
        "expression": sample.expression,
        "rationale": item.rationale,
        "referent": item.referent,
        "box": truth.box,
    }
