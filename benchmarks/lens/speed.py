"""Expressions per second: our engine against the authors-style loop and against one ``generate`` per expression.

    python benchmarks/lens/speed.py                      # CPU, 20-60 M parameters, 8 images x 7 expressions
    python benchmarks/lens/speed.py --device cuda --size 3b --dtype bfloat16 --images 32 --json results/lens_h200.json

All run the same model with random weights and the same prompts in one process, and must give the same text and the
same masks; the answers are cut at ``--tokens`` tokens. Rounds alternate between them, so that other load on the machine
meets all alike; ``--clock cpu`` counts this process's processor time instead of the wall clock's.
The referents of the loop hold two to three expressions each, as in RefCOCO.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from lens_bench import masks
from lens_bench.lens.checkpoint import Precision, fresh, place
from lens_bench.lens.config import HeadConfig, LensConfig, Positions, sam_preset
from lens_bench.lens.engine import Answer, Engine
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.prompts import Prompter
from lens_bench.lens.random_weights import random_lens
from lens_bench.lens.recipe import Recipe
from lens_bench.lens.sizes import lens_3b
from lens_bench.lens.steps import DECODES, resolve
from lens_bench.lens.tiny import byte_tokenizer, lively, special_id, tiny_config, tiny_sam
from lens_bench.lens.writer import HfWriter, make_decoder
from lens_bench.records import BoolMask, Pixels, Rle

FLIPPED = 1e-3
TARGETS = {"cpu": {"lens-1d": 4.0, "mrope": 5.0}, "cuda": {"lens-1d": 10.0, "mrope": 10.0}}
_TOKENS = {
    "image_token_id": "image_pad",
    "video_token_id": "video_pad",
    "vision_start_token_id": "vision_start",
    "vision_end_token_id": "vision_end",
}
# RefCOCO, RefCOCO+ and RefCOCOg, all eight splits.
EIGHT_SPLITS = (9_900, 62_000)


def small_config(positions: Positions, tokens: int, sam_size: int) -> LensConfig:
    """About 50 M parameters: SAM 2 Hiera-T with a language model and tower of a few million."""
    return _config(
        positions,
        tokens,
        text={"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 8},
        heads=2,
        vision={
            "depth": 6,
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_heads": 4,
            "fullatt_block_indexes": [2, 5],
        },
        sections=[4, 6, 6],
        head=HeadConfig(queries=64, width=256, depth=4, heads=16),
        sam=sam_preset("sam2_hiera_t", sam_size),
    )


def full_config(positions: Positions, tokens: int, sam_size: int) -> LensConfig:
    """LENS-3B; only the tokenizer is ours, so ids and ends are those of the byte tokenizer."""
    recipe = Recipe(max_length=None, max_new_tokens=tokens)
    ids = {name: special_id(f"<|{word}|>") for name, word in _TOKENS.items()}
    padding = special_id("<|endoftext|>")
    config = lens_3b(positions, recipe)
    changes = {
        "qwen": {**config.qwen, **ids},
        "ends": (special_id("<|im_end|>"), padding),
        "padding": padding,
        "sam": sam_preset("sam2_hiera_l", sam_size),
    }
    return config.model_copy(update=changes)


def make_model(
    size: str, positions: Positions, tokens: int, sam_size: int, device: str, precision: Precision
) -> LensModel:
    """A model with random weights on its device; the full one is made there, 15 GB of float32 take their time."""
    if size == "3b":
        return random_lens(full_config(positions, tokens, sam_size or 1024), 0, device, precision)
    if size == "tiny":
        recipe = Recipe(max_pixels=112 * 112, max_length=None, max_new_tokens=tokens)
        config = tiny_config(positions, recipe=recipe).model_copy(update={"sam": tiny_sam(sam_size or 128)})
    else:
        config = small_config(positions, tokens, sam_size or 512)
    return place(lively(fresh(config, 0), 0), device, precision)


def _config(
    positions: Positions,
    tokens: int,
    text: dict[str, object],
    heads: int,
    vision: dict[str, object],
    sections: list[int],
    head: HeadConfig,
    sam: dict[str, object],
) -> LensConfig:
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}
    width = text["hidden_size"]
    qwen: dict[str, object] = {
        "text_config": {"vocab_size": 2048, **text, "num_key_value_heads": heads, "rope_parameters": rope},
        "vision_config": {**vision, "out_hidden_size": width},
        **{name: special_id(f"<|{word}|>") for name, word in _TOKENS.items()},
        "tie_word_embeddings": True,
    }
    padding = special_id("<|endoftext|>")
    return LensConfig(
        family="qwen2_5_vl",
        qwen=qwen,
        sam=sam,
        head=head,
        ends=(special_id("<|im_end|>"), padding),
        padding=padding,
        positions=positions,
        recipe=Recipe(max_length=None, max_new_tokens=tokens),
    )


@dataclass(frozen=True)
class Work:
    """Images, their referents, and each referent's expressions."""

    images: list[Pixels]
    referents: list[tuple[int, list[str]]]

    @property
    def asks(self) -> list[tuple[int, str]]:
        return [(image, text) for image, texts in self.referents for text in texts]


