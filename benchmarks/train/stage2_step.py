"""A step of stage 2 at full size with random weights: samples per second, share of the peak, memory.

    python benchmarks/train/stage2_step.py --json results/stage2.json             # LENS-3B on a GPU
    python benchmarks/train/stage2_step.py --size tiny                            # the same code on a CPU

The recipe is ``lens-3b-stage2``: eight answers to a prompt, format, box and mask rewards, dice and cross-entropy of
every mask, KL divergence to a frozen copy, float32 weights under bfloat16, activations recomputed. Speed does not
depend on the weights, but random ones hardly ever end an answer, so every answer has ``--tokens`` tokens.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from lens_side import units_of
from task import WORDS

from lens_bench.costs.language import Language
from lens_bench.costs.qwen_tower import tower_flops
from lens_bench.costs.sam2 import SamCosts
from lens_bench.lens.costs import head_flops, seen_grid
from lens_bench.lens.images import Patching
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.placing import Precision
from lens_bench.lens.positions import image_tokens
from lens_bench.lens.prompts import HubTokenizer
from lens_bench.lens.random_weights import random_lens, word_tokenizer
from lens_bench.lens.sizes import lens_3b
from lens_bench.lens.tiny import byte_tokenizer, tiny_config, tiny_model
from lens_bench.perf.ceilings import measure_ceilings
from lens_bench.perf.hardware import cpu_model, peak_rss_mb
from lens_bench.train.config import TrainRecipe
from lens_bench.train.data import TrainingData
from lens_bench.train.devices import make_accelerator
from lens_bench.train.loop import Training, Where
from lens_bench.train.policy import Policy
from lens_bench.train.recipe_files import load_recipe
from lens_bench.train.rollout import Ask, HfSampler, Rollout
from lens_bench.train.start import Start, as_trained
from lens_bench.train.usable import DataCheck

# Height and width of the pictures, about those of COCO.
SIDES = {"3b": (480, 640), "tiny": (84, 112)}


class Enough(Exception):
    """Ends the training behind the last step that is measured."""


class Steps:
    """Keeps what the trainer logs of its first steps."""

    def __init__(self, count: int) -> None:
        self.found: list[dict[str, float]] = []
        self._count = count

    def start(self, title: str, total: int, done: int) -> None:
        pass

    def step(self, values: Mapping[str, float]) -> None:
        self.found.append(dict(values))
        if len(self.found) == self._count:
            raise Enough

    def note(self, message: str) -> None:
        pass

    def stop(self) -> None:
        pass


class Timed:
    """The trainer's sampler, with the time that it takes."""

    def __init__(self, inner: HfSampler, device: torch.device) -> None:
        self._inner, self._device = inner, device
        self.seconds: list[float] = []

    def sync(self) -> None:
        self._inner.sync()

    def sample(self, asks: Sequence[Ask], members: int, seed: int) -> list[list[Rollout]]:
        wait(self._device)
        begin = time.perf_counter()
        found = self._inner.sample(asks, members, seed)
        wait(self._device)
        self.seconds.append(time.perf_counter() - begin)
        return found

    def rest(self) -> None:
        self._inner.rest()

    def close(self) -> None:
        self._inner.close()


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def recipe_of(size: str, groups: int, tokens: int, steps: int) -> TrainRecipe:
    """``lens-3b-stage2``, with made pictures and a shorter step."""
    changes: dict[str, object] = {
        "batch.units": groups,
        "grpo.max_completion_length": tokens,
        "optimiser.steps": steps + 1,
        "data.splits": ["made/train"],
        "data.held_out": [],
        "data.unit": "expression",
    }
    if size == "tiny":
        changes |= {"grpo.num_generations": 4, "runtime.precision": "no"}
    recipe = load_recipe("lens-3b-stage2", overrides=changes)
    assert isinstance(recipe, TrainRecipe)
    return recipe


def model_of(size: str, recipe: TrainRecipe, device: torch.device) -> tuple[LensModel, HubTokenizer]:
    """Random weights, made on the device; float32, as those that train are kept."""
    if size == "tiny":
        return tiny_model(as_trained(tiny_config(), recipe.model)).to(device), byte_tokenizer()
    config = as_trained(lens_3b("mrope"), recipe.model)
    return random_lens(config, recipe.seed, str(device), Precision()), word_tokenizer()


def training_of(size: str, recipe: TrainRecipe, out: Path, progress: Steps) -> tuple[Training, Timed]:
    accelerator = make_accelerator(recipe)
    lens, tokenizer = model_of(size, recipe, accelerator.device)
    lens.sam.sam2.mask_decoder.dynamic_multimask_via_stability = False
    rng = np.random.default_rng(0)
    count, (height, width) = recipe.batch.units * recipe.optimiser.steps, SIDES[size]
    pictures = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(count)]
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(3, 10))) for _ in range(count)]
    data = TrainingData(units_of(pictures, texts), {}, 0, {})
    check = DataCheck(accelerator, out, progress, fresh=True)
    training = Training(recipe, Where(out, out), accelerator, Start(lens, tokenizer, ()), data, check, progress)
    settings, shop = recipe.grpo, training.shop
    assert settings is not None
    sampler = Timed(
        HfSampler(lens, shop.prompter, settings.temperature, settings.max_completion_length), accelerator.device
    )
    training.objective = Policy(shop, settings, sampler)
    return training, sampler


