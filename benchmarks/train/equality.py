"""Do both trainers compute the same thing? TRL samples; both score those answers, with gradients.

The reference is moved away from the policy first: with equal weights the KL divergence is 0, whatever its formula.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from task import Task, expressions
from torch import Tensor

from lens_bench.lens.positions import image_tokens
from lens_bench.train import grpo
from lens_bench.train.loop import Training
from lens_bench.train.pack import Segment, pack
from lens_bench.train.trainee import Outputs

if TYPE_CHECKING:
    from trl import GRPOTrainer

MOVED = 0.3


def check(training: Training, trainer: GRPOTrainer, task: Task) -> dict[str, float]:
    """Largest differences between both sides on the answers of one step; all weights are put back.

    Raises:
        AssertionError: They are not given the same prompts or do not hold the same weights.
    """
    lens = training.shop.lens
    theirs, ours = trainer.model, lens.qwen
    theirs.to(lens.device)
    assert all(
        torch.equal(p, q) for (_, p), (_, q) in zip(theirs.named_parameters(), ours.named_parameters(), strict=True)
    )
    references: list[torch.nn.Module] = []
    if task.beta:
        assert training.shop.reference is not None
        references = [trainer.ref_model, training.shop.reference.lens.qwen]
    kept = [_move(model) for model in references]
    theirs.train()
    rows = [row for n in range(task.groups) for row in [trainer.train_dataset[n]] * task.members]
    trainer.current_gradient_accumulation_steps = 1
    inputs = trainer._generate_and_score_completions(rows)
    their_loss = trainer._compute_loss(theirs, inputs)
    their_loss.backward()
    our_loss, logps, reference = _ours(training, inputs, task)
    our_loss.backward()  # type: ignore[no-untyped-call]
    mask = inputs["completion_mask"].bool()
    with torch.no_grad():
        keys = ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")
        their_logps, _, _ = trainer._get_per_token_logps_and_entropies(
            theirs,
            torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
            torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
            mask.shape[1],
            **{key: inputs[key] for key in keys if key in inputs},
        )
    found = {
        "their_loss": float(their_loss.detach()),
        "our_loss": float(our_loss.detach()),
        "loss": abs(float((their_loss - our_loss).detach())),
        "logps": _largest(logps.detach(), their_logps, mask),
        "gradient": _gradients(ours, theirs),
    }
    if reference is not None:
        found["reference"] = _largest(reference, inputs["ref_per_token_logps"], mask)
    ours.zero_grad()
    theirs.zero_grad()
    for model, weights in zip(references, kept, strict=True):
        model.load_state_dict(weights)
    return found


def _ours(training: Training, inputs: dict[str, Tensor], task: Task) -> tuple[Tensor, Tensor, Tensor | None]:
    """Our loss of their answers with their advantages."""
    shop = training.shop
    items = [shop.data.units[n].items for n in range(task.groups)]
    sights = shop.album.sights([item[0] for item in items])
    prompts = [shop.prompter.after(text) for text in expressions(task)[: task.groups]]
    for number, (sight, after) in enumerate(zip(sights, prompts, strict=True)):
        count = image_tokens(sight.prepared.grid, shop.lens.merge)
        wanted = [*shop.prompter.before, *[shop.lens.image_token] * count, *after]
        row = number * task.members
        given = inputs["prompt_ids"][row][inputs["prompt_mask"][row].bool()].tolist()
        assert given == wanted, "both sides ask differently"
    answers = [
        tuple(ids[mask.bool()].tolist())
        for ids, mask in zip(inputs["completion_ids"], inputs["completion_mask"], strict=True)
    ]
    asked = [
        [Segment(after, answer) for answer in answers[n * task.members : (n + 1) * task.members]]
        for n, after in enumerate(prompts)
    ]
    packed = pack(replace(shop.layout, queries=0), [s.prepared.grid for s in sights], asked).to(shop.device)
    out = shop.trainee(sights, packed, masks=False)
    reference = None
    if shop.reference is not None:
        with torch.no_grad():
            read = shop.reference(sights, packed, masks=False)
        assert isinstance(read, Outputs) and read.scored is not None
        reference = read.scored.logps
    loss = grpo.token_loss(
        out.scored.logps,
        out.scored.logps.detach(),
        inputs["advantages"],
        packed.real,
        reference=reference,
        beta=task.beta,
    )
    settings = shop.recipe.grpo
    assert settings is not None
    total = grpo.reduce_loss(
        loss,
        packed.real,
        settings.loss_type,
        sequences=len(answers),
        tokens=int(packed.real.sum()),
        max_tokens=task.tokens,
    )
    return total, out.scored.logps, reference


@torch.no_grad()
def _move(model: torch.nn.Module) -> dict[str, Tensor]:
    """Disturb a model, equally on both sides; returns what it was."""
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter)
        parameter.add_(noise * parameter.std(), alpha=MOVED)
    return kept


def _largest(a: Tensor, b: Tensor, mask: Tensor) -> float:
    return float((a - b)[mask].abs().max())


def _gradients(ours: torch.nn.Module, theirs: torch.nn.Module) -> float:
    """Norm of the difference of the gradients over their norm."""
    pairs = [(p.grad, q.grad) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True)]
    assert all((a is None) == (b is None) for a, b in pairs), "one side trains what the other does not"
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    apart = sum(float((a - b).square().sum()) for a, b in both)
    return math.sqrt(apart / sum(float(b.square().sum()) for _, b in both))