def make_work(images: int, expressions: int, seed: int = 0) -> Work:
    """COCO-sized noise pictures with made-up expressions of three to nine words."""
    rng = np.random.default_rng(seed)
    sizes = [(480, 640), (640, 480), (427, 640), (480, 640), (375, 500), (640, 425), (480, 640), (500, 333)]
    words = "left right red blue tall small man woman dog cat chair table with near behind the front hat ball".split()
    pictures, referents = [], []
    for n in range(images):
        height, width = sizes[n % len(sizes)]
        coarse = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        tall = np.repeat(coarse, -(-height // 12), axis=0)[:height]
        pictures.append(np.ascontiguousarray(np.repeat(tall, -(-width // 12), axis=1)[:, :width]))
        texts = [" ".join(rng.choice(words, size=rng.integers(3, 10))) for _ in range(expressions)]
        at = 0
        while at < expressions:
            step = 3 if (expressions - at) % 2 else 2
            referents.append((n, texts[at : at + step]))
            at += step
    return Work(pictures, referents)


def peer(name: str) -> ModuleType:
    """A module beside this one."""
    spec = importlib.util.spec_from_file_location(f"lens_{name}", Path(__file__).parent / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[f"lens_{name}"] = module
    spec.loader.exec_module(module)
    return module


def timed(work: Callable[[], object], device: torch.device, clock: str) -> float:
    read = time.process_time if clock == "cpu" else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = read()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return read() - begin


def executed_flops(engine: Engine, work: Work) -> float:
    """Operations that the engine executes for one expression: matrix products and attention, by torch's counter."""
    few = work.asks[: 2 * len(work.asks) // max(1, len(work.images))]
    with FlopCounterMode(display=False) as counter:
        engine.answer(work.images, few)
    return counter.get_total_flops() / len(few)


def engine_of(model: LensModel, prompter: Prompter, decode: str) -> Engine:
    """The engine with one of the ways of decoding."""
    decoder = make_decoder(model, resolve(decode, model.device))
    mrope = model.config.positions == "mrope"
    return Engine(model, prompter, HfWriter(model, prompter.ends, prompter.padding, mrope, decoder=decoder))


def pixels_of(mask: Rle | BoolMask) -> BoolMask:
    """A mask of ours is encoded, one of a peer is not."""
    return masks.decode(mask) if isinstance(mask, Rle) else mask


def compare(
    model: LensModel, work: Work, rounds: int, clock: str = "wall", decodes: Sequence[str] = ("auto",)
) -> dict[str, object]:
    """Run all in turn; check that they agree; give speeds and the ratios of every round.

    The first way of decoding is the engine that the peers are compared with; others run beside it.
    """
    prompter = Prompter(model.config.recipe, byte_tokenizer(), frozenset(model.config.ends), model.config.padding)
    engines = {decode: engine_of(model, prompter, decode) for decode in decodes}
    engine, authors, plain = engines[decodes[0]], peer("authors_loop"), peer("generate_loop")
    stages: dict[str, dict[str, float]] = {}
    prepared = dict.fromkeys(decodes, 0.0)

    def run_engine(some: Work, decode: str = decodes[0]) -> Sequence[Answer]:
        found = engines[decode].answer(some.images, some.asks)
        stages[decode] = dict(engines[decode].seconds)
        prepared[decode] += stages[decode].get("compile", 0.0)
        return found

    def run_loop(some: Work) -> Sequence[Answer]:
        pairs = some.referents
        return [r for n, texts in pairs for r in authors.segment_referent(model, prompter, some.images[n], texts)]

    def run_plain(some: Work) -> Sequence[Answer]:
        return [plain.segment(model, prompter, some.images[n], text) for n, text in some.asks]

    sides: dict[str, Callable[[Work], Sequence[Answer]]] = {
        "engine": run_engine,
        **{f"engine {decode}": partial(run_engine, decode=decode) for decode in decodes[1:]},
        "loop": run_loop,
        "generate": run_plain,
    }
    few = Work(work.images[:1], [r for r in work.referents if r[0] == 0][:1])
    for run in sides.values():
        run(few)
    for decode in decodes:
        if resolve(decode, model.device) != "eager":  # steps of the sizes that come are compiled or recorded here
            run_engine(work, decode)
    answers: dict[str, Sequence[Answer]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in sides}

    def turn(name: str) -> None:
        answers[name] = sides[name](work)

    for number in range(rounds):
        for name in list(sides) if number % 2 == 0 else list(sides)[::-1]:
            seconds[name].append(timed(partial(turn, name), model.device, clock))
    count, ours = len(work.asks), answers["engine"]
    ratios = {
        name: [b / a for a, b in zip(seconds["engine"], times, strict=True)]
        for name, times in seconds.items()
        if name != "engine"
    }
    return {
        "expressions": count,
        "answer_tokens_mean": statistics.mean(len(a.ids) for a in ours),
        **{f"{name}_per_second": count / min(times) for name, times in seconds.items()},
        "ratios": ratios["loop"],
        "ratio": statistics.median(ratios["loop"]),
        "generate_ratios": ratios["generate"],
        "generate_ratio": statistics.median(ratios["generate"]),
        "texts_that_differ": sum(a.ids != b.ids for n in ratios for a, b in zip(ours, answers[n], strict=True)),
        "largest_share_of_flipped_pixels": max(
            float(np.mean(masks.decode(a.mask) != pixels_of(b.mask)))
            for name in ratios
            for a, b in zip(ours, answers[name], strict=True)
            if a.mask is not None
        ),
        "stage_seconds": stages[decodes[0]],
        "decoding": [
            {
                "way": resolve(decode, model.device),
                "per_second": count / min(seconds["engine" if decode == decodes[0] else f"engine {decode}"]),
                "answer_seconds": stages[decode]["answer"],
                "compile_seconds": prepared[decode],
            }
            for decode in decodes
        ],
        "flops_per_expression": executed_flops(engine, work),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--size", default="small", choices=["tiny", "small", "3b"])
    parser.add_argument("--positions", nargs="+", default=["lens-1d", "mrope"], choices=["lens-1d", "mrope"])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--expressions", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument(
        "--sam-size",
        type=int,
        default=0,
        help="Input side of SAM 2: 128 (tiny), 512 (small) or 1024 (3b) unless given.",
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of all sides.")
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"])
    parser.add_argument(
        "--decode",
        default="auto",
        help=f"Ways of decoding, with commas, measured in one run: auto, {', '.join(DECODES)}. Peers meet the first.",
    )
    parser.add_argument("--peak-tflops", type=float, default=0.0, help="Of the device, for the utilisation.")
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    work, failed = make_work(args.images, args.expressions), False
    report: dict[str, object] = {
        "device": torch.cuda.get_device_name() if args.device.startswith("cuda") else platform.processor(),
        "torch": torch.__version__,
        "arguments": {k: str(v) for k, v in vars(args).items()},
    }
    for positions in args.positions:
        dtype = getattr(torch, args.dtype)
        model = make_model(
            args.size, positions, args.tokens, args.sam_size, args.device, Precision(dtype, dtype, dtype)
        )
        found = compare(model, work, args.rounds, args.clock, args.decode.split(","))
        parameters = sum(p.numel() for p in model.parameters())
        target = TARGETS["cpu" if args.device == "cpu" else "cuda"][positions]
        print(f"\n{positions}: {parameters / 1e6:.1f} M parameters, {found['expressions']} expressions")
        for key in (
            "engine_per_second",
            "loop_per_second",
            "generate_per_second",
            "ratio",
            "generate_ratio",
            "texts_that_differ",
            "largest_share_of_flipped_pixels",
        ):
            print(f"  {key:34s} {found[key]:.4g}")
        for key, name in (("ratios", "loop"), ("generate_ratios", "generate")):
            spread = ", ".join(f"{r:.2f}" for r in found[key])  # type: ignore[attr-defined]
            print(f"  rounds against {name:19s} {spread}")
        for way in found["decoding"]:  # type: ignore[attr-defined]
            print(
                f"  decoding {way['way']:26s} {way['per_second']:.4g}/s, answers {way['answer_seconds']:.3f} s, "
                f"compiled or recorded in {way['compile_seconds']:.2f} s"
            )
        print(f"  target                             {target:g}x")
        for stage, s in found["stage_seconds"].items():  # type: ignore[attr-defined]
            print(f"    {stage:32s} {s:.3f} s")
        speed, flops = float(found["engine_per_second"]), float(found["flops_per_expression"])  # type: ignore[arg-type]
        minutes = EIGHT_SPLITS[1] / speed / 60
        print(f"  eight RefCOCO splits at this speed {minutes:.1f} min")
        print(f"  executed FLOPs per second          {flops * speed / 1e12:.2f} T")
        if args.peak_tflops:
            found["flops_utilisation"] = flops * speed / 1e12 / args.peak_tflops
            print(f"  share of the peak                  {found['flops_utilisation']:.3f}")
        exact = args.dtype == "float32"
        wrong = exact and (
            bool(found["texts_that_differ"]) or float(found["largest_share_of_flipped_pixels"]) > FLIPPED
        )  # type: ignore[arg-type]
        failed |= wrong or float(found["ratio"]) < target  # type: ignore[arg-type]
        report[positions] = {**found, "parameters": parameters, "target": target, "minutes_for_eight_splits": minutes}
        del model
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