def model_flops(training: Training, length: int) -> float:
    """Operations that a step with answers of ``length`` tokens needs, by the shapes of the model.

    A pass with gradients counts three times, once forward and twice backward; activations that are recomputed count
    once. Policy, reference and sampler each read a group's picture once, the sampler its question as well; every answer
    attends to what it stands behind and to itself. SAM 2's image encoder is frozen.
    """
    lens, recipe, prompter = training.shop.lens, training.recipe, training.shop.prompter
    settings, queries = recipe.grpo, lens.head.config.queries
    assert settings is not None
    qwen, members, passes = lens.qwen, settings.num_generations, 4 if settings.beta else 3
    language = Language.of(qwen.config.text_config, qwen.model.language_model.layers, qwen.lm_head, 4)
    total = 0.0
    for unit in training.shop.data.units[: recipe.batch.units]:
        sample = unit.items[0].sample
        height, width = sample.truth.size
        grid = seen_grid((height, width), lens.config.recipe, Patching(lens.patch, lens.merge))
        prefix = len(prompter.before) + image_tokens(grid, lens.merge)
        after = len(prompter.after(sample.expression))
        behind = after + length + queries
        once = language.read_flops(prefix, prefix) + members * language.read_flops(behind, prefix + behind)
        once += members * length * 2.0 * lens.width * language.vocabulary
        sampling = language.read_flops(prefix, prefix) + language.read_flops(after, prefix + after)
        sampling += language.write([(prefix + after, length)] * members).flops
        total += passes * once + sampling + (passes + 1) * tower_flops(qwen.config.vision_config, grid)
        total += 3 * members * head_flops(lens.head.config, lens.width)
    sam = SamCosts.of(lens.sam)
    return total + sam.images(recipe.batch.units).flops + 3 * sam.masks([1] * recipe.batch.units * members).flops


def measure(size: str, groups: int, tokens: int, steps: int) -> dict[str, object]:
    """Some steps; figures are those of the fastest behind the first."""
    recipe = recipe_of(size, groups, tokens, steps)
    progress = Steps(steps)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        training, sampler = training_of(size, recipe, Path(folder), progress)
        device = training.accelerator.device
        built = time.perf_counter() - begin
        with contextlib.suppress(Enough):
            training.run()
        training.close()
    cuda, settings = device.type == "cuda", recipe.grpo
    assert settings is not None
    steady = range(1, steps) if steps > 1 else range(1)
    best = min(steady, key=lambda n: progress.found[n]["seconds"])
    values, seconds = progress.found[best], progress.found[best]["seconds"]
    answers = groups * settings.num_generations
    dtype = "bfloat16" if recipe.runtime.precision == "bf16" else "float32"
    flops = model_flops(training, round(values["length/answer"]))
    ceiling = measure_ceilings(str(device), dtype).matmul_flops
    return {
        "parameters": sum(p.numel() for p in training.shop.lens.parameters()),
        "trained": sum(p.numel() for p in training.shop.lens.parameters() if p.requires_grad),
        "prompts": groups,
        "samples": answers,
        "answer_tokens": values["length/answer"],
        "precision": dtype,
        "built_s": built,
        "step_s": [line["seconds"] for line in progress.found],
        "sampling_s": sampler.seconds,
        "samples_per_second": answers / seconds,
        "sampling_share": sampler.seconds[best] / seconds,
        "flops_per_step": flops,
        "matmul_ceiling": ceiling,
        "mfu": flops / seconds / ceiling,
        "peak_allocated_gb": torch.cuda.max_memory_allocated() / 1e9 if cuda else None,
        "peak_reserved_gb": torch.cuda.max_memory_reserved() / 1e9 if cuda else None,
        "peak_rss_gb": peak_rss_mb() * 2**20 / 1e9,
        "logged": {k: values[k] for k in ("loss", "kl", "entropy", "grad_norm", "loss/dice", "sampler_difference")},
    }


def complaints(found: dict[str, object]) -> list[str]:
    """What cannot be: a step that has gone wrong must not become a figure."""
    logged = found["logged"]
    assert isinstance(logged, dict)
    wrong = [f"{name} is {value}" for name, value in logged.items() if not math.isfinite(value)]
    if not 0 < float(found["mfu"]) < 1:  # type: ignore[arg-type]
        wrong.append(f"a share of {found['mfu']} of the ceiling")
    if not float(logged["grad_norm"]) > 0:
        wrong.append("no gradient")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="3b", choices=sorted(SIDES))
    parser.add_argument("--prompts", type=int, default=0, help="Of a step; 8 (3b) or 2 (tiny) unless given.")
    parser.add_argument("--tokens", type=int, default=0, help="Of an answer; 128 (3b) or 12 (tiny) unless given.")
    parser.add_argument("--steps", type=int, default=3, help="The first warms up.")
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    small = args.size == "tiny"
    found = measure(args.size, args.prompts or (2 if small else 8), args.tokens or (12 if small else 128), args.steps)
    wrong = complaints(found)
    cuda = torch.cuda.is_available()
    report = {
        "device": torch.cuda.get_device_name() if cuda else cpu_model(),
        "versions": {"torch": torch.__version__},
        "size": args.size,
        **found,
        "complaints": wrong,
    }
    print(f"{found['samples_per_second']:.3g} samples/s, {100 * float(found['mfu']):.3g} % of the matmul ceiling")  # type: ignore[arg-type]
    for line in wrong:
        print(f"wrong: {line}")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
