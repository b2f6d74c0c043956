"""Where the time of one call goes at full size, by the processor's clock: for a machine that is small or busy.

    python benchmarks/run/one_call.py --model qwen2.5-vl-3b+sam2 --image-size 320x240
    python benchmarks/run/one_call.py --model lisa-7b --layers 8 --arg mode=generated

`lens-bench profile --random-weights` is the measurement proper: it warms up, repeats, and gives intervals by the wall
clock. This asks one expression about one picture, once, and counts processor seconds of this process, which other load
leaves alone but for caches. Weights are a small block of noise over and over, since drawing billions of numbers takes
longer than the call. ``--layers`` leaves out blocks of the language model where memory is short.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from lens_bench.lens import random_weights
from lens_bench.llava_sam import random_weights as llava
from lens_bench.perf.clock import StageClock
from lens_bench.perf.hardware import peak_rss_mb
from lens_bench.perf.knobs import image_size
from lens_bench.records import ImageTask, ModelOptions, Query
from lens_bench.registry import find_model, make_segmenter, resolve_args
from lens_bench.vlm import random_weights as vlm

# What is not the model.
HOST = ("resize", "prompt", "other")


class ProcessorClock(StageClock):
    """Stages by the processor time of this process."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.process_time()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.process_time() - start


def repeat(value: Tensor, leaf: str, _: torch.Generator) -> None:
    """As ``random_weights.draw`` fills a tensor, with one block of noise over and over."""
    if not value.is_floating_point():
        value.zero_()
    elif value.ndim < 2:
        value.fill_(float(leaf.endswith("weight")))
    else:
        flat, noise = value.view(-1), torch.randn(min(value.numel(), 2**16)) / value[0].numel() ** 0.5
        for start in range(0, len(flat), len(noise)):
            flat[start : start + len(noise)] = noise[: len(flat) - start]


def fewer_layers(layers: int) -> None:
    """Cut all shapes that are known by name."""
    for shape in vlm._SHAPES.values():
        cast("dict[str, Any]", shape.config["text_config"])["num_hidden_layers"] = layers
    for size in llava._SIZES.values():
        cast("dict[str, int]", size)["num_hidden_layers"] = layers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-vl-3b+sam2")
    parser.add_argument("--arg", action="append", default=[], help="key=value of the card")
    parser.add_argument("--image-size", default="640x480")
    parser.add_argument("--new-tokens", type=int, default=8)
    parser.add_argument("--layers", type=int, help="of the language model; default: all")
    parser.add_argument("--dtype", default="bfloat16")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    vars(random_weights)["_fill"] = repeat
    StageClock.stage = ProcessorClock.stage  # type: ignore[assignment, method-assign]
    if asked.layers:
        fewer_layers(asked.layers)
    card = find_model(asked.model)
    args = resolve_args(card, dict(pair.split("=", 1) for pair in asked.arg))
    model: Any = make_segmenter(card, ModelOptions(card.name, str(card.folder), args, dtype=asked.dtype))
    model.force_length(asked.new_tokens)
    report = model.load_random(0)
    size = image_size(asked.image_size)
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    task = ImageTask("i", size, (Query("q", "the second thing from the left"),), pixels)
    begin = time.process_time()
    (answer,) = model.segment([task])
    whole = time.process_time() - begin
    show(answer.stages_ms, model.costs([task], [answer]), whole)
    print(f"{report.parameters / 1e9:.2f} billion parameters in {asked.dtype}, one thread, ", end="")
    print(f"answer {answer.status} of {answer.tokens.completion} tokens, peak memory {peak_rss_mb():.0f} MB")


def show(stages_ms: Mapping[str, float], costs: Mapping[str, Any], whole: float) -> None:
    seconds = {name: ms / 1e3 for name, ms in stages_ms.items()}
    seconds["other"] = whole - sum(seconds.values())
    print(f"{'stage':20s}{'CPU s':>9s}{'share':>9s}{'GFLOP':>10s}{'GFLOP/s':>10s}")
    for name, spent in seconds.items():
        flops = costs[name].flops / 1e9 if name in costs else 0.0
        rate = f"{flops:10.4g}{flops / spent:10.4g}" if flops and spent else ""
        print(f"{name:20s}{spent:9.3f}{spent / whole:9.2%}{rate}")
    host = sum(spent for name, spent in seconds.items() if name in HOST)
    print(f"{'all':20s}{whole:9.3f}\nnot the model: {host:.3f} s, {host / whole:.2%}")


if __name__ == "__main__":
    main()
